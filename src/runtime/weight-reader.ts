// Frozen weights as parts in their forms: read from where they lie as they are, or converted by the engine block by block.
import type { Files } from "../files.ts";
import { bytesOf } from "../formats/dtypes.ts";
import { type CheckpointTensor, isPlain, readRows } from "../formats/stored.ts";
import type { ElementType } from "../graph/graph.ts";
import { cast } from "../graph/ops/elementwise.ts";
import { input } from "../graph/ops/leaves.ts";
import { type FormName, forms, isQuick, stored } from "../graph/ops/stored.ts";
import { whole } from "../graph/stages.ts";
import { inFolder, type StoredTensor } from "../onnx/emitter.ts";
import { lower } from "../onnx/lower.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import type { Executable, Machine, Place } from "./machine.ts";
import { cachedParts, type FormedWeight, keyOf, type PartCache, type PartPlace, type Take } from "./part-cache.ts";
import type { SessionOptions, WeightSource } from "./session.ts";

/** Elements of a weight that are converted at once: 2 MB of float32. */
const BLOCK_ELEMENTS = 2 ** 19;

export interface WeightOptions {
  machine: Machine;
  /** What puts weights into their forms, if not the machine. */
  host?: Machine;
  files: Files;
  source: WeightSource;
  threads?: number;
  /** Where converted weights are kept from session to session; nowhere if absent. */
  cache?: PartCache;
  onConverted?: SessionOptions["onConverted"];
}

/** Where the parts of a weight lie in memory. */
export interface Loaded {
  parts: Place[];
}

export type WeightReader = ReturnType<typeof weightReader>;

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

/** The types of the parts that hold a weight of this shape. */
function partTypes(shape: readonly number[], form: FormName | null): { dtype: ElementType; shape: number[] }[] {
  if (form === null) return [{ dtype: "float32", shape: [...shape] }];
  return forms[form].parts(shape[0]!, shape[1]!) as { dtype: ElementType; shape: number[] }[];
}

/** Reads weights as parts. */
export function weightReader(options: WeightOptions) {
  const { machine, files, source, threads, cache, onConverted } = options;
  const converters = new Map<string, Promise<Executable>>();
  const kept = new Map<string, readonly PartPlace[]>();

  const isAsStored = (stored: StoredTensor, form: FormName | null): boolean =>
    isPlain(inFolder(source.folder, stored)) && stored.dtype === (form ?? "float32");
  const typesOf = ({ of, form }: FormedWeight) => partTypes(source.locate(of).shape, form);

  /** Where the parts of a weight lie on disk; null if they have to be made. */
  function placesOf(weight: FormedWeight): readonly PartPlace[] | null {
    const stored = source.locate(weight.of);
    if (!isAsStored(stored, weight.form)) return kept.get(keyOf(weight)) ?? null;
    const { file, offset, length, shape } = inFolder(source.folder, stored);
    return [{ file, offset, length, shape, dtype: stored.dtype as ElementType }];
  }

  /**
   * Looks for weights in the cache, and puts there what is slow to convert, and those of `anew` that are not stored as they are used. Fails
   * only for the latter, where there is no cache, or no room in it.
   */
  async function useCache(weights: readonly FormedWeight[], anew: ReadonlySet<string>): Promise<void> {
    const wanted = weights.filter((weight) => {
      if (placesOf(weight)) return false;
      return anew.has(keyOf(weight)) || (weight.form !== null && !isQuick(weight.form));
    });
    const mustBeKept = wanted.some((weight) => anew.has(keyOf(weight)));
    const found = await cachedParts({ cache, machine, source, mustBeKept, onConverted }, wanted, typesOf, read);
    for (const [key, places] of found) kept.set(key, places);
  }

  const fresh: Take = (dtype, shape) => {
    const bytes = new Uint8Array(new SharedArrayBuffer(sizeOf(shape) * bytesPerElement[dtype]));
    return { bytes, handle: machine.tensor(dtype, shape, bytes) };
  };
  async function read(weight: FormedWeight, take: Take = fresh): Promise<Loaded> {
    const parts = typesOf(weight).map(({ dtype, shape }) => take(dtype, shape));
    try {
      await fill(weight, parts);
    } catch (error) {
      if (take === fresh) for (const { handle } of parts) machine.free(handle);
      throw error;
    }
    return { parts };
  }

  async function fill(weight: FormedWeight, parts: readonly Place[]): Promise<void> {
    const places = placesOf(weight);
    if (places) {
      const reads = places.map(({ file, offset, length }, i) => files.read(file, offset, length, parts[i]!.bytes));
      await Promise.all(reads).finally(() => Promise.allSettled(reads)); // after a failure the memory is freed
    } else await convert(weight, parts);
  }

  async function convert({ of, form }: FormedWeight, parts: readonly Place[]): Promise<void> {
    const stored = source.locate(of);
    const types = partTypes(stored.shape, form);
    const tensor = inFolder(source.folder, stored);
    const [rows, columns] = stored.shape.length === 2 ? (stored.shape as [number, number]) : [1, sizeOf(stored.shape)];
    // One block of a tensor that is stored the other way round: each would read all of it.
    const step = stored.layout?.transposed ? rows : Math.max(1, Math.floor(BLOCK_ELEMENTS / columns));
    const { dtype, readBlock } = blocksOf(tensor, rows, step);
    const executable = await converterOf(dtype, columns, form);
    for (let start = 0; start < rows; start += step) {
      const length = Math.min(step, rows - start);
      const given = machine.tensor(dtype, [length, columns], await readBlock(start, length));
      const blocks = partTypes([length, columns], form).map(({ dtype, shape }, i) => {
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
    placesOf,
    useCache,
    close() {
      for (const made of converters.values())
        made.then(
          (executable) => executable.close(),
          () => undefined, // thrown where it is awaited
        );
      converters.clear();
    },
  };
}
