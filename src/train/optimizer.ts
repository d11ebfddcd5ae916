// Optimizers and clipping over flat vectors: torch.optim.AdamW, torch.nn.utils.clip_grad_norm_, peft/optimizers/loraplus.py and lorafa.py.
import { symmetricEigen } from "../adapters/eigen.ts";
import { partOf, type ThetaEntry, trainedEntries } from "../adapters/layout.ts";
import type { TensorGroup } from "../adapters/method.ts";
import { addTo, dot, gram, matrixRows } from "../adapters/vectors.ts";
import { sizeOf } from "../tensor.ts";

export interface Rates {
  /** Before the schedule's factor. */
  learningRate: number;
  weightDecay: number;
}

/** A run of neighbouring parameters θ[start, end) that learn alike. */
export interface ParameterRange extends Rates {
  start: number;
  end: number;
}

export interface Adam {
  beta1: number;
  beta2: number;
  eps: number;
}

/** A row of the table. All follow first and second moments: θ ← keep·θ − step·m / (root·√v + eps), with keep = 1 − rate·decay. */
export interface Optimizer {
  /** What help says of it. */
  about: string;
  eps: number;
  /** Tensors of an adapter that it leaves as they are. */
  constant: readonly TensorGroup[];
  /** Changes the gradient in place, before the moments see it; made once, from θ at the start. */
  project?(entries: readonly ThetaEntry[], theta: Float32Array): (gradient: Float32Array) => void;
  /** From the rate, `keep` and the bias corrections 1 − β₁ᵗ and 1 − β₂ᵗ. */
  factors(rate: number, keep: number, correction1: number, correction2: number): { step: number; root: number };
}

export const optimizers = {
  adamw: {
    about: "AdamW, of A and B alike",
    eps: 1e-8,
    constant: [],
    factors: (rate, _keep, correction1, correction2) => ({ step: rate / correction1, root: 1 / Math.sqrt(correction2) }),
  },
  lorafa: {
    about: "LoRA-FA: A stays as it begins, and B follows the whole weight's gradient as nearly as it can",
    eps: 1e-6,
    constant: ["A"],
    project: projectB,
    // eps is added before the bias correction, and the decay comes after the step, as in PEFT.
    factors: (rate, keep, correction1, correction2) => ({
      step: (keep * rate * Math.sqrt(correction2)) / correction1,
      root: 1,
    }),
  },
} satisfies Record<string, Optimizer>;
export type OptimizerName = keyof typeof optimizers;
export const optimizerNames = Object.keys(optimizers) as OptimizerName[];

/** PEFT's delta. */
const RIDGE = 1e-8;

/** LoRA-FA: the gradient of B [out, rank] times (A·Aᵀ + 1e-8·I)⁻¹ / scale², a pseudoinverse as PEFT has it. Zhang et al. 2023. */
function projectB(entries: readonly ThetaEntry[], theta: Float32Array): (gradient: Float32Array) => void {
  const factorsA = new Map(entries.filter(({ group }) => group === "A").map((entry) => [entry.path, entry]));
  const pairs = entries.flatMap((entry) => {
    const own = entry.group === "B" && factorsA.get(entry.path);
    return own ? [{ entry, inverse: inverseGram(partOf(theta, own), own.shape[0]!, entry.scale!) }] : [];
  });
  return (gradient) => {
    for (const { entry, inverse } of pairs) {
      const rank = inverse.length;
      for (const row of matrixRows(partOf(gradient, entry), entry.shape[0]!)) {
        const before = Float64Array.from(row);
        for (let r = 0; r < rank; r++) row[r] = dot(before, inverse[r]!);
      }
    }
  };
}

/** The rows of (A·Aᵀ + 1e-8·I)⁻¹ / scale². */
function inverseGram(loraA: Float32Array, rank: number, scale: number): Float64Array[] {
  const rows = matrixRows(gram(matrixRows(loraA, rank)), rank);
  for (const [r, row] of rows.entries()) row[r]! += RIDGE;
  const { values, vectors } = symmetricEigen(rows, { vectors: true });
  const inverse = Array.from({ length: rank }, () => new Float64Array(rank));
  // What float32 cannot tell from zero beside the largest is zero: torch.linalg.pinv's rtol.
  const least = values[0]! * rank * 2 ** -23;
  for (const [i, vector] of vectors(rank).entries()) {
    if (values[i]! <= least) continue;
    for (let r = 0; r < rank; r++) addTo(inverse[r]!, vector[r]! / (values[i]! * scale * scale), vector);
  }
  return inverse;
}

/** First and second moments, one element a parameter, and the number of updates made. */
export interface Moments {
  m: Float32Array;
  v: Float32Array;
  step: number;
}

/** LoRA+ leaves embeddings at this learning rate (peft's loraplus_lr_embedding). */
const LORA_PLUS_EMBEDDING_LEARNING_RATE = 1e-6;

/**
 * What each part of θ learns at. Without `loraPlusRatio` everything alike, as AdamW(model.parameters()).
 * With it as PEFT's create_loraplus_optimizer: B factors and vectors learn `loraPlusRatio` times faster, biases among
 * them do not decay, embeddings learn at 1e-6. Entries must lie in θ one after another.
 */
export function parameterRanges(entries: readonly ThetaEntry[], options: Rates & { loraPlusRatio?: number }): ParameterRange[] {
  const ranges: ParameterRange[] = [];
  for (const entry of trainedEntries(entries)) {
    const end = entry.offset + sizeOf(entry.shape);
    const rates = ratesOf(entry, options);
    const last = ranges.at(-1);
    if (last?.learningRate === rates.learningRate && last.weightDecay === rates.weightDecay) last.end = end;
    else ranges.push({ start: entry.offset, end, ...rates });
  }
  return ranges;
}

function ratesOf({ key, group, shape }: ThetaEntry, options: Rates & { loraPlusRatio?: number }): Rates {
  const { learningRate, weightDecay, loraPlusRatio } = options;
  if (loraPlusRatio === undefined) return { learningRate, weightDecay };
  if (/\.lora_embedding_[AB]$/.test(key)) return { learningRate: LORA_PLUS_EMBEDDING_LEARNING_RATE, weightDecay };
  if (group !== "B" && shape.length !== 1) return { learningRate, weightDecay };
  return { learningRate: learningRate * loraPlusRatio, weightDecay: key.includes("bias") ? 0 : weightDecay };
}

/** One update of `theta` and `state` in place, every range at `factor` times its learning rate. */
export function update(
  theta: Float32Array,
  gradient: Float32Array,
  state: Moments,
  ranges: readonly ParameterRange[],
  factor: number,
  { beta1, beta2, eps }: Adam,
  { factors }: Pick<Optimizer, "factors"> = optimizers.adamw,
): void {
  const { m, v } = state;
  const t = ++state.step;
  for (const { start, end, learningRate, weightDecay } of ranges) {
    const rate = learningRate * factor;
    const keep = 1 - rate * weightDecay;
    const { step, root } = factors(rate, keep, 1 - beta1 ** t, 1 - beta2 ** t);
    for (let i = start; i < end; i++) {
      const g = gradient[i]!;
      const m1 = m[i]! + (1 - beta1) * (g - m[i]!);
      const v1 = beta2 * v[i]! + (1 - beta2) * g * g;
      m[i] = m1;
      v[i] = v1;
      theta[i] = theta[i]! * keep - (step * m1) / (Math.sqrt(v1) * root + eps);
    }
  }
}

/** The 2-norm of `gradient` before clipping; the gradient is scaled in place so that its norm is at most about `maxNorm`. */
export function clipGradNorm(gradient: Float32Array, maxNorm = Number.POSITIVE_INFINITY): number {
  let squares = 0;
  for (let i = 0; i < gradient.length; i++) squares += gradient[i]! * gradient[i]!;
  const norm = Math.sqrt(squares);
  const scale = maxNorm / (norm + 1e-6);
  if (scale < 1) for (let i = 0; i < gradient.length; i++) gradient[i]! *= scale;
  return norm;
}
