// What each step trains on, as a pure function of seed and step, so that a run resumes from nothing but its step number.
import { type BatchPlan, paddingShare, planBatches } from "../data/batch.ts";
import { type Collator, passesOf } from "../data/collate.ts";
import type { Examples } from "../data/store.ts";
import type { Batch, BatchSize, RunIdentity } from "../data/types.ts";
import { alone } from "../distributed/communicator.ts";
import { type Ranked, shareOf } from "../distributed/share.ts";
import { LowrankError } from "../errors.ts";

export interface DataLoader {
  /** Optimizer steps in which every example comes once. */
  stepsPerEpoch: number;
  /** The micro-batches whose gradients are summed in `step` (from 0): those of this process. */
  microBatches(step: number): Batch[] | Promise<Batch[]>;
  /** What determines them, compared when a run is resumed. */
  facts: RunIdentity;
}

/** A loader that knows the sizes of its batches without making them. */
export interface RowLoader<B extends Batch = Batch> extends DataLoader {
  microBatches(step: number): Promise<B[]>;
  sizes(step: number): BatchSize[];
  /** The share of padding in the first epoch, and what it would be with `bucket` the other way. */
  padding(how?: Pick<HowShared, "passTokens">): { share: number; otherwise: number };
  /** The same steps, of each the share of a process. */
  shared(place: Ranked, how?: HowShared): Pick<RowLoader<B>, "stepsPerEpoch" | "facts" | "sizes" | "microBatches">;
}

export interface HowShared {
  /** The rows of a micro-batch meet in its loss (`shareOf`). */
  together?: boolean;
  /** Micro-batches of more places are computed in parts (`passesOf`); each in one if absent. */
  passTokens?: number;
}

export interface LoaderOptions {
  /** Rows of a micro-batch. */
  batchSize: number;
  /** Micro-batches of a step; 1 if absent. */
  gradientAccumulation?: number;
  seed: number;
  /** An order of its own for every epoch; true if absent. */
  shuffle?: boolean;
  /** Rows of similar length in one micro-batch; true if absent. */
  bucket?: boolean;
}

/**
 * Gives rows, each once an epoch; the last step of an epoch may have fewer micro-batches and the last micro-batch
 * fewer rows. Throws `train/no-targets` for an example that has nothing to learn.
 */
export async function dataLoader<B extends Batch>(rows: Collator<B>, options: LoaderOptions): Promise<RowLoader<B>> {
  const { batchSize, gradientAccumulation = 1, seed, shuffle = true, bucket = true } = options;
  checkExamples(rows.examples);
  if (!(Number.isSafeInteger(gradientAccumulation) && gradientAccumulation >= 1)) {
    throw new LowrankError("train/option", "the number of micro-batches of a step is not a positive integer", {
      subject: "gradientAccumulation",
      expected: "an integer of at least 1",
      got: String(gradientAccumulation),
      next: "Give the number of micro-batches of a step.",
    });
  }
  let plan: BatchPlan & { epoch: number };
  const planFor = (epoch: number): void => {
    if (plan?.epoch !== epoch) plan = { epoch, ...planBatches(rows.lengths, { batchSize, seed, epoch, shuffle, bucket }) };
  };
  planFor(0);
  const stepsPerEpoch = Math.ceil(plan!.count / gradientAccumulation);
  const batchesOf = (step: number, place: Ranked, { together, passTokens }: HowShared): (readonly number[])[] => {
    planFor(Math.floor(step / stepsPerEpoch));
    const first = (step % stepsPerEpoch) * gradientAccumulation;
    const all = Array.from({ length: Math.min(gradientAccumulation, plan.count - first) }, (_, i) => plan.batch(first + i));
    const own = shareOf(all, rows.lengths, { ...place, batchSize, together });
    return own.flatMap((batch) => passesOf(rows, batch, passTokens));
  };
  const facts = {
    batchSize,
    gradientAccumulation,
    shuffle,
    bucket,
    ...rows.identity,
    dataSeed: seed,
    examples: `${rows.examples.length}, ${await rows.name()}`,
  };
  const shared = (place: Ranked, how: HowShared = {}): ReturnType<RowLoader<B>["shared"]> => ({
    facts,
    stepsPerEpoch,
    microBatches: (step) =>
      Promise.all(batchesOf(step, place, how).map((own) => (own.length > 0 ? rows.batch(own) : (empty as B)))),
    sizes: (step) =>
      batchesOf(step, place, how)
        .filter((own) => own.length > 0)
        .map(rows.size),
  });
  return {
    ...shared(alone),
    shared,
    padding: ({ passTokens } = {}) => {
      const partsOf = (batch: readonly number[]) => passesOf(rows, batch, passTokens);
      const order = { batchSize, seed, epoch: 0, shuffle };
      const [share, otherwise] = [bucket, !bucket].map((grouped) =>
        paddingShare(rows.lengths, planBatches(rows.lengths, { ...order, bucket: grouped }), partsOf),
      ) as [number, number];
      return { share, otherwise };
    },
  };
}

/** What a process has of a micro-batch with fewer rows than processes. */
const empty: Batch = { feeds: {}, targets: 0, tokens: 0 };

function checkExamples(examples: Examples): void {
  let empty = 0;
  while (empty < examples.length && examples.targetsOf(empty) > 0) empty++;
  if (examples.length > 0 && empty === examples.length) return;
  throw new LowrankError("train/no-targets", "there are no targets", {
    subject: examples.length === 0 ? "examples" : `example ${empty} (from 0)`,
    expected: examples.length === 0 ? "at least one example" : "at least one target behind the first token",
    got: "none",
    next: "Leave out examples whose targets are all masked or cut off.",
  });
}
