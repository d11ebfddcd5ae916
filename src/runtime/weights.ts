// The frozen weights that stages are given: in memory from the start, or read from their files while the stages before run.
import { bytesOf } from "../formats/dtypes.ts";
import { readRows } from "../formats/stored.ts";
import { nodesOf } from "../graph/graph.ts";
import type { Stage, StageSource, WeightPart } from "../graph/stages.ts";
import { inFolder } from "../onnx/emitter.ts";
import { bytesPerElement, sizeOf, type Tensor } from "../tensor.ts";
import { type Handle, type Machine, type Place, taskQueue } from "./machine.ts";
import { type FormedWeight, keyOf, type PartPlace } from "./part-cache.ts";
import { type StageRead, type StageReads, streamedWeights } from "./streamed.ts";
import { type Loaded, type WeightOptions, weightReader } from "./weight-reader.ts";

/** Weights of fewer bytes stay in memory when the others are read anew at every step. */
const SMALL_BYTES = 2 ** 20;
/** Weights that are read at once: while one is converted, the next comes from its file. */
const READ_AT_ONCE = 3;
/** Rows that are read at once. */
const ROWS_AT_ONCE = 64;
/** Float32 that is made at once of numbers in another form. */
const CONVERTED_BYTES = 2 ** 21;

type TaskQueue = ReturnType<typeof taskQueue>;
type WeightLeaf = Extract<StageSource, { kind: "weight" }>;
type Feeds = Readonly<Record<string, Tensor>>;

/** A run's weights, stage by stage. */
export interface WeightsRun {
  /** The weights of the stage at this place of the run, by the names of its sources. */
  of(at: number): Promise<ReadonlyMap<string, Handle>>;
  /** The stage has run. */
  done(at: number): void;
  end(): void;
}

/** A weight of float32 in the memory of the machine's device, if it has one. */
async function moved({ parts }: Loaded, shape: readonly number[], { move }: Machine): Promise<Loaded> {
  if (!move) return { parts };
  const [{ handle }] = parts as [Place];
  return { parts: [{ handle: await move("float32", shape, handle), bytes: new Uint8Array() }] };
}

export interface Weights {
  /** Begins a run of stages, in their order. */
  run(order: readonly number[], feeds: Feeds): WeightsRun;
  close(): Promise<void>;
}

const partOf = ({ name, part }: WeightLeaf): WeightPart => part ?? { of: name, form: null, part: 0 };

/** The weights that a stage reads. */
const leavesOf = ({ inputs }: Stage): WeightLeaf[] => inputs.flatMap(({ source }) => (source.kind === "weight" ? [source] : []));

/**
 * The weights of a program's stages. `streamed`: rows of weights, and large weights that are multiplied with, are read anew whenever their
 * stage runs. Fails with `cache/off` or `cache/disk` where those have another form than they are stored in, and no cache can keep them.
 */
export async function openWeights(stages: readonly Stage[], streamed: boolean, options: WeightOptions): Promise<Weights> {
  const { machine, host = machine } = options;
  const reader = weightReader({ ...options, machine: host });
  const kept = new Map<string, Loaded>();
  const freeKept = () => {
    for (const { parts } of kept.values()) for (const { handle } of parts) machine.free(handle);
    kept.clear();
  };
  const large = streamed ? passingWeights(stages) : new Set<string>();
  const passes = (leaf: WeightLeaf): boolean => large.has(leaf.name);
  const converting = taskQueue(); // what a conversion takes beside its result is there once
  let reads: StageReads[];
  try {
    const weights = new Map<string, FormedWeight>();
    for (const leaf of stages.flatMap(leavesOf)) weights.set(keyOf(partOf(leaf)), partOf(leaf));
    const anew = stages.flatMap(leavesOf).filter((leaf) => passes(leaf) && partOf(leaf).form !== null);
    await reader.useCache([...weights.values()], new Set(anew.map((leaf) => keyOf(partOf(leaf)))));
    const staying = stages.flatMap(leavesOf).filter((leaf) => !passes(leaf));
    const left = new Map(staying.map((leaf) => [keyOf(partOf(leaf)), partOf(leaf)])).entries();
    let hasFailed = false;
    const readOn = async () => {
      for (const [key, part] of left) {
        if (hasFailed) return;
        kept.set(key, await moved(await reader.read(part), options.source.locate(part.of).shape, machine));
      }
    };
    const readers = Array.from({ length: READ_AT_ONCE }, () =>
      readOn().catch((error: unknown) => {
        hasFailed = true;
        throw error;
      }),
    );
    await Promise.all(readers).finally(() => Promise.allSettled(readers));
    reads = stages.map((stage) => {
      const own = leavesOf(stage).filter((leaf) => passes(leaf) && !idsOf(leaf));
      return new Map(
        own.map((leaf) => [leaf.name, readOf(rowsOf(leaf, reader.placesOf(partOf(leaf)), options), leaf, converting)]),
      );
    });
  } catch (error) {
    freeKept();
    throw error;
  } finally {
    reader.close();
  }
  const stream = streamedWeights(reads, machine);

  /** Rows of a table at the ids of a feed. */
  async function rowsAt(leaf: WeightLeaf, feed: string, feeds: Feeds): Promise<Handle> {
    const { dtype, shape, width, read } = rowsOf(leaf, reader.placesOf(partOf(leaf)), options);
    const ids = feeds[feed]?.data;
    if (!ids) throw new Error(`the input ${feed} is not fed`);
    const [total, ...rest] = shape as [number, ...number[]];
    const bytes = new Uint8Array(ids.length * width);
    const rowAt = (i: number) => bytes.subarray(i * width, (i + 1) * width);
    const first = new Map<number, number>();
    for (let i = 0; i < ids.length; i++) if (!first.has(Number(ids[i]))) first.set(Number(ids[i]), i);
    const outside = [...first.keys()].find((id) => !(id >= 0 && id < total));
    if (outside !== undefined) throw new Error(`row ${outside} of ${partOf(leaf).of}, which has ${total}`);
    const wanted = [...first];
    for (let at = 0; at < wanted.length; at += ROWS_AT_ONCE) {
      await Promise.all(wanted.slice(at, at + ROWS_AT_ONCE).map(([id, i]) => read(id, 1, rowAt(i))));
    }
    for (let i = 0; i < ids.length; i++) {
      const from = first.get(Number(ids[i]))!;
      if (from !== i) rowAt(i).set(rowAt(from));
    }
    return machine.tensor(dtype, [ids.length, ...rest], bytes);
  }

  return {
    run(order, feeds) {
      const streaming = stream.run(order);
      const looked = new Map<number, Promise<[string, Handle][]>>();
      order.forEach((stage, at) => {
        const own = leavesOf(stages[stage]!).flatMap((leaf) => {
          const ids = idsOf(leaf);
          return ids === undefined ? [] : [rowsAt(leaf, ids, feeds).then((handle): [string, Handle] => [leaf.name, handle])];
        });
        if (own.length === 0) return;
        looked.set(at, Promise.all(own));
        looked.get(at)!.catch(() => undefined); // it is awaited when the stage runs
      });
      return {
        async of(at) {
          const handles = new Map([...(await streaming.of(at)), ...((await looked.get(at)) ?? [])]);
          for (const leaf of leavesOf(stages[order[at]!]!)) {
            if (handles.has(leaf.name)) continue;
            handles.set(leaf.name, kept.get(keyOf(partOf(leaf)))!.parts[partOf(leaf).part]!.handle);
          }
          return handles;
        },
        done: streaming.done,
        end() {
          for (const rows of looked.values()) {
            const freed = rows.then((all) => {
              for (const [, handle] of all) machine.free(handle);
            });
            freed.catch(() => undefined); // the run has failed by it
          }
        },
      };
    },
    async close() {
      await stream.close();
      freeKept();
    },
  };
}

const idsOf = ({ part }: WeightLeaf): string | undefined => (part?.rows && "at" in part.rows ? part.rows.at : undefined);

/** How rows of a part of a weight are read, their type, and the part's shape: from where it lies, or as numbers that become float32 on the way. */
function rowsOf(leaf: WeightLeaf, places: readonly PartPlace[] | null, { files, source }: WeightOptions) {
  const place = places?.[partOf(leaf).part];
  const tensor = inFolder(source.folder, source.locate(partOf(leaf).of));
  const { dtype, shape } = place ?? { dtype: "float32" as const, shape: tensor.shape };
  const width = sizeOf(shape.slice(1)) * bytesPerElement[dtype];
  const read = async (first: number, count: number, into: Uint8Array): Promise<void> => {
    if (place) {
      await files.read(place.file, place.offset + first * width, count * width, into);
      return;
    }
    // All rows of a tensor that is stored the other way round at once: each block would read all of it.
    const step = tensor.layout?.transposed ? count : Math.max(1, Math.floor(CONVERTED_BYTES / width));
    for (let at = 0; at < count; at += step) {
      const rows = await readRows(files, tensor, first + at, Math.min(step, count - at));
      into.set(bytesOf(rows), at * width);
    }
  };
  return { dtype, shape, width, read, isConverted: !place };
}

/** How what a leaf has of a weight is read for its stage; conversions one after the other. */
function readOf(
  { dtype, shape, width, read, isConverted }: ReturnType<typeof rowsOf>,
  { part }: WeightLeaf,
  converting: TaskQueue,
): StageRead {
  const { first, count } = part?.rows && "first" in part.rows ? part.rows : { first: 0, count: shape[0]! };
  const own = (into: Uint8Array) => read(first, count, into);
  return {
    dtype,
    shape: [count, ...shape.slice(1)],
    length: count * width,
    read: isConverted ? (into) => converting(() => own(into)) : own,
  };
}

/**
 * The names of the sources that are read anew at every step if weights are: rows, and large weights but for tables of which the engine
 * reads single rows.
 */
export function passingWeights(stages: readonly Stage[]): Set<string> {
  const looked = new Set(stages.flatMap(lookedUp));
  const bytes = new Map<string, number>();
  const names = new Map<string, string[]>();
  const passing = new Set<string>();
  for (const { inputs } of stages) {
    const seen = new Set<string>();
    for (const { source, leaf } of inputs) {
      if (source.kind !== "weight" || seen.has(source.name)) continue;
      seen.add(source.name);
      const key = keyOf(partOf(source));
      if (source.part?.rows) passing.add(source.name);
      else if (!looked.has(key) && !names.get(key)?.includes(source.name)) {
        bytes.set(key, (bytes.get(key) ?? 0) + sizeOf(leaf.shape as number[]) * bytesPerElement[leaf.dtype]);
        names.set(key, [...(names.get(key) ?? []), source.name]);
      }
    }
  }
  for (const [key, own] of names) if (bytes.get(key)! >= SMALL_BYTES) for (const name of own) passing.add(name);
  return passing;
}

/** Weights of which the engine reads single rows: a table of embeddings, an output layer. */
function lookedUp({ graph, inputs }: Stage): string[] {
  const nodes = nodesOf(graph).filter(({ op }) => op === "embedding" || op === "linearCrossEntropy");
  const read = new Set(nodes.flatMap((node) => node.inputs.map((value) => value.node)));
  for (const { op, inputs } of [...read]) if (op === "widen") for (const value of inputs) read.add(value.node);
  return inputs.flatMap(({ source, leaf }) => (source.kind === "weight" && read.has(leaf.node) ? [keyOf(partOf(source))] : []));
}
