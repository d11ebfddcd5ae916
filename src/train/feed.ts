// What each step trains on, as a pure function of seed and step, so that a run resumes from nothing but its step number.
import { makeBatch, packExamples, planBatches } from "../data/batch.ts";
import { type Batch, type Example, IGNORE } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import type { Facts } from "./checkpoint.ts";

export interface Feed {
  /** Optimizer steps in which every example comes once. */
  stepsPerEpoch: number;
  /** The micro-batches whose gradients are summed in `step` (from 0). */
  microBatches(step: number): Batch[];
  /** What determines them, compared when a run is resumed. */
  facts: Facts;
}

export interface FeedOptions {
  /** Rows of a micro-batch. */
  batchSize: number;
  /** Micro-batches of a step; 1 if absent. */
  gradientAccumulation?: number;
  seed: number;
  padId: number;
  /** An order of its own for every epoch; true if absent. */
  shuffle?: boolean;
  /** Rows of similar length in one micro-batch; true if absent. */
  bucket?: boolean;
  /** Packs several examples into rows of at most this many tokens. */
  packLength?: number;
}

/**
 * Feeds `examples`, each once an epoch; the last step of an epoch may have fewer micro-batches and the last micro-batch
 * fewer rows. Throws `train/no-targets` for an example that has nothing to learn.
 */
export function feedExamples(examples: readonly Example[], options: FeedOptions): Feed {
  const { batchSize, gradientAccumulation = 1, seed, padId, shuffle = true, bucket = true, packLength } = options;
  checkExamples(examples);
  if (!(Number.isSafeInteger(gradientAccumulation) && gradientAccumulation >= 1)) {
    throw new LowrankError("train/option", "the number of micro-batches of a step is not a positive integer", {
      subject: "gradientAccumulation",
      expected: "an integer of at least 1",
      got: String(gradientAccumulation),
      next: "Give the number of micro-batches of a step.",
    });
  }
  const rows = packLength === undefined ? examples.map((example) => [example]) : packExamples(examples, packLength);
  const lengths = rows.map((row) => row.reduce((sum, { ids }) => sum + ids.length, 0));
  const planOf = (epoch: number) => planBatches(lengths, { batchSize, seed, epoch, shuffle, bucket });
  const stepsPerEpoch = Math.ceil(planOf(0).length / gradientAccumulation);
  let plan: { epoch: number; batches: number[][] } | undefined;
  return {
    stepsPerEpoch,
    microBatches(step) {
      const epoch = Math.floor(step / stepsPerEpoch);
      if (plan?.epoch !== epoch) plan = { epoch, batches: planOf(epoch) };
      const first = (step % stepsPerEpoch) * gradientAccumulation;
      return plan.batches.slice(first, first + gradientAccumulation).map((indices) =>
        makeBatch(
          indices.map((i) => rows[i]!),
          { padId },
        ),
      );
    },
    facts: {
      batchSize,
      gradientAccumulation,
      shuffle,
      bucket,
      packLength: packLength ?? null,
      padId,
      dataSeed: seed,
      examples: `${examples.length}, ${fingerprint(examples.flatMap(({ ids, labels }) => [ids, labels]))}`,
    },
  };
}

function checkExamples(examples: readonly Example[]): void {
  const empty = examples.findIndex(({ labels }) => !labels.some((label, i) => i > 0 && label !== IGNORE));
  if (examples.length > 0 && empty < 0) return;
  throw new LowrankError("train/no-targets", "there is nothing to learn", {
    subject: examples.length === 0 ? "examples" : `example ${empty} (from 0)`,
    expected: examples.length === 0 ? "at least one example" : "at least one target behind the first token",
    got: "none",
    next: "Leave out examples whose targets are all masked or cut off.",
  });
}
