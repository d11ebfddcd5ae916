// The frozen weights that stages are given: in memory from the start, or read from their files while the stage before runs.
import type { Files } from "../files.ts";
import { type ElementType, type Graph, nodesOf } from "../graph/graph.ts";
import { cast } from "../graph/ops/elementwise.ts";
import { input } from "../graph/ops/leaves.ts";
import { type FormName, forms, stored } from "../graph/ops/stored.ts";
import { type Source, type Stage, whole } from "../graph/stages.ts";
import type { StoredTensor } from "../onnx/emitter.ts";
import { lower } from "../onnx/lower.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import type { Executable, Handle, Machine, Place } from "./machine.ts";
import type { WeightSource } from "./session.ts";

/** Elements of a weight that are converted at once: 2 MB of float32. */
const BLOCK_ELEMENTS = 2 ** 19;
/** Weights of fewer bytes stay in memory when the others are read anew at every step. */
const SMALL_BYTES = 2 ** 20;

export interface WeightOptions {
  machine: Machine;
  files: Files;
  source: WeightSource;
  threads?: number;
}

/** A tensor that a part is written to. */
type Take = (dtype: ElementType, shape: readonly number[]) => Place;
type WeightLeaf = Extract<Source, { kind: "weight" }>;

/** Where the parts of a weight lie in memory. */
export interface Loaded {
  parts: Place[];
}

export interface Weights {
  /** The weights of a stage, by the names of its sources. */
  of(stage: number): Promise<ReadonlyMap<string, Handle>>;
  /** Begins to read those of the stage that comes next. */
  ahead(stage: number): void;
  /** The stage has run. */
  done(stage: number): void;
  /** Bytes that have been read since it opened. */
  bytesRead(): number;
  close(): void;
}

/** The weights of a program's stages. `streamed`: large ones that are multiplied with are read anew whenever their stage runs. */
export async function openWeights(stages: readonly Stage[], streamed: boolean, options: WeightOptions): Promise<Weights> {
  const { machine } = options;
  const reader = weightReader(options);
  const kept = new Map<string, Loaded>();
  const passing = stages.map((): { of: string; form: FormName | null }[] => []);
  const looked = new Set(stages.flatMap(({ graph, inputs }) => lookedUp(graph, inputs)));
  for (const [at, { inputs }] of stages.entries()) {
    for (const { source } of inputs) {
      if (source.kind !== "weight") continue;
      const { of, form } = wholeOf(source);
      if (kept.has(keyOf(of, form)) || passing[at]!.some((one) => keyOf(one.of, one.form) === keyOf(of, form))) continue;
      if (streamed && reader.isPlain(of, form) && !looked.has(of) && reader.bytes(of, form) >= SMALL_BYTES)
        passing[at]!.push({ of, form });
      else kept.set(keyOf(of, form), await reader.read(of, form));
    }
  }
  reader.close();

  const named = (stage: number, passed: ReadonlyMap<string, Loaded>): Map<string, Handle> => {
    const handles = new Map<string, Handle>();
    for (const { source } of stages[stage]!.inputs) {
      if (source.kind !== "weight") continue;
      const { of, form } = wholeOf(source);
      const loaded = kept.get(keyOf(of, form)) ?? passed.get(keyOf(of, form))!;
      handles.set(source.name, loaded.parts[source.part?.part ?? 0]!.handle);
    }
    return handles;
  };
  /** Memory that a weight of this size was in, for the next one. */
  const free = new Map<number, Uint8Array[]>();
  const take: Take = (dtype, shape) => {
    const length = sizeOf(shape) * bytesPerElement[dtype];
    const bytes = free.get(length)?.pop() ?? new Uint8Array(length);
    return { bytes, handle: machine.tensor(dtype, shape, bytes) };
  };
  const reading = new Map<number, Promise<Map<string, Loaded>>>();
  const read = (stage: number) => {
    const known = reading.get(stage);
    if (known) return known;
    const started = Promise.all(
      passing[stage]!.map(async ({ of, form }) => [keyOf(of, form), await reader.read(of, form, take)] as const),
    ).then((all) => new Map(all));
    started.catch(() => undefined); // it is awaited when the stage runs
    reading.set(stage, started);
    return started;
  };
  const drop = ({ parts }: Loaded) => {
    for (const { handle, bytes } of parts) {
      machine.free(handle);
      free.set(bytes.length, [...(free.get(bytes.length) ?? []), bytes]);
    }
  };
  return {
    of: async (stage) => named(stage, await read(stage)),
    ahead: (stage) => void read(stage),
    done(stage) {
      const running = reading.get(stage);
      reading.delete(stage);
      running?.then((all) => all.forEach(drop));
    },
    bytesRead: reader.bytesRead,
    close() {
      for (const { parts } of kept.values()) for (const { handle } of parts) machine.free(handle);
      kept.clear();
    },
  };
}

export const keyOf = (of: string, form: FormName | null): string => `${form ?? "float32"} ${of}`;
const wholeOf = ({ name, part }: WeightLeaf) => ({ of: part?.of ?? name, form: part?.form ?? null });

/** Weights of which single rows are read: a table of embeddings, an output layer. */
function lookedUp(graph: Graph, inputs: Stage["inputs"]): string[] {
  const nodes = nodesOf(graph).filter(({ op }) => op === "embedding" || op === "linearCrossEntropy");
  const read = new Set(nodes.flatMap((node) => node.inputs.map((value) => value.node)));
  for (const { op, inputs } of [...read]) if (op === "widen") for (const value of inputs) read.add(value.node);
  return inputs.flatMap(({ source, leaf }) => (source.kind === "weight" && read.has(leaf.node) ? [wholeOf(source).of] : []));
}

/** Reads weights block by block, and puts them into their forms with the engine. */
export function weightReader({ machine, files, source, threads }: WeightOptions) {
  const converters = new Map<string, Promise<Executable>>();
  let count = 0;
  const partsOf = ({ shape }: StoredTensor, form: FormName | null) => {
    if (form === null) return [{ dtype: "float32" as const, shape }];
    return forms[form].parts(shape[0]!, shape[1]!) as { dtype: ElementType; shape: number[] }[];
  };
  const isPlain = (stored: StoredTensor, form: FormName | null): boolean => stored.dtype === (form ?? "float32");

  const fresh: Take = (dtype, shape) => {
    const bytes = new Uint8Array(sizeOf(shape) * bytesPerElement[dtype]);
    return { bytes, handle: machine.tensor(dtype, shape, bytes) };
  };
  async function read(name: string, form: FormName | null, take: Take = fresh): Promise<Loaded> {
    const stored = source.locate(name);
    const file = `${source.folder}/${stored.location}`;
    const types = partsOf(stored, form);
    const parts = types.map(({ dtype, shape }) => take(dtype, shape));
    if (isPlain(stored, form)) {
      await files.read(file, stored.offset, stored.length, parts[0]!.bytes);
      count += stored.length;
      return { parts };
    }
    const [rows, columns] = stored.shape.length === 2 ? (stored.shape as [number, number]) : [1, sizeOf(stored.shape)];
    const step = Math.max(1, Math.floor(BLOCK_ELEMENTS / columns));
    const width = stored.length / sizeOf(stored.shape);
    const executable = await converterOf(stored.dtype as ElementType, columns, form);
    const buffer = new Uint8Array(Math.min(step, rows) * columns * width);
    for (let start = 0; start < rows; start += step) {
      const length = Math.min(step, rows - start);
      const bytes = buffer.subarray(0, length * columns * width);
      await files.read(file, stored.offset + start * columns * width, bytes.length, bytes);
      count += bytes.length;
      const given = machine.tensor(stored.dtype as ElementType, [length, columns], bytes);
      const places = types.map(({ dtype, shape }, i) => {
        const all = rows === 1 ? [1, sizeOf(shape)] : [length, ...shape.slice(1)];
        const rowBytes = sizeOf(all.slice(1)) * bytesPerElement[dtype];
        const block = parts[i]!.bytes.subarray(start * rowBytes, (start + length) * rowBytes);
        return { index: i, place: machine.tensor(dtype, all, block) };
      });
      try {
        await executable.run([given], places);
      } finally {
        machine.free(given);
        for (const { place } of places) machine.free(place);
      }
    }
    return { parts };
  }

  const converterOf = (dtype: ElementType, columns: number, form: FormName | null): Promise<Executable> => {
    const key = `${dtype} ${columns} ${form}`;
    const known = converters.get(key);
    if (known) return known;
    const x = cast(input("x", dtype, ["rows", columns]), "float32");
    const outputs = form === null ? [x] : stored(x, form);
    const names = outputs.map((_, i) => `part${i}`);
    const program = whole({ outputs: Object.fromEntries(outputs.map((value, i) => [names[i]!, value])) });
    const model = lower(program.stages[0]!.graph, source.locate);
    const made = machine.compile(model, { inputs: ["x"], outputs: names, threads });
    converters.set(key, made);
    return made;
  };
  return {
    read,
    /** Whether a weight's bytes are used as they are stored. */
    isPlain: (name: string, form: FormName | null) => isPlain(source.locate(name), form),
    bytes: (name: string, form: FormName | null) =>
      partsOf(source.locate(name), form).reduce((sum, { dtype, shape }) => sum + sizeOf(shape) * bytesPerElement[dtype], 0),
    bytesRead: () => count,
    close() {
      for (const made of converters.values()) made.then((executable) => executable.close());
      converters.clear();
    },
  };
}
