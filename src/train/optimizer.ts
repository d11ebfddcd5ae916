// AdamW and clipping over flat vectors: torch.optim.AdamW, torch.nn.utils.clip_grad_norm_, peft/optimizers/loraplus.py.
import type { ThetaEntry } from "../adapters/layout.ts";
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

export interface AdamW {
  beta1: number;
  beta2: number;
  eps: number;
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
  for (const entry of entries) {
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

/** One AdamW update of `theta` and `state` in place, every range at `factor` times its learning rate. */
export function adamW(
  theta: Float32Array,
  gradient: Float32Array,
  state: Moments,
  ranges: readonly ParameterRange[],
  factor: number,
  { beta1, beta2, eps }: AdamW,
): void {
  const { m, v } = state;
  const step = ++state.step;
  const correction1 = 1 - beta1 ** step;
  const rootScale = 1 / Math.sqrt(1 - beta2 ** step);
  for (const { start, end, learningRate, weightDecay } of ranges) {
    const rate = learningRate * factor;
    const keep = 1 - rate * weightDecay;
    const stepSize = rate / correction1;
    for (let i = start; i < end; i++) {
      const g = gradient[i]!;
      const m1 = m[i]! + (1 - beta1) * (g - m[i]!);
      const v1 = beta2 * v[i]! + (1 - beta2) * g * g;
      m[i] = m1;
      v[i] = v1;
      theta[i] = theta[i]! * keep - (stepSize * m1) / (Math.sqrt(v1) * rootScale + eps);
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
