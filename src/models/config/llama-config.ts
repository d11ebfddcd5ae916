// config.json of Llama and its kin in Transformers' v4 or v5 keys → one complete LlamaConfig, with each family's own defaults.
import { z } from "zod";
import type { ActivationName } from "../layers/activations.ts";
import { activationOf, commonConfig, commonKeys, contradiction, type DecoderConfig, unsupported } from "./config.ts";
import { type RopeConfig, ropeConfig, ropeKeys } from "./rope-config.ts";
import { epsilon, MAX_LAYERS, MAX_POSITIONS, readJson, shownValue, sizes } from "./schema.ts";

export type LayerType = "full_attention" | "sliding_attention";

/** The hyperparameters of Llama and its kin, complete: every default filled in, every cross-check done. */
export interface LlamaConfig extends DecoderConfig {
  intermediateSize: number;
  hiddenAct: ActivationName;
  rmsNormEps: number;
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
  /** The module that holds embedding, layers and norm, where it is not "model": a language model inside another. */
  root?: string;
}

/** What Transformers takes for an absent key and what it fixes in code: models/<family>/configuration_<family>.py. */
export interface LlamaDefaults {
  vocabSize: number;
  hiddenSize?: number;
  intermediateSize: number;
  layers?: number;
  heads?: number;
  /** As many as heads if absent. */
  kvHeads?: number;
  /** Hidden size / heads if absent. */
  headDim?: number;
  hiddenAct?: string;
  rmsNormEps?: number;
  maxPositions: number;
  theta?: number;
  bosId?: number;
  eosId?: number;
  padId?: number;
  tied?: boolean;
  /** Which projections have a bias, none if absent; "key": all of q, k, v, o when `attention_bias` says so. */
  attentionBias?: "key" | "qkv";
  mlpBias?: "key";
  /**
   * Which layers have a sliding window, none if absent. "every": all layers slide when `sliding_window` is set; "layers": `layer_types`, or the layers from `max_window_layers`
   * on, when `use_sliding_window` says so; "below": every other layer below `max_window_layers` instead. A number: `layer_types`, or all layers but each that many-th slide.
   */
  window?: "every" | "layers" | "below" | number;
  slidingWindow?: number | null;
}

/** Layer type names of older configs. */
const layerTypeNames: Record<string, LayerType> = {
  full_attention: "full_attention",
  attention: "full_attention",
  sliding_attention: "sliding_attention",
};

/** The keys that these families share; `defaults` fill in what is absent. */
const llamaKeys = ({ slidingWindow = 4096, ...d }: LlamaDefaults) =>
  z.object({
    vocab_size: sizes.vocab.default(d.vocabSize),
    hidden_size: sizes.hidden.default(d.hiddenSize ?? 4096),
    intermediate_size: sizes.intermediate.default(d.intermediateSize),
    num_hidden_layers: sizes.layers.default(d.layers ?? 32),
    num_attention_heads: sizes.heads.default(d.heads ?? 32),
    num_key_value_heads: sizes.heads.nullable().default(d.kvHeads ?? null),
    head_dim: sizes.headDim.nullish(),
    hidden_act: z.string().default(d.hiddenAct ?? "silu"),
    hidden_activation: z.string().nullish(),
    rms_norm_eps: epsilon.default(d.rmsNormEps ?? 1e-6),
    max_position_embeddings: sizes.positions.default(d.maxPositions),
    attention_bias: z.boolean().default(false),
    mlp_bias: z.boolean().default(false),
    sliding_window: z.int().min(0).max(MAX_POSITIONS).nullable().default(slidingWindow),
    use_sliding_window: z.boolean().default(false),
    max_window_layers: z.number().int().min(0).max(MAX_POSITIONS).default(28),
    layer_types: z.array(z.string()).max(MAX_LAYERS).nullish(),
    ...commonKeys(d.bosId ?? null, d.eosId ?? null, d.tied ?? false, d.padId ?? null),
    ...ropeKeys,
  });

/**
 * The parsed JSON of a config.json as a LlamaConfig. `file` is what errors call it. Fails on quantization, an activation or
 * a rope type that isn't built, on values out of range, and on values that contradict each other.
 */
export function llamaConfig(json: unknown, file: string, modelType: string, defaults: LlamaDefaults): LlamaConfig {
  const keys = readJson(llamaKeys(defaults), json, file);
  const { hidden_size: hiddenSize, num_attention_heads: heads, vocab_size: vocabSize } = keys;
  const common = commonConfig(keys, vocabSize, file);
  const actKey = keys.hidden_activation ? "hidden_activation" : "hidden_act";
  const hiddenAct = activationOf(keys[actKey]!, actKey, file);
  const kvHeads = keys.num_key_value_heads ?? heads;
  if (heads % kvHeads !== 0) {
    throw contradiction(file, "num_key_value_heads", `a divisor of num_attention_heads ${heads}`, kvHeads);
  }
  const givenHeadDim = keys.head_dim ?? defaults.headDim;
  if (givenHeadDim === undefined && hiddenSize % heads !== 0) {
    throw contradiction(file, "hidden_size", `a multiple of num_attention_heads ${heads}, or head_dim beside it`, hiddenSize);
  }
  const headDim = givenHeadDim ?? hiddenSize / heads;
  if (headDim % 2 !== 0) throw contradiction(file, "head_dim", "an even number, since rotary embedding turns pairs", headDim);

  const rope = ropeConfig(keys, headDim, file, defaults.theta);
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
    maxPositions: positionsOf(keys.max_position_embeddings, rope),
    attentionBias: defaults.attentionBias === "qkv" || (defaults.attentionBias === "key" && keys.attention_bias),
    attentionOutputBias: defaults.attentionBias === "key" && keys.attention_bias,
    mlpBias: defaults.mlpBias === "key" && keys.mlp_bias,
    ...windows(defaults.window, keys, file),
    rope,
    ...common,
  };
}

/** max_position_embeddings, times the factor of linear scaling, as inference servers count it; without LongRoPE's second set. */
function positionsOf(positions: number, rope: RopeConfig): number {
  if (rope.type === "linear") return Math.floor(positions * rope.factor);
  if (rope.type === "yarn") return Math.max(positions, Math.floor(rope.originalMaxPositions * rope.factor));
  return rope.type === "longrope" ? Math.min(positions, rope.originalMaxPositions) : positions;
}

/** The sliding window and which layers have it. */
function windows(
  rule: LlamaDefaults["window"],
  keys: z.output<ReturnType<typeof llamaKeys>>,
  file: string,
): Pick<LlamaConfig, "slidingWindow" | "layerTypes"> {
  const layers = keys.num_hidden_layers;
  const each = (slides: (i: number) => boolean): LayerType[] =>
    Array.from({ length: layers }, (_, i) => (slides(i) ? "sliding_attention" : "full_attention"));
  if (rule === undefined) return { slidingWindow: null, layerTypes: each(() => false) };

  const asked = rule === "layers" || rule === "below" ? keys.use_sliding_window : true;
  const slidingWindow = asked ? keys.sliding_window : null;
  if (slidingWindow === 0) throw contradiction(file, "sliding_window", "1 or more, or null for none", 0);
  if (rule === "every") return { slidingWindow, layerTypes: each(() => slidingWindow !== null) };
  if (!keys.layer_types) {
    const slides = (i: number) => {
      if (rule === "layers") return i >= keys.max_window_layers;
      return rule === "below" ? i % 2 === 0 && i < keys.max_window_layers : (i + 1) % rule !== 0;
    };
    return { slidingWindow, layerTypes: each((i) => slidingWindow !== null && slides(i)) };
  }
  if (keys.layer_types.length !== layers) {
    throw contradiction(file, "layer_types", `num_hidden_layers ${layers} entries`, keys.layer_types.length);
  }
  const layerTypes = keys.layer_types.map((name, i) => {
    const type = Object.hasOwn(layerTypeNames, name) ? layerTypeNames[name] : undefined;
    if (type) return type;
    throw unsupported(file, `layer_types.${i}`, "this layer type is not supported", {
      expected: "full_attention, sliding_attention",
      got: shownValue(name),
    });
  });
  if (slidingWindow === null && layerTypes.includes("sliding_attention")) {
    throw contradiction(file, "sliding_window", "a window, with use_sliding_window true, for layers of sliding_attention", null);
  }
  return { slidingWindow, layerTypes };
}
