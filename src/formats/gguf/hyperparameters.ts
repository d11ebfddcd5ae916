// What a GGUF file's metadata say of a model's sizes and rotary positions, as llama.cpp's converter writes them.
import type { GgufEntry } from "./writer.ts";

/** Of a model's config, what metadata are made from. */
export interface Hyperparameters {
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  /** max_position_embeddings, before any scaling. */
  positions: number;
  /** `silu`, `geluTanh`, … */
  activation: string;
  rmsNormEps?: number;
  layerNormEps?: number;
  rope?: { type: string; theta: number; dim?: number } & Partial<
    Record<"factor" | "attentionFactor" | "originalMaxPositions", number>
  >;
  slidingWindow?: number | null;
  layerTypes?: readonly string[];
  scaleByHead?: boolean;
  scaleByLayer?: boolean;
  scale?: number;
  attentionSoftcap?: number;
  logitSoftcap?: number;
  localRope?: { theta: number };
}

/** Keys of Llama's relatives. */
export function llamaKeys(model: Hyperparameters): GgufEntry[] {
  const { headDim, rope } = model;
  return [
    ...sizes(model),
    ["attention.head_count_kv", "uint32", model.kvHeads],
    ["attention.key_length", "uint32", headDim],
    ["attention.value_length", "uint32", headDim],
    ["attention.layer_norm_rms_epsilon", "float32", model.rmsNormEps!],
    ["vocab_size", "uint32", model.vocabSize],
    ["rope.dimension_count", "uint32", rope!.dim ?? headDim],
    ["rope.freq_base", "float32", rope!.theta],
    ...scalingKeys(rope!),
  ];
}

export const gpt2Keys = (model: Hyperparameters): GgufEntry[] => [
  ...sizes(model),
  ["attention.layer_norm_epsilon", "float32", model.layerNormEps!],
];

const sizes = (model: Hyperparameters): GgufEntry[] => [
  ["context_length", "uint32", model.positions],
  ["embedding_length", "uint32", model.hiddenSize],
  ["block_count", "uint32", model.layers],
  ["feed_forward_length", "uint32", model.intermediateSize],
  ["attention.head_count", "uint32", model.heads],
];

/** By the type of scaling; that of Llama 3 is in stored factors alone. */
function scalingKeys({ type, factor = 1, attentionFactor = 1, originalMaxPositions = 0 }: NonNullable<Hyperparameters["rope"]>) {
  const original: GgufEntry = ["rope.scaling.original_context_length", "uint32", originalMaxPositions];
  const scaling: GgufEntry[] = [
    ["rope.scaling.type", "string", type],
    ["rope.scaling.factor", "float32", factor],
  ];
  if (type === "linear") return scaling;
  if (type === "longrope") return [original, ["rope.scaling.attn_factor", "float32", attentionFactor] satisfies GgufEntry];
  if (type !== "yarn") return [];
  // llama.cpp multiplies YaRN's own factor by the one that is stored.
  const own = attentionFactor / (0.1 * Math.log(factor) + 1);
  return [...scaling, original, ["rope.scaling.attn_factor", "float32", own] satisfies GgufEntry];
}
