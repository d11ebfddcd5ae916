// Weights that an engine is given when it compiles: parts in forms that it multiplies with. Those that it packs are freed again.
import { type ElementType, type Graph, type Node, nodesOf } from "../graph/graph.ts";
import { input } from "../graph/ops/leaves.ts";
import type { FormName } from "../graph/ops/stored.ts";
import { packedProbe } from "../graph/pack.ts";
import { isInPlace } from "../onnx/emitter.ts";
import { lower } from "../onnx/lower.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import type { Handle, Machine, Memory, Place } from "./machine.ts";
import { keyOf } from "./part-cache.ts";
import { type WeightOptions, weightReader } from "./weight-reader.ts";

export interface GivenParts {
  /** By the names that the model has for them. */
  handles: ReadonlyMap<string, Handle>;
  /** The model is compiled: what the engine has packed is freed. */
  packed(): void;
  /** Frees the others. */
  close(): void;
}

/** The parts of weights that `graph` has as leaves of its own, without those that the engine reads in place. */
export async function readGiven(graph: Graph, options: WeightOptions): Promise<GivenParts> {
  const { machine, source } = options;
  const leaves = nodesOf(graph).filter(({ attributes: { of }, outputs: [leaf] }) => {
    return of !== undefined && !isInPlace(source.locate(String(of)), leaf!);
  });
  const reader = weightReader(options);
  const loaded = new Map<string, Place[]>();
  const handles = new Map<string, Handle>();
  const [packed, kept] = [tensorsOf(machine), tensorsOf(machine)];
  const close = () => {
    packed.free();
    kept.free();
  };
  const weightOf = ({ attributes: { of, form } }: Node) => ({ of: String(of), form: form as FormName });
  try {
    await reader.useCache([...new Map(leaves.map((node) => [keyOf(weightOf(node)), weightOf(node)])).values()], new Set());
    for (const node of leaves) {
      const [weight, part] = [weightOf(node), Number(node.attributes["part"])];
      const { form } = weight;
      const key = keyOf(weight);
      if (!loaded.has(key)) {
        const places: Place[] = [];
        loaded.set(key, places);
        const isPacked = await packedParts(machine, form);
        await reader.read(weight, (dtype, shape) => {
          const place = (isPacked[places.length] ? packed : kept).take(dtype, shape);
          places.push(place);
          return place;
        });
      }
      handles.set(String(node.attributes["name"]), loaded.get(key)![part]!.handle);
    }
  } catch (error) {
    close();
    throw error;
  } finally {
    reader.close();
  }
  return { handles, packed: packed.free, close };
}

/** Memory is allocated in pieces of at least this: so large, allocators give it back to the system when it is freed. */
const PIECE_BYTES = 64 * 2 ** 20;
const ALIGNED = 64;

/** Tensors that are freed together. */
function tensorsOf(machine: Machine) {
  const pieces: Memory[] = [];
  const places: Place[] = [];
  let free: Uint8Array = new Uint8Array();
  return {
    take(dtype: ElementType, shape: readonly number[]): Place {
      const length = sizeOf(shape) * bytesPerElement[dtype];
      const taken = Math.ceil(length / ALIGNED) * ALIGNED;
      if (taken > free.length) {
        const piece = machine.allocate(Math.max(PIECE_BYTES, taken));
        pieces.push(piece);
        free = piece.bytes;
      }
      const bytes = free.subarray(0, length);
      free = free.subarray(taken);
      const place = { bytes, handle: machine.tensor(dtype, shape, bytes) };
      places.push(place);
      return place;
    },
    free(): void {
      for (const { handle } of places.splice(0)) machine.free(handle);
      for (const piece of pieces.splice(0)) piece.free();
      free = new Uint8Array();
    },
  };
}

const probed = new Map<string, Promise<boolean[]>>();

/**
 * Which parts of a form the engine copies into a layout of its own when it compiles, and never reads again. It does not say, and it
 * differs from processor to processor: a small product is computed before and after each part is overwritten.
 */
function packedParts(machine: Machine, form: FormName): Promise<boolean[]> {
  const known = probed.get(form) ?? probe(machine, form);
  probed.set(form, known);
  return known;
}

const PROBE = { rows: 32, columns: 128 };

async function probe(machine: Machine, form: FormName): Promise<boolean[]> {
  const { rows, columns } = PROBE;
  const x = input("x", "float32", [1, columns]);
  const { graph, parts } = packedProbe(x, rows, form);
  const model = lower(graph, () => ({ location: "", offset: 0, length: 0, dtype: "float32", shape: [rows, columns] }));
  const tensors = tensorsOf(machine);
  const places = parts.map(({ dtype, shape }) => tensors.take(dtype, shape.map(Number)));
  // Float32 scales of a little above 1, other bytes as they come.
  for (const [i, { bytes }] of places.entries()) {
    for (let at = 0; at < bytes.length; at++) bytes[at] = parts[i]!.dtype === "float32" ? [at, 0, 0x80, 0x3f][at % 4]! : at * 7;
  }
  const weights = new Map(parts.map(({ node }, i) => [String(node.attributes["name"]), places[i]!.handle]));
  const executable = await machine.compile(model, { inputs: ["x"], outputs: ["y"], weights, threads: 1 });
  const values = new Uint8Array(Float32Array.from({ length: columns }, (_, i) => 1 + (i % 5)).buffer);
  const fed = machine.tensor("float32", [1, columns], values);
  const product = async (): Promise<string> => {
    const [y] = await executable.run([fed], [{ index: 0 }]);
    const { data } = machine.read(y!);
    machine.free(y!);
    return data.toString();
  };
  try {
    const before = await product();
    const isPacked: boolean[] = [];
    for (const { bytes } of places) {
      const own = bytes.slice();
      bytes.fill(0);
      isPacked.push((await product()) === before);
      bytes.set(own);
    }
    return isPacked;
  } finally {
    executable.close();
    machine.free(fed);
    tensors.free();
  }
}
