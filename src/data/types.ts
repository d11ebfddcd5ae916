// What training data looks like on its way to the graph: an example of tokens, then a batch of rows.
import type { Tensor } from "../tensor.ts";

/** The label of a position that carries no loss (PyTorch's and Transformers' ignore_index). */
export const IGNORE = -100;

/** One example. */
export interface Example {
  /** Its tokens; none where it has no text. */
  ids: Int32Array;
  /**
   * Of a text to be continued: `labels[i]` is the token at position i where it is a target and IGNORE where not (not shifted).
   * Empty for other tasks.
   */
  labels: Int32Array;
  /** Of another task: the number of its class, 0 where there are no classes. */
  answer?: number;
  /** Where the second of two texts begins among `ids`. */
  second?: number;
  /** The numbers of its images (images.ts). */
  images?: readonly number[];
}

/** A batch of another task than language modelling: what its graph is fed, by name. */
export interface FeedBatch {
  feeds: Record<string, Tensor>;
  /** What is learnt from: labels, pairs. */
  targets: number;
  /** What the speed counts: tokens, patches. */
  tokens: number;
}

export type AnyBatch = Batch | FeedBatch;

/** A rectangle of tokens. All arrays but the loss ones are row-major [rows, width]. */
export interface Batch {
  rows: number;
  width: number;
  inputIds: Int32Array;
  /** Position of each token in its own sequence (restarts at 0 in a packed row). */
  positionIds: Int32Array;
  /** 1 where a token may be attended to, 0 for padding. */
  attentionMask: Int32Array;
  /** Which sequence of its row a token belongs to: a token attends only within its segment. All 0 unless packed. */
  segmentIds: Int32Array;
  /** Flat positions (row * width + t) whose *next* token is a target, ascending: [targets]. */
  lossRows: Int32Array;
  /** The target token of each of `lossRows`: [targets]. */
  lossLabels: Int32Array;
  /** Of a model with images, what its vision side is fed (`feeds` in models/images.ts), in every batch of a run or in none. */
  images?: Record<string, Tensor>;
}
