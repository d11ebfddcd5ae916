// Rotary position embedding: its config in v4 and v5 keys, and its inverse frequencies, after transformers/modeling_rope_utils.py.
import { z } from "zod";
import { unsupported } from "./config.ts";
import { MAX_HEAD_DIM, readJson, shownValue, sizes } from "./schema.ts";

export type RopeConfig = {
  theta: number;
  /** Dimensions of a head that are rotated, where not all of them are. */
  dim?: number;
} & (
  | { type: "default" }
  | { type: "linear"; factor: number }
  | { type: "llama3"; factor: number; lowFreqFactor: number; highFreqFactor: number; originalMaxPositions: number }
  /** YaRN (Peng et al. 2023): pairs up to `low` turn as ever, from `high` on slower by `factor`, those between in part. */
  | { type: "yarn"; factor: number; low: number; high: number; attentionFactor: number; originalMaxPositions: number }
  /** LongRoPE (Ding et al. 2024) up to the original length, so with its short factors: one a pair. */
  | { type: "longrope"; shortFactors: number[]; attentionFactor: number; originalMaxPositions: number }
);

const DEFAULT_THETA = 10_000;
const positive = z.number().positive();
const linearKeys = z.object({ factor: positive });
const llama3Keys = z.object({
  factor: positive,
  low_freq_factor: positive,
  high_freq_factor: positive,
  original_max_position_embeddings: sizes.positions.optional(),
});
const longropeKeys = z.object({
  factor: positive.nullish(),
  attention_factor: positive.nullish(),
  short_factor: z.array(positive).max(MAX_HEAD_DIM / 2),
  original_max_position_embeddings: sizes.positions.nullish(),
});
const yarnKeys = z.object({
  factor: positive,
  attention_factor: positive.nullish(),
  beta_fast: z.number().min(0).nullish(),
  beta_slow: z.number().min(0).nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  truncate: z.boolean().default(true),
  original_max_position_embeddings: sizes.positions.nullish(),
});
const ropeTypes = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];

/** The keys of config.json that describe RoPE: `rope_theta` and `rope_scaling` (v4), `rope_parameters` (v5). */
export const ropeKeys = {
  rope_theta: positive.nullish(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  partial_rotary_factor: z.number().gt(0).max(1).nullish(),
  original_max_position_embeddings: sizes.positions.nullish(),
};

/**
 * The RoPE config of a config.json in either form. A non-empty `rope_scaling` wins over `rope_parameters`, a theta inside
 * it over the one beside it, as in Transformers. Other rope types are refused by name.
 */
export function ropeConfig(
  keys: z.output<z.ZodObject<typeof ropeKeys>> & { max_position_embeddings: number },
  headDim: number,
  file: string,
  defaultTheta = DEFAULT_THETA,
): RopeConfig {
  const v4 = keys.rope_scaling && Object.keys(keys.rope_scaling).length > 0;
  const at = v4 ? "rope_scaling" : "rope_parameters";
  const inner = (v4 ? keys.rope_scaling : keys.rope_parameters) ?? {};
  const refuse = (key: string, message: string, expected: string, got: unknown): never => {
    const next = "Choose another checkpoint; for this one the rotary positions would be wrong.";
    throw unsupported(file, key, message, { expected, got: shownValue(got), next });
  };

  const nested = Object.keys(inner).find((key) => key.endsWith("_attention"));
  if (nested) refuse(`${at}.${nested}`, "this model has no rotary positions that differ by layer type", "one set", inner[nested]);
  const givenPartial = inner["partial_rotary_factor"] ?? keys.partial_rotary_factor ?? 1;
  const partial = readJson(ropeKeys.partial_rotary_factor, givenPartial, file, "partial_rotary_factor")!;
  const dim = Math.trunc(headDim * partial);
  if (dim < 2 || dim % 2 !== 0) {
    const expected = `a share of ${headDim} that is even`;
    refuse("partial_rotary_factor", "the rotated part of a head is no number of pairs", expected, partial);
  }

  const originalOf = (own: { original_max_position_embeddings?: number | null }): number =>
    keys.original_max_position_embeddings ?? own.original_max_position_embeddings ?? keys.max_position_embeddings;
  const type = inner["rope_type"] ?? inner["type"] ?? "default";
  const outer = keys.rope_theta ?? defaultTheta;
  const theta = inner["rope_theta"] == null ? outer : readJson(positive, inner["rope_theta"], file, `${at}.rope_theta`);
  const shared = { theta, ...(dim === headDim ? {} : { dim }) };
  switch (type) {
    case "default":
    case "dynamic": // changes nothing up to max_position_embeddings, and longer rows are refused
      return { type: "default", ...shared };
    case "linear":
      return { type: "linear", ...shared, factor: readJson(linearKeys, inner, file, at).factor };
    case "llama3": {
      const { factor, ...rest } = readJson(llama3Keys, inner, file, at);
      const { low_freq_factor: lowFreqFactor, high_freq_factor: highFreqFactor } = rest;
      if (highFreqFactor <= lowFreqFactor) {
        const expected = `more than low_freq_factor ${lowFreqFactor}`;
        refuse(`${at}.high_freq_factor`, "the frequency band is empty", expected, highFreqFactor);
      }
      const originalMaxPositions = originalOf(rest);
      return { type: "llama3", ...shared, factor, lowFreqFactor, highFreqFactor, originalMaxPositions };
    }
    case "yarn": {
      const { factor, ...rest } = readJson(yarnKeys, inner, file, at);
      const originalMaxPositions = originalOf(rest);
      /** The pair that turns so often over the original length. */
      const pairOf = (turns: number) => (dim * Math.log(originalMaxPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
      const [first, last] = [pairOf(rest.beta_fast || 32), pairOf(rest.beta_slow || 1)];
      const low = Math.max(rest.truncate ? Math.floor(first) : first, 0);
      const high = Math.min(rest.truncate ? Math.ceil(last) : last, dim - 1);
      const scaleOf = (mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
      const ratio = rest.mscale && rest.mscale_all_dim ? scaleOf(rest.mscale) / scaleOf(rest.mscale_all_dim) : scaleOf(1);
      const attentionFactor = rest.attention_factor ?? ratio;
      return { type: "yarn", ...shared, factor, low, high, attentionFactor, originalMaxPositions };
    }
    case "su": // LongRoPE's name in the first Phi-3 checkpoints
    case "longrope": {
      const { short_factor: shortFactors, ...rest } = readJson(longropeKeys, inner, file, at);
      if (shortFactors.length !== dim / 2) {
        refuse(`${at}.short_factor`, "there is not one factor a pair", `${dim / 2} numbers`, shortFactors.length);
      }
      const originalMaxPositions = originalOf(rest);
      const factor = rest.factor ?? keys.max_position_embeddings / originalMaxPositions;
      const attentionFactor =
        rest.attention_factor ?? (factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositions)));
      return { type: "longrope", ...shared, shortFactors, attentionFactor, originalMaxPositions };
    }
    default:
      return refuse(`${at}.rope_type`, `the rope type ${shownValue(type)} is not supported yet`, ropeTypes.join(", "), type);
  }
}

/**
 * The inverse frequencies of a head of `headDim` (even) dimensions: [rotated dimensions / 2], radians per position.
 * Transformers computes them in float32 whatever the model's dtype, and at position 8000 that rounding is visible in the
 * angle, so every operation is rounded to float32 here in the same order (`scalar / tensor` is reciprocal, then product).
 */
export function ropeFrequencies(rope: RopeConfig, headDim: number): Float64Array {
  const f32 = Math.fround;
  const base = f32(rope.theta);
  const dim = rope.dim ?? headDim;
  return Float64Array.from({ length: dim / 2 }, (_, i) => {
    const power = f32(base ** f32((2 * i) / dim));
    if (rope.type === "longrope") return f32(1 / f32(f32(rope.shortFactors[i]!) * power));
    const frequency = f32(1 / power);
    if (rope.type === "default") return frequency;
    const factor = f32(rope.factor);
    if (rope.type === "linear") return f32(frequency / factor);
    if (rope.type === "yarn") {
      const width = rope.high === rope.low ? 0.001 : rope.high - rope.low;
      const kept = f32(1 - Math.min(1, Math.max(0, f32(f32(i - f32(rope.low)) / f32(width)))));
      return f32(f32(f32(1 / f32(factor * power)) * f32(1 - kept)) + f32(frequency * kept));
    }

    const { lowFreqFactor: low, highFreqFactor: high, originalMaxPositions: context } = rope;
    const wavelength = f32(f32(1 / frequency) * f32(2 * Math.PI));
    if (wavelength > f32(context / low)) return f32(frequency / factor);
    if (wavelength < f32(context / high)) return frequency;
    const smooth = f32(f32(f32(f32(1 / wavelength) * context) - f32(low)) / f32(high - low));
    return f32(f32(f32(f32(1 - smooth) * frequency) / factor) + f32(smooth * frequency));
  });
}
