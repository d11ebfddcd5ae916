// A loss graph in a session that is fed what an adapter trains: the base's own values, or the adapter's.

import { type Adapter, savedKey } from "../../adapters/peft-files.ts";
import type { Batch } from "../../data/types.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { readWeights } from "../../formats/checkpoint.ts";
import { toFloat32 } from "../../formats/float.ts";
import { check, type Graph } from "../../graph/graph.ts";
import type { AnyBase } from "../../models/base.ts";
import { weightFiles } from "../../models/weights.ts";
import { type Engine, openGraph } from "../../runtime/open-graph.ts";
import { float32, sizeOf, type Tensor } from "../../tensor.ts";
import { thetaOf } from "../../train/trainable-model.ts";
import { adaptedGraph, loraEntries, type Trained } from "../../train/training-graph.ts";

const trainedBy = (adapter: Adapter | null): Trained => ({
  modules: adapter?.modules ?? [],
  saved: [...(adapter?.saved ?? [])].map(([name, { shape }]) => ({ name, shape: [...shape] })),
});

/**
 * θ of the base alone and of the adapter, null for what has no score: no adapter, or a base whose head only the adapter has.
 * Throws `evaluate/no-head` where neither has one.
 */
export async function sidesOf(
  files: Files,
  { config, checkpoint }: AnyBase,
  adapter: Adapter | null,
): Promise<[base: Float32Array | null, adapter: Float32Array | null]> {
  const newHead = config.uninitializedHead;
  if (newHead !== null) {
    if (!adapter?.saved?.has(`${newHead}.weight`)) throw noHead(checkpoint.folder, newHead, adapter);
    return [null, thetaOf(adapter)];
  }
  const entries = loraEntries(trainedBy(adapter));
  const own = new Float32Array(entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0));
  // With A and B at zero an adapter changes nothing; what is trained in full has the base's values.
  const offsets = new Map(entries.map(({ key, offset }) => [key, offset]));
  for (const name of adapter?.saved?.keys() ?? []) {
    own.set(toFloat32(await readWeights(files, checkpoint, name)), offsets.get(savedKey(name)));
  }
  return [own, adapter && thetaOf(adapter)];
}

export interface Scoring {
  /** All outputs of the graph for a batch. */
  run(batch: Batch, theta: Float32Array): Promise<Record<string, Tensor>>;
  /** The same with the adapter off. */
  runOff(batch: Batch): Promise<Record<string, Tensor>>;
  close(): Promise<void>;
}

/** Opens `graph`, of `base`, around what `adapter` trains. Close it to free the weights. */
export async function openScoring(
  { checkpoint }: AnyBase,
  adapter: Adapter | null,
  graph: Graph,
  engine: Engine,
): Promise<Scoring> {
  const trained = trainedBy(adapter);
  const session = await openGraph(check(adaptedGraph(graph, trained).graph), weightFiles(checkpoint), engine);
  const entries = loraEntries(trained);
  const run = (batch: Batch, theta: Float32Array) => {
    const parts = entries.map(({ key, offset, shape }) => [key, float32(shape, theta.subarray(offset, offset + sizeOf(shape)))]);
    return session.run({ ...batch.feeds, ...Object.fromEntries(parts) });
  };
  const zero = new Float32Array(entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0));
  return {
    run,
    runOff: (batch) => run(batch, zero),
    close: () => session.close(),
  };
}

const noHead = (subject: string, head: string, adapter: Adapter | null): LowrankError =>
  new LowrankError("evaluate/no-head", "neither the base nor the adapter has a head that tells classes", {
    subject,
    expected: `weights of ${head} in the checkpoint, or an adapter that brings them`,
    got: adapter ? "an adapter without them" : "no adapter",
    next: "Train a classifier (lowrank train), and give its adapter with --adapter.",
  });
