// Rows of a golden case without their padding, with what PEFT computed at their last token, for a decoder to reproduce.
import { type Adapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { readHeader, readTensor } from "../../src/formats/safetensors.ts";
import type { ModelDecoder } from "../../src/generate/decoder.ts";
import { leftPad } from "../../src/generate/generate.ts";
import { type Base, loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { fixtures } from "./repository.ts";

export interface GoldenRow {
  ids: Int32Array;
  /** The logits of the last token, [vocab], of the base and with the adapter. */
  base: Float32Array;
  adapter: Float32Array;
}

export const caseFolder = (name: string): string => `${fixtures}/cases/${name}`;

export async function goldenRows(name: string): Promise<{ base: Base; adapter: Adapter; rows: GoldenRow[] }> {
  const folder = caseFolder(name);
  const io = `${folder}/io.safetensors`;
  const { tensors } = await readHeader(nodeFiles, io);
  const read = (key: string) => readTensor(nodeFiles, io, tensors.get(key)!);
  const [ids, mask, base, adapted] = await Promise.all(
    ["input_ids", "attention_mask", "logits_base", "logits_adapter"].map(read),
  );
  const [count, width] = ids!.shape as [number, number];
  const vocab = base!.shape[2]!;
  const rows = Array.from({ length: count }, (_, row): GoldenRow => {
    const places = Array.from({ length: width }, (_, i) => row * width + i).filter((at) => Number(mask!.data[at]) === 1);
    const last = (logits: typeof base) =>
      (logits!.data as Float32Array).slice(places.at(-1)! * vocab, (places.at(-1)! + 1) * vocab);
    return { ids: Int32Array.from(places, (at) => Number(ids!.data[at])), base: last(base), adapter: last(adapted) };
  });
  return { base: await loadBase(nodeFiles, `${folder}/base`), adapter: await readAdapter(nodeFiles, `${folder}/adapter`), rows };
}

/** The greatest distance between what `decoder` computes at the last token of each row and the golden `side`. */
export async function distanceTo(decoder: ModelDecoder, rows: readonly GoldenRow[], side: "base" | "adapter"): Promise<number> {
  const logits = await decoder.start(
    leftPad(
      rows.map(({ ids }) => ids),
      0,
    ),
  );
  await decoder.end();
  const vocab = decoder.vocabSize;
  return rows.reduce(
    (worst, row, i) => row[side].reduce((far, value, j) => Math.max(far, Math.abs(value - logits[i * vocab + j]!)), worst),
    0,
  );
}
