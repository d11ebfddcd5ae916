// npm run check:plan -- [--base FOLDER] [--only TEXT] [--json]: does training use the memory that `lowrank plan` estimates?
// Short real runs, each in a process of its own: the tiny Llama of the tests, a Llama of middle size with random weights, two models
// of middle size that read images, classifiers of the size of BERT base and ViT base, and the model in FOLDER. Rows are full (texts
// longer than the maximum), so that every batch is as large as planned.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { initModel } from "../src/index.ts";
import type { MemoryEstimate } from "../src/train/memory.ts";

/** How far the estimate may be off. */
const TOLERANCE = 0.2;
const STEPS = 2;

const { values } = parseArgs({
  options: { base: { type: "string" }, only: { type: "string", default: "" }, json: { type: "boolean", default: false } },
});

const place = mkdtempSync(path.join(tmpdir(), "lowrank-check-plan-"));
process.on("exit", () => rmSync(place, { recursive: true, force: true }));
const tiny = fileURLToPath(new URL("../test/fixtures/tiny-llama", import.meta.url));
const step = fileURLToPath(new URL("./plan-step.mjs", import.meta.url));

/** 105 million parameters in float32, with the tokenizer of the tiny Llama. */
async function middle(): Promise<string> {
  const folder = path.join(place, "middle");
  mkdirSync(folder);
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) cpSync(`${tiny}/${name}`, `${folder}/${name}`);
  const json = {
    ...JSON.parse(readFileSync(`${tiny}/config.json`, "utf8")),
    hidden_size: 768,
    intermediate_size: 2688,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    num_key_value_heads: 12,
    head_dim: 64,
    vocab_size: 8000,
    max_position_embeddings: 2048,
    tie_word_embeddings: false,
    torch_dtype: "float32",
  };
  await initModel(json, folder);
  return folder;
}

const images = fileURLToPath(new URL("../test/fixtures/image-text", import.meta.url));

/** What makes a model of middle size of a tiny one that reads images. */
const textSizes = {
  hidden_size: 512,
  intermediate_size: 1536,
  num_hidden_layers: 8,
  num_attention_heads: 8,
  num_key_value_heads: 8,
  head_dim: 64,
  max_position_embeddings: 2048,
};
const towerSizes = { hidden_size: 384, intermediate_size: 1536, num_hidden_layers: 8, num_attention_heads: 6, patch_size: 16 };
const imageSizes: Record<string, { side: number; processor: Record<string, unknown> }> = {
  llava: { side: 224, processor: { size: { shortest_edge: 224 }, crop_size: 224 } },
  idefics3: { side: 256, processor: { size: { longest_edge: 512 }, max_image_size: { longest_edge: 256 } } },
};

/** Image tokens of llava: 196; of idefics3, which splits the image of the data in five: 64 each. */
async function withImages(family: string): Promise<string> {
  const folder = path.join(place, family);
  mkdirSync(folder);
  for (const name of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]) {
    cpSync(`${images}/${family}/${name}`, `${folder}/${name}`);
  }
  const read = (name: string) => JSON.parse(readFileSync(`${images}/${family}/${name}`, "utf8"));
  const { side, processor } = imageSizes[family]!;
  const { image_processor: tiny } = read("processor_config.json");
  writeFileSync(`${folder}/preprocessor_config.json`, JSON.stringify({ ...tiny, ...processor }));
  const json = read("config.json");
  Object.assign(json.text_config, textSizes);
  Object.assign(json.vision_config, towerSizes, { image_size: side });
  await initModel(json, folder);
  return folder;
}

const classifiers: Record<string, { from: string; sizes: Record<string, unknown>; record: (i: number) => object }> = {
  bert: {
    from: "bert-seqcls",
    sizes: { vocab_size: 30522, max_position_embeddings: 512 },
    record: (i) => ({ text, label: i % 3 }),
  },
  vit: {
    from: "vit-imgcls",
    sizes: { image_size: 224, patch_size: 16 },
    record: (i) => ({ image: `pictures/${i}.png`, label: i % 5 }),
  },
};
const baseSizes = { hidden_size: 768, intermediate_size: 3072, num_hidden_layers: 12, num_attention_heads: 12 };

/** A classifier of the size of BERT base or ViT base. */
async function classifier(model: string): Promise<string> {
  const folder = path.join(place, model);
  mkdirSync(folder);
  const { from, sizes } = classifiers[model]!;
  const fixtures = path.dirname(tiny);
  if (model === "bert") cpSync(`${fixtures}/tokenizers/bert-style`, folder, { recursive: true });
  else {
    const processor = JSON.parse(readFileSync(`${fixtures}/images/processors/vit/preprocessor_config.json`, "utf8"));
    writeFileSync(`${folder}/preprocessor_config.json`, JSON.stringify({ ...processor, size: { height: 224, width: 224 } }));
  }
  const json = JSON.parse(readFileSync(`${fixtures}/cases/${from}/base/config.json`, "utf8"));
  await initModel({ ...json, ...baseSizes, ...sizes }, folder);
  return folder;
}

interface Case {
  model: string;
  batchSize: number;
  maxLength: number;
  options?: Record<string, unknown>;
}

const sizes = (model: string, list: [number, number][], options?: Record<string, unknown>): Case[] =>
  list.map(([batchSize, maxLength]) => ({ model, batchSize, maxLength, options }));

/** `--memory` and `--base-dtype`. */
const executions = [
  ["keep", "float32"],
  ["products", "float32"],
  ["recompute", "float32"],
  ["stream", "float32"],
  ["keep", "bfloat16"],
  ["recompute", "bfloat16"],
  ["keep", "int8"],
  ["recompute", "int8"],
  ["stream", "int8"],
  ["keep", "int4"],
  ["stream", "int4"],
];

const cases: Case[] = [
  ...sizes("tiny", [
    [1, 128],
    [8, 512],
  ]),
  ...sizes("tiny", [[8, 512]], { method: "full" }),
  ...sizes("middle", [
    [1, 128],
    [4, 256],
    [1, 1024],
    [1, 2048],
  ]),
  ...sizes("middle", [[4, 256]], { rank: 64, dropout: 0.1 }),
  ...sizes("middle", [[4, 256]], { targetModules: ["q_proj", "v_proj"] }),
  ...sizes("middle", [[2, 256]], { method: "full" }),
  ...sizes("llava", [
    [1, 256],
    [4, 512],
  ]),
  ...sizes("idefics3", [
    [1, 512],
    [2, 1024],
  ]),
  ...sizes("llava", [[2, 256]], { method: "full" }),
  ...sizes("bert", [
    [8, 128],
    [4, 512],
  ]),
  ...sizes("bert", [[8, 128]], { method: "full" }),
  ...sizes("vit", [
    [1, 197],
    [8, 197],
    [24, 197],
  ]),
  ...sizes("vit", [[4, 197]], { method: "full" }),
  ...sizes("base", [
    [1, 128],
    [2, 256],
    [4, 256],
    [1, 1024],
    [3, 512],
    [4, 512],
  ]),
  ...sizes("base", [[4, 256]], { rank: 64, dropout: 0.1 }),
  ...sizes("base", [[2, 256]], { targetModules: ["q_proj", "v_proj"] }),
  ...sizes("base", [[2, 128]], { method: "full" }),
  ...executions.flatMap(([memory, baseDtype]) => sizes("base", [[2, 256]], { memory, baseDtype })),
];

interface Result {
  memory: MemoryEstimate;
  trainable: number;
  peak: number;
  stepSeconds: number;
}

const data = path.join(place, "data.jsonl");
const text = Array.from({ length: 500 }, (_, i) => `name ${i} of the eagle`).join(", ");
writeFileSync(data, `${JSON.stringify({ text })}\n`.repeat(24));

cpSync(fileURLToPath(new URL("../test/fixtures/images/files/wide.png", import.meta.url)), path.join(place, "wide.png"));
const imageData = path.join(place, "images.jsonl");
const seen = {
  messages: [
    { role: "user", content: [{ type: "image" }, { type: "text", text: "What is it?" }] },
    { role: "assistant", content: "a word ".repeat(500) },
  ],
  images: ["wide.png"],
};
writeFileSync(imageData, `${JSON.stringify(seen)}\n`.repeat(24));

/** Enough pictures to fill the memory that is kept for prepared ones. */
const PICTURES = 500;
mkdirSync(path.join(place, "pictures"));
for (let i = 0; i < PICTURES; i++) cpSync(path.join(place, "wide.png"), path.join(place, `pictures/${i}.png`));

/** The data of a classifier. */
function recordsOf(model: string): string {
  const file = path.join(place, `${model}.jsonl`);
  const records = Array.from({ length: PICTURES }, (_, i) => classifiers[model]!.record(i));
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return file;
}

const dataOf = (model: string): string => (model in classifiers ? recordsOf(model) : model in imageSizes ? imageData : data);

function measure(base: string, { model, batchSize, maxLength, options }: Case): Result {
  const output = path.join(place, "output");
  rmSync(output, { recursive: true, force: true });
  const given = {
    base,
    data: dataOf(model),
    output,
    batchSize,
    maxLength: model === "vit" ? undefined : maxLength,
    steps: STEPS,
    force: true,
    ...options,
  };
  const { status, stdout, stderr } = spawnSync(process.execPath, [step, JSON.stringify(given)], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}

const folders: Record<string, string | undefined> = { tiny, base: values.base };
let worst = 0;
if (!values.json)
  console.log("| model | batch × tokens | trained | estimate | measured | estimate / measured |\n|---|---|---|---|---|---|");
for (const one of cases) {
  const what = `${one.model} ${JSON.stringify(one.options ?? {})} ${one.batchSize}x${one.maxLength}`;
  if (!what.includes(values.only)) continue;
  if (one.model === "middle") folders["middle"] ??= await middle();
  if (one.model in imageSizes) folders[one.model] ??= await withImages(one.model);
  if (one.model in classifiers) folders[one.model] ??= await classifier(one.model);
  const base = folders[one.model];
  if (base === undefined) continue;
  const result = measure(base, one);
  const ratio = result.memory.total / result.peak;
  worst = Math.max(worst, Math.abs(ratio - 1));
  if (values.json) console.log(JSON.stringify({ ...one, ...result, ratio }));
  else {
    const options = Object.entries(one.options ?? {}).map(([name, value]) => `${name} ${value}`);
    const cells = [
      one.model,
      `${one.batchSize} × ${one.maxLength}`,
      [`${(result.trainable / 1e6).toFixed(1)} M`, ...options].join(", "),
      ...[result.memory.total, result.peak].map((bytes) => `${Math.round(bytes / 1e6)} MB`),
      ratio.toFixed(2),
    ];
    console.log(`| ${cells.join(" | ")} |`);
  }
}
console.log(`${values.json ? "" : "\n"}largest deviation: ${Math.round(100 * worst)} % (at most ${100 * TOLERANCE} %)`);
process.exitCode = worst > TOLERANCE ? 1 : 0;
