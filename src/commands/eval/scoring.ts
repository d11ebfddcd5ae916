// A loss graph in a session that is fed an adapter, or what leaves the base as it is.

import { appliedTensors, slotFeeds, withSlots } from "../../adapters/adaptable.ts";
import { savedInput, savedReadBy, withSaved } from "../../adapters/beside.ts";
import { gateFeeds } from "../../adapters/inject.ts";
import { trainedBy } from "../../adapters/layout.ts";
import { methodOf } from "../../adapters/method-table.ts";
import type { Adapter } from "../../adapters/peft-files.ts";
import { type SavedTensor, storedValues } from "../../adapters/saved.ts";
import type { Batch } from "../../data/types.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { check, type Graph } from "../../graph/graph.ts";
import type { AnyBase } from "../../models/base.ts";
import { weightFiles } from "../../models/weights.ts";
import { type Engine, openGraph } from "../../runtime/open-graph.ts";
import { float32, type Tensor } from "../../tensor.ts";

/** What is compared: the base alone, or the adapter on it; with the values of what the adapter trains beside its factors. */
export interface Side {
  adapter: Adapter | null;
  saved: ReadonlyMap<string, SavedTensor>;
}

/**
 * The base alone and the adapter, null for what has no score: no adapter, or a base whose head only the adapter has.
 * Throws `evaluate/no-head` where neither has one.
 */
export async function comparison(
  files: Files,
  base: AnyBase,
  adapter: Adapter | null,
): Promise<[base: Side | null, adapter: Side | null]> {
  const { config, checkpoint } = base;
  const saved = adapter?.saved ?? new Map<string, SavedTensor>();
  const newHead = config.uninitializedHead;
  if (newHead !== null) {
    if (!saved.has(`${newHead}.weight`)) throw noHead(checkpoint.folder, newHead, adapter);
    return [null, { adapter, saved }];
  }
  const own = new Map<string, SavedTensor>();
  for (const [name, tensor] of saved) own.set(name, { ...tensor, data: await storedValues(files, base, { name, ...tensor }) });
  return [{ adapter: null, saved: own }, adapter && { adapter, saved }];
}

/** Opens `graph`, of `base`, with room for `adapter`. Close it to free the weights. */
export async function openScoring({ checkpoint }: AnyBase, adapter: Adapter | null, graph: Graph, engine: Engine) {
  const weights = weightFiles(checkpoint);
  const modules = adapter?.modules ?? [];
  const ranks = new Map(modules.map(({ path, rank }) => [path, rank]));
  const { saved } = adapter ? trainedBy(adapter) : {};
  const own = savedReadBy(graph, saved ?? []);
  const replaced = withSaved(graph, own);
  const method = adapter && methodOf(adapter.config);
  const applied = adapter && (await appliedTensors(replaced, adapter, weights, engine));
  const slotted = method ? withSlots(replaced, [method], modules, ({ path }) => ranks.get(path)!) : replaced;
  const session = await openGraph(check(slotted), weights, engine);
  const feedsOf = (side: Side): Record<string, Tensor> => {
    const slots = modules.flatMap((module) =>
      slotFeeds(method!, 0, module, side.adapter ? { ...module, tensors: applied!.get(module.path)! } : module),
    );
    const beside = own.map(({ name, shape }) => [savedInput(name), float32(shape, side.saved.get(name)!.data)]);
    return Object.fromEntries([...slots, ...beside]);
  };
  const feeds = new Map<Side, Record<string, Tensor>>();
  return {
    /** All outputs of the graph for a batch. */
    run: (batch: Batch, side: Side): Promise<Record<string, Tensor>> => {
      if (!feeds.has(side)) feeds.set(side, feedsOf(side));
      const beside = adapter && gateFeeds(adapter.config, batch.feeds);
      return session.run({ ...batch.feeds, ...beside, ...feeds.get(side)! });
    },
    close: () => session.close(),
  };
}

const noHead = (subject: string, head: string, adapter: Adapter | null): LowrankError =>
  new LowrankError("evaluate/no-head", "neither the base nor the adapter has a classification head", {
    subject,
    expected: `weights of ${head} in the checkpoint, or an adapter that brings them`,
    got: adapter ? "an adapter without them" : "no adapter",
    next: "Train a classifier (lowrank train), and give its adapter with --adapter.",
  });
