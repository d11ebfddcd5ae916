// config.json of a decoder in Transformers' v4 or v5 keys → one normalised DecoderConfig, with Transformers' own defaults.
import { z } from "zod";
import { LowrankError, nearest } from "../errors.ts";
import { type RopeConfig, ropeConfig, ropeKeys } from "./rope-config.ts";
import {
  count,
  MAX_END_IDS,
  MAX_HEAD_DIM,
  MAX_HEADS,
  MAX_HIDDEN,
  MAX_INTERMEDIATE,
  MAX_LAYERS,
  MAX_POSITIONS,
  MAX_VOCAB,
  readJson,
  shown,
  tokenId,
} from "./schema.ts";

export type LayerType = "full_attention" | "sliding_attention";

/** A decoder's hyperparameters, complete: every default filled in, every cross-check done. */
export interface DecoderConfig {
  modelType: ModelType;
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  /** Key and value heads; divides `heads`. */
  kvHeads: number;
  /** Dimensions of one head; `heads * headDim` need not be `hiddenSize`. */
  headDim: number;
  hiddenAct: "silu";
  rmsNormEps: number;
  /** max_position_embeddings, times the factor of linear rope scaling, as inference servers count it. */
  maxPositions: number;
  tieWordEmbeddings: boolean;
  /** A bias on q_proj, k_proj and v_proj. */
  attentionBias: boolean;
  /** A bias on o_proj. */
  attentionOutputBias: boolean;
  /** A bias on gate_proj, up_proj and down_proj. */
  mlpBias: boolean;
  /** How many positions back, itself included, a token of a sliding layer sees. */
  slidingWindow: number | null;
  /** One per layer. */
  layerTypes: LayerType[];
  rope: RopeConfig;
  /** The dtype the weights were saved in, where the config says it. */
  dtype: "float32" | "float16" | "bfloat16" | null;
  bosId: number | null;
  eosIds: number[];
  padId: number | null;
}

/** What Transformers takes for an absent key and what it fixes in code: models/<family>/configuration_<family>.py. */
interface Family {
  vocabSize: number;
  intermediateSize: number;
  /** null: as many as heads. */
  kvHeads: number | null;
  /** null: hidden size / heads. */
  headDim: number | null;
  maxPositions: number;
  bosId: number | null;
  eosId: number | null;
  /** Which projections have a bias; "key": all of q, k, v, o when `attention_bias` says so. */
  attentionBias: "key" | "qkv" | "none";
  mlpBias: "key" | "none";
  /** "every": all layers slide when `sliding_window` is set; "layers": `layer_types`, or the layers from `max_window_layers` on. */
  window: "none" | "every" | "layers";
}

const families = {
  llama: {
    vocabSize: 32000,
    intermediateSize: 11008,
    kvHeads: null,
    headDim: null,
    maxPositions: 2048,
    bosId: 1,
    eosId: 2,
    attentionBias: "key",
    mlpBias: "key",
    window: "none",
  },
  mistral: {
    vocabSize: 32000,
    intermediateSize: 14336,
    kvHeads: 8,
    headDim: null,
    maxPositions: 131072,
    bosId: 1,
    eosId: 2,
    attentionBias: "none",
    mlpBias: "none",
    window: "every",
  },
  qwen2: {
    vocabSize: 151936,
    intermediateSize: 22016,
    kvHeads: 32,
    headDim: null,
    maxPositions: 32768,
    bosId: null,
    eosId: null,
    attentionBias: "qkv",
    mlpBias: "none",
    window: "layers",
  },
  qwen3: {
    vocabSize: 151936,
    intermediateSize: 22016,
    kvHeads: 32,
    headDim: 128,
    maxPositions: 32768,
    bosId: null,
    eosId: null,
    attentionBias: "key",
    mlpBias: "none",
    window: "layers",
  },
} as const satisfies Record<string, Family>;

export type ModelType = keyof typeof families;

/** The `model_type`s that can be read. */
export const modelTypes = Object.keys(families) as ModelType[];

/** `hidden_act` names of Transformers' ACT2FN that are built, under one name each. */
const activations: Record<string, DecoderConfig["hiddenAct"]> = { silu: "silu", swish: "silu" };

/** Layer type names of older configs. */
const layerTypeNames: Record<string, LayerType> = {
  full_attention: "full_attention",
  attention: "full_attention",
  sliding_attention: "sliding_attention",
};

const dtypeKey = z.enum(["float32", "float16", "bfloat16"]).nullish();

/** The keys that every family shares; `family` fills in what is absent. */
const decoderKeys = (family: Family) =>
  z.object({
    vocab_size: count(MAX_VOCAB).default(family.vocabSize),
    hidden_size: count(MAX_HIDDEN).default(4096),
    intermediate_size: count(MAX_INTERMEDIATE).default(family.intermediateSize),
    num_hidden_layers: count(MAX_LAYERS).default(32),
    num_attention_heads: count(MAX_HEADS).default(32),
    num_key_value_heads: count(MAX_HEADS).nullable().default(family.kvHeads),
    head_dim: count(MAX_HEAD_DIM).nullish(),
    hidden_act: z.string().default("silu"),
    rms_norm_eps: z.number().positive().max(1).default(1e-6),
    max_position_embeddings: count(MAX_POSITIONS).default(family.maxPositions),
    tie_word_embeddings: z.boolean().default(false),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.boolean().default(false),
    sliding_window: count(MAX_POSITIONS).nullable().default(4096),
    use_sliding_window: z.boolean().default(false),
    max_window_layers: z.number().int().min(0).max(MAX_POSITIONS).default(28),
    layer_types: z.array(z.string()).max(MAX_LAYERS).nullish(),
    dtype: dtypeKey,
    torch_dtype: dtypeKey,
    bos_token_id: tokenId.nullable().default(family.bosId),
    eos_token_id: z
      .union([tokenId, z.array(tokenId).max(MAX_END_IDS)])
      .nullable()
      .default(family.eosId),
    pad_token_id: tokenId.nullable().default(null),
    quantization_config: z.unknown().optional(),
    ...ropeKeys,
  });

/**
 * The parsed JSON of a config.json as a DecoderConfig. `file` is what errors call it.
 * Fails on a model type, quantization, activation or rope type that isn't built, on values out of range, and on
 * values that contradict each other.
 */
export function decoderConfig(json: unknown, file = "config.json"): DecoderConfig {
  const modelType = readModelType(json, file);
  const family: Family = families[modelType];
  const keys = readJson(decoderKeys(family), json, file);

  if (keys.quantization_config != null) {
    const { quant_method: method } = keys.quantization_config as { quant_method?: unknown };
    throw unsupported(file, "quantization_config", "checkpoints with quantized weights are not supported yet", {
      expected: "weights in float32, float16 or bfloat16",
      got: shown(method ?? keys.quantization_config),
      next: "Use the checkpoint that this one was quantized from.",
    });
  }
  const hiddenAct = Object.hasOwn(activations, keys.hidden_act) ? activations[keys.hidden_act] : undefined;
  if (!hiddenAct) {
    throw unsupported(file, "hidden_act", "this activation is not supported", {
      expected: Object.keys(activations).join(", "),
      got: shown(keys.hidden_act),
    });
  }

  const { hidden_size: hiddenSize, num_attention_heads: heads, vocab_size: vocabSize } = keys;
  const kvHeads = keys.num_key_value_heads ?? heads;
  if (heads % kvHeads !== 0) {
    throw contradiction(file, "num_key_value_heads", `a divisor of num_attention_heads ${heads}`, kvHeads);
  }
  const givenHeadDim = keys.head_dim ?? family.headDim;
  if (givenHeadDim === null && hiddenSize % heads !== 0) {
    throw contradiction(file, "hidden_size", `a multiple of num_attention_heads ${heads}, or head_dim beside it`, hiddenSize);
  }
  const headDim = givenHeadDim ?? hiddenSize / heads;
  if (headDim % 2 !== 0) throw contradiction(file, "head_dim", "an even number, since rotary embedding turns pairs", headDim);
  if (keys.pad_token_id !== null && keys.pad_token_id >= vocabSize) {
    throw contradiction(file, "pad_token_id", `an id below vocab_size ${vocabSize}`, keys.pad_token_id);
  }

  const rope = ropeConfig(keys, file);
  return {
    modelType,
    vocabSize,
    hiddenSize,
    intermediateSize: keys.intermediate_size,
    layers: keys.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    hiddenAct,
    rmsNormEps: keys.rms_norm_eps,
    maxPositions: Math.floor(keys.max_position_embeddings * (rope.type === "linear" ? rope.factor : 1)),
    tieWordEmbeddings: keys.tie_word_embeddings,
    attentionBias: family.attentionBias === "qkv" || (family.attentionBias === "key" && keys.attention_bias),
    attentionOutputBias: family.attentionBias === "key" && keys.attention_bias,
    mlpBias: family.mlpBias === "key" && keys.mlp_bias,
    ...windows(family, keys, file),
    rope,
    dtype: keys.dtype ?? keys.torch_dtype ?? null,
    bosId: keys.bos_token_id,
    eosIds: [keys.eos_token_id].flat().filter((id) => id !== null),
    padId: keys.pad_token_id,
  };
}

function readModelType(json: unknown, file: string): ModelType {
  const { model_type: modelType } = readJson(z.object({ model_type: z.string() }), json, file);
  if (Object.hasOwn(families, modelType)) return modelType as ModelType;
  throw unsupported(file, "model_type", `the model type ${shown(modelType)} is not supported`, {
    expected: modelTypes.join(", "),
    got: shown(modelType),
    next: `The nearest supported one is ${nearest(modelType.slice(0, 64), modelTypes, 1)[0]}. A new family is a row in src/models/config.ts and a file in src/models/.`,
  });
}

/** The sliding window and which layers have it. */
function windows(
  family: Family,
  keys: z.output<ReturnType<typeof decoderKeys>>,
  file: string,
): Pick<DecoderConfig, "slidingWindow" | "layerTypes"> {
  const layers = keys.num_hidden_layers;
  const every = (type: LayerType): LayerType[] => Array.from({ length: layers }, () => type);
  if (family.window === "none") return { slidingWindow: null, layerTypes: every("full_attention") };

  const slidingWindow = family.window === "every" || keys.use_sliding_window ? keys.sliding_window : null;
  if (family.window === "every") {
    return { slidingWindow, layerTypes: every(slidingWindow === null ? "full_attention" : "sliding_attention") };
  }
  if (!keys.layer_types) {
    const firstSliding = slidingWindow === null ? layers : keys.max_window_layers;
    const layerTypes = every("full_attention").map((type, i) => (i < firstSliding ? type : "sliding_attention"));
    return { slidingWindow, layerTypes };
  }
  if (keys.layer_types.length !== layers) {
    throw contradiction(file, "layer_types", `num_hidden_layers ${layers} entries`, keys.layer_types.length);
  }
  const layerTypes = keys.layer_types.map((name, i) => {
    const type = Object.hasOwn(layerTypeNames, name) ? layerTypeNames[name] : undefined;
    if (type) return type;
    throw unsupported(file, `layer_types.${i}`, "this layer type is not supported", {
      expected: "full_attention, sliding_attention",
      got: shown(name),
    });
  });
  if (slidingWindow === null && layerTypes.includes("sliding_attention")) {
    throw contradiction(file, "sliding_window", "a window, with use_sliding_window true, for layers of sliding_attention", null);
  }
  return { slidingWindow, layerTypes };
}

const unsupported = (file: string, key: string, message: string, failure: { expected: string; got: string; next?: string }) =>
  new LowrankError("model/unsupported", message, { subject: `${file}: ${key}`, next: "Choose another checkpoint.", ...failure });

const contradiction = (file: string, key: string, expected: string, got: number | null) =>
  new LowrankError("model/config", `${key} contradicts the rest of the config`, {
    subject: file,
    expected,
    got: shown(got),
    next: "Correct the config, or take it again from where the checkpoint came from.",
  });
