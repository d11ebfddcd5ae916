// npm run embedded -- --data FOLDER --output FOLDER [--texts N]: makes the embedded base and the data of `lowrank demo` from nothing.
// FOLDER of the data holds e2e-dev.csv and e2e-test-refs.csv (the E2E dataset) and gsm8k-train.jsonl (GSM8K).
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { finetune } from "../../src/index.ts";
import { CHECKPOINT_FILES, type Sizes, writeUntrained } from "../untrained.ts";
import { corpus, demoRecord, named } from "./corpus.ts";
import { makeDraw } from "./draw.ts";
import { cleanRows, type Row } from "./rows.ts";

const { values } = parseArgs({
  options: {
    data: { type: "string" },
    output: { type: "string" },
    demo: { type: "string" },
    texts: { type: "string", default: "48000" },
  },
});
const { data, output, demo } = values;
if (!data || !output || !demo) {
  console.error("npm run embedded -- --data FOLDER --output models/embedded --demo models/demo [--texts 48000]");
  process.exit(2);
}

const SIZES: Sizes = {
  vocab: 2048,
  hidden: 192,
  layers: 6,
  heads: 6,
  kvHeads: 3,
  mlp: 512,
  positions: 512,
  dtype: "float16",
};
/** Of the combinations of facts, this share is kept for the held-out rows of the demo. */
const HELD = 0.15;
const TRAIN_ROWS = 2500;
const TEST_ROWS = 200;
/** Texts that the vocabulary is learned from. */
const VOCABULARY_TEXTS = 8000;
const streams = { split: 10, corpus: 11, train: 12, test: 13 };

/** What a row says, its names aside. */
const combination = ({ facts }: Row) => JSON.stringify({ ...facts, name: "", near: facts.near && "" });

const { rows, read } = await cleanRows(["e2e-dev.csv", "e2e-test-refs.csv"].map((name) => path.join(data, name)));
const combinations = makeDraw(0, streams.split).shuffled([...new Set(rows.map(combination))].sort());
const heldCombinations = new Set(combinations.slice(0, Math.round(HELD * combinations.length)));
const held = rows.filter((row) => heldCombinations.has(combination(row)));
const rest = rows.filter((row) => !heldCombinations.has(combination(row)));
console.log(
  `${rows.length} of ${read} rows are clean; ${combinations.length} combinations of facts, ${heldCombinations.size} held out`,
);

const write = (file: string, records: readonly object[]) =>
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
/** `count` rows of distinct texts, with names of `split`. */
const demoRows = (from: readonly Row[], split: "train" | "test", count: number) => {
  const draw = makeDraw(0, streams[split]);
  const distinct = [...new Map(from.map((row) => [row.text, row])).values()];
  return draw
    .shuffled(distinct)
    .slice(0, count)
    .map((row) => demoRecord(named(row, draw, split)));
};
mkdirSync(demo, { recursive: true });
write(path.join(demo, "train.jsonl"), demoRows(rest, "train", TRAIN_ROWS));
write(path.join(demo, "test.jsonl"), demoRows(held, "test", TEST_ROWS));

const problems = readFileSync(path.join(data, "gsm8k-train.jsonl"), "utf8")
  .trim()
  .split("\n")
  .map((line): string => JSON.parse(line).question);
const texts = corpus(rest, problems, Number(values.texts), makeDraw(0, streams.corpus));

const work = mkdtempSync(path.join(tmpdir(), "lowrank-embedded-"));
const untrained = path.join(work, "untrained");
await writeUntrained(untrained, SIZES, texts.slice(0, VOCABULARY_TEXTS));
write(
  path.join(work, "texts.jsonl"),
  texts.map((text) => ({ text })),
);
const run = finetune({
  method: "full",
  base: untrained,
  data: path.join(work, "texts.jsonl"),
  output: path.join(work, "trained"),
  trainOn: "all",
  packing: true,
  epochs: 1,
  batchSize: 4,
  learningRate: 2e-3,
  schedule: "cosine",
  warmup: 0.03,
  weightDecay: 0.01,
  checkpointEvery: 500,
});
for await (const event of run) {
  if (event.type === "prepared") console.log(`${event.parameters} parameters, ${event.train.tokens} tokens`);
  if (event.type === "step" && event.step % 50 === 0) {
    console.log(
      `step ${event.step}: loss ${event.loss.toFixed(3)}, ${Math.round(event.tokensPerSecond)} tokens/s, ${Math.round(event.etaSeconds)} s left`,
    );
  }
}
mkdirSync(output, { recursive: true });
for (const name of CHECKPOINT_FILES) cpSync(path.join(work, "trained", name), path.join(output, name));
rmSync(work, { recursive: true });
