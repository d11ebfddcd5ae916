// Folders of small models of other tasks, complete with tokenizer and image processor, and pictures and records to train them on.
import { cp, mkdir, writeFile } from "node:fs/promises";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { png } from "./png.ts";

const fixtures = "test/fixtures";

/** An image processor that resizes to the side of the models in the cases. */
export const processor = {
  image_processor_type: "CLIPImageProcessor",
  do_convert_rgb: true,
  do_resize: true,
  size: { height: 16, width: 16 },
  do_center_crop: false,
  do_rescale: true,
  do_normalize: true,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
};

const bases = {
  bert: { from: "bert-seqcls", tokenizer: "bert-style", images: false },
  vit: { from: "vit-imgcls", tokenizer: null, images: true },
  clip: { from: "clip-contrastive", tokenizer: "clip-style", images: true },
} as const;

/** A base of this model type inside `folder`; the path of it. */
export async function taskBase(folder: string, modelType: keyof typeof bases): Promise<string> {
  const { from, tokenizer, images } = bases[modelType];
  const base = `${folder}/${modelType}`;
  await cp(`${fixtures}/cases/${from}/base`, base, { recursive: true });
  if (tokenizer) await cp(`${fixtures}/tokenizers/${tokenizer}`, base, { recursive: true });
  if (images) await writeFile(`${base}/preprocessor_config.json`, JSON.stringify(processor));
  return base;
}

/** Takes the classifier out of a base's weights, as if it had never been trained to classify. */
export async function withoutHead(base: string): Promise<void> {
  const checkpoint = await openCheckpoint(nodeFiles, base);
  const names = [...checkpoint.tensors.keys()].filter((name) => !name.startsWith("classifier."));
  const sources = names.map(async (name) => {
    const { dtype, shape, data } = await readWeights(nodeFiles, checkpoint, name);
    return { name, dtype, shape, data: () => bytesOf(data) };
  });
  await writeSafetensors(nodeFiles, `${base}/model.safetensors`, await Promise.all(sources), { format: "pt" });
}

export const colours = { red: [220, 30, 30], green: [30, 200, 40], blue: [30, 40, 220] } as const;
export type Colour = keyof typeof colours;

/** Writes a picture of one colour, with some of another shade in each, and gives its name. */
export async function picture(folder: string, colour: Colour, number: number): Promise<string> {
  const side = 12;
  const shade = (channel: number, x: number, y: number) =>
    Math.min(255, Math.max(0, channel + (((x * 7 + y * 13 + number * 29) % 41) - 20)));
  const rows = Array.from({ length: side }, (_, y) =>
    Uint8Array.from({ length: 3 * side }, (_, i) => shade(colours[colour][i % 3]!, Math.floor(i / 3), y)),
  );
  const name = `images/${colour}-${number}.png`;
  await mkdir(`${folder}/images`, { recursive: true });
  await writeFile(`${folder}/${name}`, png({ width: side, height: side }, rows));
  return name;
}

/** Writes records, one a line; the path of the file. */
export async function jsonl(folder: string, name: string, records: readonly object[]): Promise<string> {
  await writeFile(`${folder}/${name}`, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return `${folder}/${name}`;
}
