// The frozen weights that stages are given: in memory from the start, or read from their files while the stage before runs.
import type { Files } from "../files.ts";
import { bytesOf } from "../formats/dtypes.ts";
import { type CheckpointTensor, isPlain, readRows } from "../formats/stored.ts";
import { type ElementType, type Graph, nodesOf } from "../graph/graph.ts";
import { cast } from "../graph/ops/elementwise.ts";
import { input } from "../graph/ops/leaves.ts";
import { type FormName, forms, stored } from "../graph/ops/stored.ts";
import { type Stage, type StageSource, whole } from "../graph/stages.ts";
import { inFolder, type StoredTensor } from "../onnx/emitter.ts";
import { lower } from "../onnx/lower.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import type { Executable, Handle, Machine, Place } from "./machine.ts";
import type { WeightSource } from "./session.ts";

/** Elements of a weight that are converted at once: 2 MB of float32. */
const BLOCK_ELEMENTS = 2 ** 19;
/** Weights that are read at once: while one is converted, the next comes from its file. */
const READ_AT_ONCE = 3;
/** Weights of fewer bytes stay in memory when the others are read anew at every step. */
const SMALL_BYTES = 2 ** 20;

export interface WeightOptions {
  machine: Machine;
  /** What puts weights into their forms, if not the machine. */
  host?: Machine;
  files: Files;
  source: WeightSource;
  threads?: number;
}

/** A tensor that a part is written to. */
type Take = (dtype: ElementType, shape: readonly number[]) => Place;
type WeightLeaf = Extract<StageSource, { kind: "weight" }>;

/** Where the parts of a weight lie in memory. */
export interface Loaded {
  parts: Place[];
}

/** A weight of float32 in the memory of the machine's device, if it has one. */
async function moved({ parts }: Loaded, shape: readonly number[], { move }: Machine): Promise<Loaded> {
  if (!move) return { parts };
  const [{ handle }] = parts as [Place];
  return { parts: [{ handle: await move("float32", shape, handle), bytes: new Uint8Array() }] };
}

export interface Weights {
  /** The weights of a stage, by the names of its sources. */
  of(stage: number): Promise<ReadonlyMap<string, Handle>>;
  /** Begins to read those of the stage that comes next. */
  ahead(stage: number): void;
  /** The stage has run. */
  done(stage: number): void;
  close(): void;
}

/** The weights of a program's stages. `streamed`: large ones that are multiplied with are read anew whenever their stage runs. */
export async function openWeights(stages: readonly Stage[], streamed: boolean, options: WeightOptions): Promise<Weights> {
  const { machine, host = machine } = options;
  const reader = weightReader({ ...options, machine: host });
  const kept = new Map<string, Loaded>();
  const passing = stages.map((): { of: string; form: FormName | null }[] => []);
  const passes = new Set(streamed ? passingWeights(stages) : []);
  const unread = new Map<string, { of: string; form: FormName | null }>();
  for (const [at, { inputs }] of stages.entries()) {
    for (const { source } of inputs) {
      if (source.kind !== "weight") continue;
      const { of, form } = wholeOf(source);
      if (unread.has(keyOf(of, form)) || passing[at]!.some((one) => keyOf(one.of, one.form) === keyOf(of, form))) continue;
      if (passes.has(source.name) && reader.isAsStored(of, form)) passing[at]!.push({ of, form });
      else unread.set(keyOf(of, form), { of, form });
    }
  }
  const left = unread.entries();
  const readOn = async () => {
    for (const [key, { of, form }] of left) {
      kept.set(key, await moved(await reader.read(of, form), options.source.locate(of).shape, machine));
    }
  };
  await Promise.all(Array.from({ length: READ_AT_ONCE }, readOn));
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
    close() {
      for (const { parts } of kept.values()) for (const { handle } of parts) machine.free(handle);
      kept.clear();
    },
  };
}

export const keyOf = (of: string, form: FormName | null): string => `${form ?? "float32"} ${of}`;
const wholeOf = ({ name, part }: WeightLeaf) => ({ of: part?.of ?? name, form: part?.form ?? null });

/** The weights, by the names of their sources, that are read anew at every step if weights are: large ones, but for tables. */
export function passingWeights(stages: readonly Stage[]): string[] {
  const looked = new Set(stages.flatMap(({ graph, inputs }) => lookedUp(graph, inputs)));
  return stages.flatMap(({ inputs }) =>
    inputs.flatMap(({ source, leaf: { dtype, shape } }) => {
      if (source.kind !== "weight" || looked.has(wholeOf(source).of)) return [];
      return sizeOf(shape as number[]) * bytesPerElement[dtype] >= SMALL_BYTES ? [source.name] : [];
    }),
  );
}

/** Weights of which single rows are read: a table of embeddings, an output layer. */
function lookedUp(graph: Graph, inputs: Stage["inputs"]): string[] {
  const nodes = nodesOf(graph).filter(({ op }) => op === "embedding" || op === "linearCrossEntropy");
  const read = new Set(nodes.flatMap((node) => node.inputs.map((value) => value.node)));
  for (const { op, inputs } of [...read]) if (op === "widen") for (const value of inputs) read.add(value.node);
  return inputs.flatMap(({ source, leaf }) => (source.kind === "weight" && read.has(leaf.node) ? [wholeOf(source).of] : []));
}

/**
 * Memory for a block of a part, which begins at row `start` of its weight. Rows of the weight are rows of the part, whose memory the
 * block shares, or columns of it, where `finish` copies the block to.
 */
function blockOf(part: Uint8Array, whole: readonly number[], block: readonly number[], start: number, width: number) {
  const length = sizeOf(block) * width;
  if (whole.length < 2 || whole[1] === block[1]) {
    const at = start * sizeOf(whole.slice(1)) * width;
    return { bytes: part.subarray(at, at + length), finish: () => undefined };
  }
  const bytes = new Uint8Array(length);
  const [from, to] = [block[1]! * width, whole[1]! * width];
  const finish = () => {
    for (let i = 0; i < whole[0]!; i++) part.set(bytes.subarray(i * from, (i + 1) * from), i * to + start * width);
  };
  return { bytes, finish };
}

/** Reads weights block by block, and puts them into their forms with the engine. */
export function weightReader({ machine, files, source, threads }: WeightOptions) {
  const converters = new Map<string, Promise<Executable>>();
  const partsOf = ({ shape }: StoredTensor, form: FormName | null) => {
    if (form === null) return [{ dtype: "float32" as const, shape }];
    return forms[form].parts(shape[0]!, shape[1]!) as { dtype: ElementType; shape: number[] }[];
  };
  const isAsStored = (stored: StoredTensor, form: FormName | null): boolean =>
    isPlain(inFolder(source.folder, stored)) && stored.dtype === (form ?? "float32");

  const fresh: Take = (dtype, shape) => {
    const bytes = new Uint8Array(new SharedArrayBuffer(sizeOf(shape) * bytesPerElement[dtype]));
    return { bytes, handle: machine.tensor(dtype, shape, bytes) };
  };
  async function read(name: string, form: FormName | null, take: Take = fresh): Promise<Loaded> {
    const stored = source.locate(name);
    const tensor = inFolder(source.folder, stored);
    const types = partsOf(stored, form);
    const parts = types.map(({ dtype, shape }) => take(dtype, shape));
    if (isAsStored(stored, form)) {
      await files.read(tensor.file, stored.offset, stored.length, parts[0]!.bytes);
      return { parts };
    }
    const [rows, columns] = stored.shape.length === 2 ? (stored.shape as [number, number]) : [1, sizeOf(stored.shape)];
    // One block of a tensor that is stored the other way round: each would read all of it.
    const step = stored.layout?.transposed ? rows : Math.max(1, Math.floor(BLOCK_ELEMENTS / columns));
    const { dtype, readBlock } = blocksOf(tensor, rows, step);
    const executable = await converterOf(dtype, columns, form);
    for (let start = 0; start < rows; start += step) {
      const length = Math.min(step, rows - start);
      const given = machine.tensor(dtype, [length, columns], await readBlock(start, length));
      const blocks = partsOf({ ...stored, shape: [length, columns] }, form).map(({ dtype, shape }, i) => {
        const whole = rows === length ? shape : types[i]!.shape;
        const { bytes, finish } = blockOf(parts[i]!.bytes, whole, shape, start, bytesPerElement[dtype]);
        return { index: i, place: machine.tensor(dtype, shape, bytes), finish };
      });
      try {
        await executable.run([given], blocks);
        for (const { finish } of blocks) finish();
      } finally {
        machine.free(given);
        for (const { place } of blocks) machine.free(place);
      }
    }
    return { parts };
  }

  /** How rows of a tensor are read for the engine: in its own dtype, or as float32 where the engine does not know that. */
  function blocksOf(tensor: CheckpointTensor, rows: number, step: number) {
    if (isPlain(tensor)) {
      const width = tensor.length / Math.max(1, rows);
      const buffer = new Uint8Array(Math.min(step, rows) * width);
      const readBlock = (start: number, length: number) => {
        const bytes = buffer.subarray(0, length * width);
        return files.read(tensor.file, tensor.offset + start * width, bytes.length, bytes);
      };
      return { dtype: tensor.dtype as ElementType, readBlock };
    }
    const readBlock = async (start: number, length: number) => {
      const values = tensor.shape.length === 2 ? await readRows(files, tensor, start, length) : await readRows(files, tensor);
      return bytesOf(values);
    };
    return { dtype: "float32" as const, readBlock };
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
    isAsStored: (name: string, form: FormName | null) => isAsStored(source.locate(name), form),
    close() {
      for (const made of converters.values()) made.then((executable) => executable.close());
      converters.clear();
    },
  };
}
