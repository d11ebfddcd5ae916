// Decoders of each family small enough to print and to run without a checkpoint.
import { loraConfig } from "../../src/adapters/config.ts";
import { type AdapterModule, matchModules } from "../../src/adapters/match.ts";
import { asDecoder, type DecoderModel, forwardGraph, modelConfig, modulesOf } from "../../src/models/registry.ts";

/** The config of a language model from the content of its config.json; a model of another task is refused. */
export const decoderConfig = (json: unknown, file = "config.json"): DecoderModel => asDecoder(modelConfig(json, file), file);

const vision = {
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  image_size: 8,
  patch_size: 4,
};

/** Keys of config.json beside the shared ones, those by which a family differs. */
const familyKeys: Record<string, Record<string, unknown>> = {
  mistral: { sliding_window: 6 },
  qwen3: { head_dim: 8 },
  smollm3: { pad_token_id: 0, no_rope_layer_interval: 1 },
  phi3: { pad_token_id: 0, partial_rotary_factor: 0.5, head_dim: 8 },
  gemma: { head_dim: 8 },
  gemma2: { head_dim: 8, sliding_window: 6, query_pre_attn_scalar: 10, attn_logit_softcapping: 3, final_logit_softcapping: 5 },
  gemma3_text: { head_dim: 8, sliding_window: 6, sliding_window_pattern: 2, query_pre_attn_scalar: 10 },
  gpt2: { n_embd: 24, n_layer: 1, n_head: 4, n_inner: 40, n_positions: 64 },
  gpt_neox: { hidden_size: 32 },
  bloom: { n_head: 6, n_layer: 1 },
  mixtral: { num_local_experts: 3 },
  qwen2_moe: { num_experts: 3, num_experts_per_tok: 2, moe_intermediate_size: 12, shared_expert_intermediate_size: 20 },
  llava: { vision_config: vision, vision_feature_layer: -1 },
  idefics: {
    vision_config: vision,
    additional_vocab_size: 2,
    qk_layer_norms: true,
    use_resampler: true,
    perceiver_config: { resampler_n_latents: 3, resampler_depth: 1, resampler_n_heads: 2, resampler_head_dim: 10 },
  },
  idefics3: { vision_config: vision },
  smolvlm: { vision_config: vision },
};

/** A config whose dims are all different: a mistaken axis does not fit. */
export function tinyConfig(modelType: string, layers = 1): DecoderModel {
  const text = {
    vocab_size: 50,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: layers,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    tie_word_embeddings: true,
  };
  return decoderConfig({ model_type: modelType, ...text, text_config: text, ...familyKeys[modelType] });
}

/** The modules of `config` that an adapter with these options acts on. */
export const tinyModules = (config: DecoderModel, options: Parameters<typeof loraConfig>[0]): AdapterModule[] =>
  matchModules(modulesOf(forwardGraph(config)), loraConfig(options), config.modelType);
