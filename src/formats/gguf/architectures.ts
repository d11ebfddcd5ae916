// The architectures of GGUF that are read and written: the config.json of the same model, the names that Transformers has for its tensors,
// and what llama.cpp's converter (convert_hf_to_gguf.py, gguf-py's tensor_mapping.py) makes of them.
import type { StoredLayout } from "../stored.ts";
import { gpt2Keys, type Hyperparameters, llamaKeys } from "./hyperparameters.ts";
import type { Metadata } from "./metadata.ts";
import type { Rope } from "./rope.ts";
import type { VocabularyRules } from "./tokenizer.ts";
import type { GgufEntry } from "./writer.ts";

/** What a config.json says, beside what `openGguf` adds to all. */
type Config = Record<string, unknown>;

export interface Facts {
  metadata: Metadata;
  /** The architecture's name, which its keys begin with. */
  name: string;
  /** The shape of a tensor by GGUF's name; undefined if the file has none. */
  shapeOf(tensor: string): readonly number[] | undefined;
  rope: Rope;
}

export interface Architecture {
  /** The model types of Transformers that it is written for. */
  modelTypes: readonly string[];
  config(facts: Facts): Config;
  /** The metadata of a model: keys without the architecture's name. */
  keys(model: Hyperparameters): GgufEntry[];
  /** What of a model llama.cpp would not compute; undefined if it computes all. */
  lacks(model: Hyperparameters): string | undefined;
  /** GGUF's names of tensors and Transformers', without .weight and .bias. */
  outside: Record<string, string>;
  /** Those inside layer N: blk.N.x is `layers`.N.y. */
  layers: string;
  inside: Record<string, string>;
  /** What was done to a tensor, by Transformers' name. */
  layout?(name: string, config: Config): StoredLayout | undefined;
  vocabulary?: VocabularyRules;
}

/** Names that Llama's relatives share. */
const llamaNames = {
  outside: { token_embd: "model.embed_tokens", output_norm: "model.norm", output: "lm_head" },
  layers: "model.layers",
  inside: {
    attn_norm: "input_layernorm",
    attn_q: "self_attn.q_proj",
    attn_k: "self_attn.k_proj",
    attn_v: "self_attn.v_proj",
    attn_output: "self_attn.o_proj",
    ffn_norm: "post_attention_layernorm",
    ffn_gate: "mlp.gate_proj",
    ffn_up: "mlp.up_proj",
    ffn_down: "mlp.down_proj",
  },
};

/** Norms on query and key heads. */
const headNorms = { attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm" };

/** Keys that Llama's relatives share. */
function llamaConfig({ metadata, name, shapeOf, rope }: Facts): Config {
  const number = (key: string) => metadata.number(`${name}.${key}`);
  const required = (key: string) => metadata.required(`${name}.${key}`, number(key));
  const [hidden, heads] = [required("embedding_length"), required("attention.head_count")];
  const headDim = number("attention.key_length") ?? hidden / heads;
  return {
    vocab_size: shapeOf("token_embd.weight")?.[0],
    hidden_size: hidden,
    intermediate_size: required("feed_forward_length"),
    num_hidden_layers: required("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: number("attention.head_count_kv") ?? heads,
    head_dim: headDim,
    max_position_embeddings: required("context_length"),
    rms_norm_eps: required("attention.layer_norm_rms_epsilon"),
    ...rope(headDim),
  };
}

/** What llama.cpp fixes of Llama's relatives. */
const lacks = ({ slidingWindow, activation }: Hyperparameters): string | undefined => {
  if (activation !== "silu") return `the activation ${activation}`;
  return slidingWindow == null ? undefined : "a sliding window";
};

export const architectures: Record<string, Architecture> = {
  llama: {
    ...llamaNames,
    modelTypes: ["llama", "mistral"],
    keys: llamaKeys,
    lacks,
    config: (facts) => ({
      ...llamaConfig(facts),
      model_type: "llama",
      architectures: ["LlamaForCausalLM"],
      attention_bias: facts.shapeOf("blk.0.attn_q.bias") !== undefined,
      mlp_bias: facts.shapeOf("blk.0.ffn_up.bias") !== undefined,
    }),
    // ggml turns neighbours of a head where Transformers turns its two halves.
    layout(name, config) {
      const heads = /\.([qk])_proj\.\w+$/.exec(name)?.[1];
      if (!heads) return undefined;
      return { rotaryHeads: Number(config[heads === "q" ? "num_attention_heads" : "num_key_value_heads"]) };
    },
  },
  qwen2: {
    ...llamaNames,
    modelTypes: ["qwen2"],
    keys: llamaKeys,
    lacks,
    config: (facts) => ({ ...llamaConfig(facts), model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] }),
    vocabulary: { pre: "qwen2" },
  },
  qwen3: {
    ...llamaNames,
    modelTypes: ["qwen3"],
    keys: llamaKeys,
    lacks,
    inside: { ...llamaNames.inside, ...headNorms },
    config: (facts) => ({ ...llamaConfig(facts), model_type: "qwen3", architectures: ["Qwen3ForCausalLM"] }),
    vocabulary: { pre: "qwen2" },
  },
  gemma3: {
    ...llamaNames,
    modelTypes: ["gemma3_text"],
    keys: (model) => [...llamaKeys(model), ...gemma3Keys(model)],
    lacks: gemma3Lacks,
    inside: {
      ...llamaNames.inside,
      ...headNorms,
      post_attention_norm: "post_attention_layernorm",
      ffn_norm: "pre_feedforward_layernorm",
      post_ffw_norm: "post_feedforward_layernorm",
    },
    config: gemma3Config,
    // Transformers adds 1 to a norm's weight when it runs, llama.cpp when it converts.
    layout: (name) => (name.endsWith("norm.weight") ? { plus: -1 } : undefined),
    vocabulary: { inOrder: true },
  },
  phi3: {
    ...llamaNames,
    modelTypes: ["phi3"],
    keys: (model) => [...llamaKeys(model), ["attention.sliding_window", "uint32", model.slidingWindow ?? 0]],
    lacks: (model) => lacks({ ...model, slidingWindow: null }),
    inside: {
      attn_norm: "input_layernorm",
      attn_qkv: "self_attn.qkv_proj",
      attn_output: "self_attn.o_proj",
      ffn_norm: "post_attention_layernorm",
      ffn_up: "mlp.gate_up_proj",
      ffn_down: "mlp.down_proj",
    },
    config: (facts) => ({
      ...llamaConfig(facts),
      model_type: "phi3",
      architectures: ["Phi3ForCausalLM"],
      sliding_window: facts.metadata.number("phi3.attention.sliding_window") || null,
    }),
    vocabulary: { rightStrippedBut: ["<unk>", "<s>", "<|endoftext|>"] },
  },
  gpt2: {
    modelTypes: ["gpt2"],
    keys: gpt2Keys,
    lacks({ activation, scaleByHead = true, scaleByLayer = false }) {
      if (activation !== "geluTanh") return `the activation ${activation}`;
      return scaleByHead && !scaleByLayer ? undefined : "another scale of the attention scores";
    },
    outside: {
      token_embd: "transformer.wte",
      position_embd: "transformer.wpe",
      output_norm: "transformer.ln_f",
      output: "lm_head",
    },
    layers: "transformer.h",
    inside: {
      attn_norm: "ln_1",
      attn_qkv: "attn.c_attn",
      attn_output: "attn.c_proj",
      ffn_norm: "ln_2",
      ffn_up: "mlp.c_fc",
      ffn_down: "mlp.c_proj",
    },
    config({ metadata, shapeOf }) {
      const required = (key: string) => metadata.required(`gpt2.${key}`, metadata.number(`gpt2.${key}`));
      return {
        model_type: "gpt2",
        architectures: ["GPT2LMHeadModel"],
        vocab_size: shapeOf("token_embd.weight")?.[0],
        n_positions: required("context_length"),
        n_embd: required("embedding_length"),
        n_layer: required("block_count"),
        n_head: required("attention.head_count"),
        n_inner: required("feed_forward_length"),
        layer_norm_epsilon: required("attention.layer_norm_epsilon"),
      };
    },
    // Transformers' Conv1D has its weights as [in, out].
    layout: (name) => (/\.(c_attn|c_proj|c_fc)\.weight$/.test(name) ? { transposed: true } : undefined),
    vocabulary: { pre: "gpt-2" },
  },
};

/** Layers of the model whose scores are scaled by hidden size / heads, as llama.cpp counts them. */
const GEMMA_3_27B_LAYERS = 62;
/** Every so many-th layer sees all positions. */
const GEMMA_3_PATTERN = 6;
/** Rotary base of the layers with a window. */
const LOCAL_THETA = 10_000;

/** Layers from one that sees all positions to the next; 0 if they have no such order. */
function patternOf({ layerTypes = [] }: Hyperparameters): number {
  const first = layerTypes.indexOf("full_attention") + 1 || GEMMA_3_PATTERN;
  const isRegular = layerTypes.every((type, i) => (type === "full_attention") === ((i + 1) % first === 0));
  return isRegular ? first : 0;
}

function gemma3Keys(model: Hyperparameters): GgufEntry[] {
  const [pattern, local] = [patternOf(model), model.localRope?.theta ?? LOCAL_THETA];
  return [
    ...(model.slidingWindow ? [["attention.sliding_window", "uint32", model.slidingWindow] satisfies GgufEntry] : []),
    ...(pattern === GEMMA_3_PATTERN ? [] : [["attention.sliding_window_pattern", "uint32", pattern] satisfies GgufEntry]),
    ...(local === LOCAL_THETA ? [] : [["rope.freq_base_swa", "float32", local] satisfies GgufEntry]),
    ...(model.logitSoftcap ? [["final_logit_softcapping", "float32", model.logitSoftcap] satisfies GgufEntry] : []),
  ];
}

function gemma3Lacks(model: Hyperparameters): string | undefined {
  const { activation, attentionSoftcap, layers, hiddenSize, heads, headDim, scale } = model;
  if (activation !== "geluTanh") return `the activation ${activation}`;
  if (attentionSoftcap !== undefined) return "a cap of the attention scores";
  if (patternOf(model) === 0) return "this order of layers with a sliding window";
  const fixed = (layers === GEMMA_3_27B_LAYERS ? hiddenSize / heads : headDim) ** -0.5;
  return Math.abs(scale! / fixed - 1) < 1e-6 ? undefined : "another query_pre_attn_scalar than the dimensions of a head";
}

function gemma3Config(facts: Facts): Config {
  const config = llamaConfig(facts);
  const number = (key: string) => facts.metadata.number(`gemma3.${key}`);
  const [width, heads, layers] = [config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]];
  const window = number("attention.sliding_window") || null;
  return {
    ...config,
    model_type: "gemma3_text",
    architectures: ["Gemma3ForCausalLM"],
    query_pre_attn_scalar: layers === GEMMA_3_27B_LAYERS ? Number(width) / Number(heads) : config["head_dim"],
    final_logit_softcapping: number("final_logit_softcapping") ?? null,
    sliding_window: window,
    sliding_window_pattern: window === null ? 1 : (number("attention.sliding_window_pattern") ?? GEMMA_3_PATTERN),
    rope_theta: number("rope.freq_base") ?? 1_000_000,
    rope_local_base_freq: number("rope.freq_base_swa") ?? LOCAL_THETA,
  };
}
