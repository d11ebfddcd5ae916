// npm run embedded -- --data FOLDER --output FOLDER: makes the embedded base and the data of `lowrank demo` from nothing.
// FOLDER of the data holds e2e-dev.csv and e2e-test-refs.csv (the E2E dataset) and gsm8k-train.jsonl (GSM8K).
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { type FinetuneOptions, finetune } from "../../src/index.ts";
import { CHECKPOINT_FILES, type Sizes, writeUntrained } from "../untrained.ts";
import { conversations, corpus, demoRecord, named } from "./corpus.ts";
import { makeDraw } from "./draw.ts";
import { cleanRows, type Row, shortened, TAGS } from "./rows.ts";

const { values } = parseArgs({
  options: {
    data: { type: "string" },
    output: { type: "string" },
    demo: { type: "string" },
  },
});
const { data, output, demo } = values;
if (!data || !output || !demo) {
  console.error("npm run embedded -- --data FOLDER --output models/embedded --demo models/demo");
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
const TRAIN_ROWS = 2000;
const TEST_ROWS = 200;
/** Facts that a text of the demo states at least: with fewer there is little to extract. */
const LEAST_FACTS = 4;
/** Texts of the first stage (79 tokens each, on average), and the steps after which it ends, two thirds through its schedule. */
const TEXTS = 60_000;
const FIRST_STEPS = 1500;
/** Conversations of the second stage. */
const CONVERSATIONS = 10_000;
/** Texts that the vocabulary is learned from. */
const VOCABULARY_TEXTS = 8000;
const streams = { split: 10, corpus: 11, train: 12, test: 13, conversations: 14 };

/** What a row says, its names aside. */
const combination = ({ facts }: Row) => JSON.stringify({ ...facts, name: "", near: facts.near && "" });

const { rows, read } = await cleanRows(["e2e-dev.csv", "e2e-test-refs.csv"].map((name) => path.join(data, name)));
const combinations = makeDraw(0, streams.split).shuffled([...new Set(rows.map(combination))].sort());
const heldCombinations = new Set(combinations.slice(0, Math.round(HELD * combinations.length)));
const rest = rows.filter((row) => !heldCombinations.has(combination(row)));
/** What the demo asks for. With the other place aside, some held-out combinations are those of other rows: these are not used. */
const tags = ({ facts }: Row) => JSON.stringify(TAGS.map((fact) => facts[fact]));
const known = new Set(rest.map(tags));
const held = rows.filter((row) => heldCombinations.has(combination(row)) && !known.has(tags(row)));
console.log(
  `${rows.length} of ${read} rows are clean; ${combinations.length} combinations of facts, ${heldCombinations.size} held out`,
);

const write = (file: string, records: readonly object[]) =>
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
/** `count` rows of distinct texts, with names of `split`. */
const demoRows = (from: readonly Row[], split: "train" | "test", count: number) => {
  const draw = makeDraw(0, streams[split]);
  const rich = from.filter(({ facts }) => TAGS.filter((fact) => facts[fact] !== undefined).length >= LEAST_FACTS);
  const distinct = [...new Map(rich.map((row) => [row.text, row])).values()];
  return draw
    .shuffled(distinct)
    .slice(0, count)
    .map((row) => demoRecord(named(row, draw, split)));
};
mkdirSync(demo, { recursive: true });
// A place whose text lacks a fact is rare in some combinations: sentences left out make more of them, none that are held out.
const heldTags = new Set(held.map(tags));
const shorter = rest.flatMap(shortened).filter((row) => !heldTags.has(tags(row)));
write(path.join(demo, "train.jsonl"), demoRows([...rest, ...shorter], "train", TRAIN_ROWS));
write(path.join(demo, "test.jsonl"), demoRows(held, "test", TEST_ROWS));

const problems = readFileSync(path.join(data, "gsm8k-train.jsonl"), "utf8")
  .trim()
  .split("\n")
  .map((line): string => JSON.parse(line).question);
const texts = corpus(rest, problems, TEXTS, makeDraw(0, streams.corpus));

const work = mkdtempSync(path.join(tmpdir(), "lowrank-embedded-"));
const untrained = path.join(work, "untrained");
await writeUntrained(untrained, SIZES, texts.slice(0, VOCABULARY_TEXTS));
write(
  path.join(work, "texts.jsonl"),
  texts.map((text) => ({ text })),
);
/** Trains every weight of `base` on `data`, and stops after `stopAfter` steps where the schedule is longer. */
async function trainFull(base: string, file: string, output: string, options: Partial<FinetuneOptions>, stopAfter?: number) {
  const stop = new AbortController();
  const shared = { packing: true, epochs: 1, batchSize: 4, schedule: "cosine", warmup: 0.03, weightDecay: 0.01 } as const;
  const run = finetune({
    ...shared,
    ...options,
    method: "full",
    base,
    data: file,
    output,
    checkpointEvery: 500,
    signal: stop.signal,
  });
  for await (const event of run) {
    if (event.type === "prepared") console.log(`${event.parameters} parameters, ${event.train.tokens} tokens`);
    if (event.type !== "step") continue;
    if (event.step === stopAfter) stop.abort();
    if (event.step % 50 === 0) {
      const { step, loss, tokensPerSecond, etaSeconds } = event;
      console.log(
        `step ${step}: loss ${loss.toFixed(3)}, ${Math.round(tokensPerSecond)} tokens/s, ${Math.round(etaSeconds)} s left`,
      );
    }
  }
}

const [first, second] = [path.join(work, "first"), path.join(work, "second")];
await trainFull(untrained, path.join(work, "texts.jsonl"), first, { trainOn: "all", learningRate: 2e-3 }, FIRST_STEPS);
write(path.join(work, "conversations.jsonl"), conversations(rest, CONVERSATIONS, makeDraw(0, streams.conversations)));
const pretrained = path.join(first, `checkpoint-${FIRST_STEPS}`);
await trainFull(pretrained, path.join(work, "conversations.jsonl"), second, { learningRate: 1.5e-3 });
mkdirSync(output, { recursive: true });
for (const name of CHECKPOINT_FILES) cpSync(path.join(second, name), path.join(output, name));
rmSync(work, { recursive: true });
