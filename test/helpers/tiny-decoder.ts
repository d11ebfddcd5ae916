// Decoders of each family small enough to print and to run without a checkpoint.
import { loraConfig } from "../../src/lora/config.ts";
import { type AdapterModule, matchModules } from "../../src/lora/match.ts";
import { type DecoderConfig, decoderConfig, type ModelType } from "../../src/models/config.ts";
import { forwardGraph, modulesOf } from "../../src/models/registry.ts";

/** Keys of config.json beside the shared ones, those by which a family differs. */
const familyKeys: Record<ModelType, Record<string, unknown>> = {
  llama: {},
  mistral: { sliding_window: 6 },
  qwen2: {},
  qwen3: { head_dim: 8 },
};

/** A config whose dims are all different: a mistaken axis does not fit. */
export const tinyConfig = (modelType: ModelType, layers = 1): DecoderConfig =>
  decoderConfig({
    model_type: modelType,
    vocab_size: 50,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: layers,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    tie_word_embeddings: true,
    ...familyKeys[modelType],
  });

/** The modules of `config` that an adapter with these options acts on. */
export const tinyModules = (config: DecoderConfig, options: Parameters<typeof loraConfig>[0]): AdapterModule[] =>
  matchModules(modulesOf(forwardGraph(config)), loraConfig(options), config.modelType);
