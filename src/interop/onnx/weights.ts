// The weights of an exported graph in the forms of an export's files, and their values: read, merged and put into a form a block at a time.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { type Checkpoint, findTensor } from "../../formats/checkpoint.ts";
import { bytesOf } from "../../formats/dtypes.ts";
import { allFinite, type FloatDType, fromFloat32 } from "../../formats/float.ts";
import { readRows, transposed } from "../../formats/stored.ts";
import { apply1, type ElementType, type Graph, nodesOf, rewrite, type Value } from "../../graph/graph.ts";
import { input } from "../../graph/ops/leaves.ts";
import { BLOCK } from "../../graph/ops/packed.ts";
import { type FormName, forms, stored } from "../../graph/ops/stored.ts";
import { packLinears } from "../../graph/pack.ts";
import { storeWeights } from "../../graph/store.ts";
import { weightsIn } from "../../models/module.ts";
import { weightFiles } from "../../models/weights.ts";
import { checkStored } from "../../onnx/emitter.ts";
import { bytesOfWeight, type WeightValues } from "../../onnx/model-file.ts";
import { openGraph } from "../../runtime/open-graph.ts";
import { noWeights, type OpenSession, type Session } from "../../runtime/session.ts";
import { float32, sizeOf } from "../../tensor.ts";

/** Elements of a weight that are in memory at once, about. */
const BLOCK_ELEMENTS = 2 ** 21;

/** Matrices in float16, widened where they are read, and vectors in float32. */
const halves = (graph: Graph): Graph => {
  const plain = new Set(nodesOf(graph).flatMap(({ op, attributes: { name, of } }) => (op === "weight" && !of ? [name] : [])));
  return storeWeights(graph, ({ name }) => (plain.has(name) ? "float16" : null));
};

/** What the weights of an export's file are in, by the name of the choice. */
export const weightForms = {
  f32: (graph: Graph): Graph => graph,
  f16: halves,
  /** Linear layers in blocks of 32 columns, for MatMulNBits; other matrices in float16. The output layer has 8 bits in both. */
  q8: (graph: Graph): Graph => halves(packLinears(graph, 8, 0)),
  q4: (graph: Graph): Graph => halves(packLinears(graph, 4, 0)),
} satisfies Record<string, (graph: Graph) => Graph>;
export type WeightForm = keyof typeof weightForms;

/** What a leaf of the written graph holds: a part of a weight in a form, or all of it in float32, which may be transposed. */
interface Leaf {
  weight: string;
  form: FormName | null;
  part: number;
  type: { dtype: ElementType; shape: readonly number[] };
}

const TURNED = ".transposed";

/** Weights that are read transposed become leaves of the transposed matrix. */
function turnedWeights(graph: Graph): Graph {
  const made = new Map<string, Value>();
  return rewrite(graph, ({ op }, [x]) => {
    if (op !== "transpose" || x!.node.op !== "weight" || x!.shape.length !== 2) return null;
    const name = `${x!.node.attributes["name"]}${TURNED}`;
    const [rows, columns] = x!.shape as [number, number];
    const leaf = made.get(name) ?? apply1("weight", [], { name, dtype: x!.dtype, shape: [columns, rows] });
    made.set(name, leaf);
    return [leaf];
  });
}

export interface WeightSources {
  files: Files;
  checkpoint: Checkpoint;
  /** Puts weights into forms that are made of blocks. */
  openSession?: OpenSession;
  onProgress?: (progress: { tensor: string; done: number; total: number }) => void;
}

/**
 * The graph with its weights in a form, and their values by name, in order. Call `close` when they are written. Fails as opening a
 * session does if the checkpoint lacks a weight, or has it in another shape.
 */
export function withWeights(graph: Graph, form: WeightForm, sources: WeightSources) {
  const { locate } = weightFiles(sources.checkpoint);
  for (const { name, shape } of weightsIn(graph)) checkStored(name, shape, locate(name));
  const leaves = new Map<string, Leaf>();
  const written = rewrite(weightForms[form](turnedWeights(graph)), ({ op, attributes, outputs }) => {
    if (op !== "weight") return null;
    const { of, form, part } = attributes as { of?: string; form?: FormName; part?: number };
    const name = String(attributes["name"]);
    const { dtype, shape } = outputs[0]!;
    leaves.set(name, { weight: of ?? name, form: form ?? null, part: part ?? 0, type: { dtype, shape: shape as number[] } });
    return [apply1("weight", [], { name, dtype, shape, of: name })];
  });
  const sessions = new Map<string, Promise<Session>>();
  const valuesOf = partsReader(sources, sessions);
  const total = [...leaves.values()].reduce((sum, { type }) => sum + bytesOfWeight(type), 0);
  let done = 0;
  const dataOf = async function* (tensor: string, leaf: Leaf): AsyncGenerator<Uint8Array> {
    yield* valuesOf(leaf);
    done += bytesOfWeight(leaf.type);
    sources.onProgress?.({ tensor, done, total });
  };
  const values = new Map(
    [...leaves].map(([name, leaf]): [string, WeightValues] => [name, { ...leaf.type, data: () => dataOf(name, leaf) }]),
  );
  const close = async () => {
    for (const session of sessions.values()) await (await session).close();
  };
  return { graph: written, values, close };
}

/** Makes the bytes of leaves. What has several parts is made once for all of them. */
function partsReader({ files, checkpoint, openSession }: WeightSources, sessions: Map<string, Promise<Session>>) {
  /** Parts that are made already, by weight and form. */
  const kept = new Map<string, Uint8Array[]>();

  const converterOf = (columns: number, form: FormName): Promise<Session> => {
    if (!openSession) throw new Error("blocks are made by an engine");
    const key = `${form} ${columns}`;
    const outputs = Object.fromEntries(
      stored(input("x", "float32", ["rows", columns]), form).map((part, i) => [`part${i}`, part]),
    );
    const session = sessions.get(key) ?? openGraph({ outputs }, noWeights, { openSession });
    sessions.set(key, session);
    return session;
  };

  async function madeParts({ weight, form }: Leaf): Promise<Uint8Array[]> {
    const parts = forms[form!].parts(1, BLOCK).map((): Uint8Array[] => []);
    for await (const block of rowsOf(files, checkpoint, weight)) {
      const session = await converterOf(block.columns, form!);
      const made = await session.run({ x: float32([block.values.length / block.columns, block.columns], block.values) });
      for (const [i, { data }] of Object.values(made).entries()) parts[i]!.push(bytesOf(data));
    }
    return parts.map(joined);
  }

  return async function* (leaf: Leaf): AsyncGenerator<Uint8Array> {
    const { weight, form, part } = leaf;
    if (form === null || form === "float16") {
      for await (const { values } of rowsOf(files, checkpoint, weight)) yield encoded(values, form ?? "float32", weight);
      return;
    }
    const key = `${form} ${weight}`;
    const parts = kept.get(key) ?? (await madeParts(leaf));
    if (part === forms[form].parts(1, BLOCK).length - 1) kept.delete(key);
    else kept.set(key, parts);
    yield parts[part]!;
  };
}

function joined(blocks: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(blocks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const block of blocks) {
    all.set(block, at);
    at += block.length;
  }
  return all;
}

/** The values of a weight in float32, whole rows at a time; of one that is transposed all at once. */
async function* rowsOf(
  files: Files,
  checkpoint: Checkpoint,
  name: string,
): AsyncGenerator<{ values: Float32Array; columns: number }> {
  const isTurned = name.endsWith(TURNED);
  const entry = findTensor(checkpoint, isTurned ? name.slice(0, -TURNED.length) : name);
  const rows = entry.shape[0] ?? 1;
  const columns = sizeOf(entry.shape) / Math.max(1, rows);
  if (isTurned) {
    yield { values: transposed(await readRows(files, entry), rows, columns), columns: rows };
    return;
  }
  const step = Math.max(1, Math.floor(BLOCK_ELEMENTS / columns));
  for (let row = 0; row < rows; row += step)
    yield { values: await readRows(files, entry, row, Math.min(step, rows - row)), columns };
}

function encoded(values: Float32Array, dtype: FloatDType, weight: string): Uint8Array {
  const bytes = bytesOf(fromFloat32(values, dtype));
  if (allFinite(bytes, dtype)) return bytes;
  throw new LowrankError("convert/not-finite", `a value of this weight is not finite in ${dtype}`, {
    subject: weight,
    expected: "finite values within the range of the type",
    next: "Write it in another type (--dtype f32), or check the model: its training may have diverged.",
    exitCode: 1,
  });
}
