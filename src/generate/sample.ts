// The choice of the next token, in the order and with the semantics of transformers/generation/logits_process.py.
import { LowrankError } from "../errors.ts";
import { purpose, uniform } from "../random.ts";
import type { Sampling } from "./types.ts";

/** Changes scores in place, in float32 as Transformers does; a token that is ruled out gets -Infinity. */
type Processor = (scores: Float32Array, sampling: Sampling, seen: Iterable<number>) => void;

const penalizeRepeats: Processor = (scores, { repetitionPenalty }, seen) => {
  if (repetitionPenalty === 1) return;
  const penalty = Math.fround(repetitionPenalty);
  for (const id of seen) {
    const score = scores[id];
    if (score !== undefined) scores[id] = score < 0 ? score * penalty : score / penalty;
  }
};

const scaleByTemperature: Processor = (scores, { temperature }) => {
  if (temperature === 1) return;
  const divisor = Math.fround(temperature);
  for (let i = 0; i < scores.length; i++) scores[i] = scores[i]! / divisor;
};

const keepTopK: Processor = (scores, { topK }) => {
  if (topK === 0 || topK >= scores.length) return;
  const threshold = kthLargest(scores, topK);
  for (let i = 0; i < scores.length; i++) if (scores[i]! < threshold) scores[i] = Number.NEGATIVE_INFINITY;
};

/** Removes the least probable tokens while their mass, summed from the smallest, stays within 1 - topP. */
const keepTopP: Processor = (scores, { topP }) => {
  if (topP === 1) return;
  const max = largest(scores).score;
  const { weights, total } = exponentials(scores, max);
  // n tokens below (1 - topP) / n have together less than 1 - topP, so all go and need no sorting; the half is for rounding.
  const floor = ((1 - topP) / scores.length / 2) * total;
  const candidates = new Float32Array(scores.length);
  let count = 0;
  let removed = 0;
  for (let i = 0; i < scores.length; i++) {
    if (weights[i]! < floor) removed += weights[i]! / total;
    else candidates[count++] = scores[i]!;
  }
  const ascending = candidates.subarray(0, count).sort();
  const limit = Math.fround(1 - topP);
  let cut = 0;
  for (; cut < ascending.length - 1; cut++) {
    removed += Math.fround(Math.exp(ascending[cut]! - max) / total);
    if (Math.fround(removed) > limit) break;
  }
  // Which of equal scores go is unspecified in Transformers (its sort is not stable); here the higher ids.
  const threshold = ascending[cut]!;
  let ties = cut - ascending.indexOf(threshold);
  for (let i = scores.length - 1; i >= 0; i--) {
    if (scores[i]! < threshold || (scores[i] === threshold && ties-- > 0)) scores[i] = Number.NEGATIVE_INFINITY;
  }
};

const greedy: readonly Processor[] = [penalizeRepeats];
const sampled: readonly Processor[] = [penalizeRepeats, scaleByTemperature, keepTopK, keepTopP];

/**
 * The scores that the next token is chosen by: a copy of `logits` [vocab] after repetition penalty, temperature, top-k and
 * top-p, in this order, with -Infinity for what is ruled out. `seen` are the ids of the prompt (without padding) and of
 * what was generated, each once. Fails with `generate/logits` when the logits have NaN, +Infinity or nothing finite.
 */
export function processLogits(logits: Float32Array, seen: ReadonlySet<number>, sampling: Sampling): Float32Array {
  const scores = logits.slice();
  largest(scores);
  for (const process of sampling.temperature === 0 ? greedy : sampled) process(scores, sampling, seen);
  return scores;
}

/**
 * The next token of a row: the first of the largest scores when greedy, else one drawn with the softmax of the processed
 * scores as probabilities. The draw is a function of the seed, `row` and `step` alone, whatever else is in the batch.
 */
export function nextToken(
  logits: Float32Array,
  seen: ReadonlySet<number>,
  sampling: Sampling,
  at: { row: number; step: number },
): number {
  const scores = processLogits(logits, seen, sampling);
  const { score: max, id } = largest(scores);
  if (sampling.temperature === 0) return id;
  const { weights, total } = exponentials(scores, max);
  let left = uniform(sampling.seed, [purpose.sample, at.row, at.step], 1)[0]! * total;
  for (let i = 0; i < weights.length; i++) {
    left -= weights[i]!;
    if (left < 0) return i;
  }
  return id;
}

/** The largest score and the first id that has it. */
function largest(scores: Float32Array): { score: number; id: number } {
  let id = 0;
  for (let i = 0; i < scores.length; i++) {
    const score = scores[i]!;
    // A NaN is chosen, and kept since nothing compares greater: it is reported below.
    if (score > scores[id]! || Number.isNaN(score)) id = i;
  }
  const score = scores[id]!;
  if (Number.isFinite(score)) return { score, id };
  throw new LowrankError("generate/logits", "the model's logits cannot be sampled from", {
    subject: `logit of token ${id}`,
    expected: "finite numbers",
    got: String(score),
    next: "Check the checkpoint and the adapter for NaN (a run that diverged leaves them).",
    exitCode: 1,
  });
}

/** The k-th largest value, 1 <= k <= values.length: a heap of the k largest so far, its smallest at the root. */
function kthLargest(values: Float32Array, k: number): number {
  const heap = values.slice(0, k);
  for (let root = (k >> 1) - 1; root >= 0; root--) siftDown(heap, root);
  for (let i = k; i < values.length; i++) {
    if (values[i]! <= heap[0]!) continue;
    heap[0] = values[i]!;
    siftDown(heap, 0);
  }
  return heap[0]!;
}

function siftDown(heap: Float32Array, root: number): void {
  const value = heap[root]!;
  let at = root;
  for (let child = 2 * at + 1; child < heap.length; child = 2 * at + 1) {
    if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= value) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = value;
}

/** exp(score - max) of every score, and their sum. */
function exponentials(scores: Float32Array, max: number): { weights: Float64Array; total: number } {
  const weights = new Float64Array(scores.length);
  let total = 0;
  for (let i = 0; i < scores.length; i++) {
    weights[i] = Math.exp(scores[i]! - max);
    total += weights[i]!;
  }
  return { weights, total };
}
