// What training data looks like on its way to the graph: an example of tokens, then a batch of rows.
import type { Tensor } from "../tensor.ts";

/** The label of a position that carries no loss (PyTorch's and Transformers' ignore_index). */
export const IGNORE = -100;

/** One example: the tokens of its texts, and what stands beside them. */
export interface Example {
  /** The tokens of all its texts, one after another; none where it has no text. */
  ids: Int32Array;
  /** Of texts that are continued: `labels[i]` is the token at position i where it is a target and IGNORE where not (not shifted). */
  labels: Int32Array;
  /** Where each text but the first begins among `ids`. */
  starts?: readonly number[];
  /** The numbers of its classes (classes.ts): of the example, or one for each token, -1 where a token has none. */
  classes?: readonly number[];
  /** A number that is learnt. */
  value?: number;
  /** What it counts as in the mean of the losses; the targets among `labels` if absent. */
  targets?: number;
  /** The numbers of its images (images.ts). */
  images?: readonly number[];
}

/** A batch: what the loss graph is fed, by name. */
export interface Batch {
  feeds: Record<string, Tensor>;
  /** What the loss is a mean over: target tokens, rows, pairs. */
  targets: number;
  /** What the speed counts: tokens that are not padding, patches. */
  tokens: number;
  /** A number for each row of the graph that no other row of the step has, by which dropout draws; one for all if absent. */
  rowKeys?: readonly number[];
}

/** The key of the `nth` text of an example that has a row for each; examples are at most 2²⁴. */
export const textKey = (example: number, nth: number): number => (example + (nth << 24)) | 0;

/** Rows, width and targets of one batch, known before it is made. */
export interface BatchSize {
  rows: number;
  width: number;
  /** Positions whose logits are computed. */
  targets: number;
  /**
   * Where a run has images: how many the vision side reads, tiles of split ones counted; where text attends to them, of each
   * row.
   */
  images?: number;
  /** What dims of the task's own loss graph stand for, by their symbols. */
  lengths?: Readonly<Record<string, number>>;
}

/** What identifies a part of a run, compared when it is resumed. */
export type RunIdentity = Record<string, string | number | boolean | null>;

/** What is counted in batches, summed. */
export const total = <B extends Batch>(batches: readonly B[], of: "targets" | "tokens"): number =>
  batches.reduce((sum, batch) => sum + batch[of], 0);
