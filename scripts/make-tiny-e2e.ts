// Makes test/fixtures/tiny-e2e from the development set of the E2E NLG dataset (Novikova et al. 2017): node scripts/run.mjs scripts/make-tiny-e2e.ts e2e-dev.csv
import { writeFileSync } from "node:fs";
import { readRecords } from "../src/data/readers.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { permutation, purpose } from "../src/random.ts";

const TRAIN_ROWS = 400;
const EVAL_ROWS = 40;
const csv = process.argv[2];
if (csv === undefined) throw new Error("give the path of e2e-dev.csv");

/** The first reference of each meaning representation, so that no representation of the evaluation rows is trained on. */
const rows = new Map<string, string>();
for await (const { record } of readRecords(nodeFiles, csv, { promptColumn: "mr", completionColumn: "ref" })) {
  if (!("prompt" in record)) throw new Error("the file has other columns than mr and ref");
  if (!rows.has(record.prompt)) rows.set(record.prompt, record.completion);
}
const all = [...rows];
const lines = [...permutation(0, [purpose.shuffle], all.length)].map((i) => {
  const [prompt, completion] = all[i]!;
  return JSON.stringify({ prompt: `${prompt}\n`, completion });
});
const folder = new URL("../test/fixtures/tiny-e2e/", import.meta.url);
const write = (name: string, part: string[]) => writeFileSync(new URL(name, folder), `${part.join("\n")}\n`);
write("train.jsonl", lines.slice(0, TRAIN_ROWS));
write("eval.jsonl", lines.slice(TRAIN_ROWS, TRAIN_ROWS + EVAL_ROWS));
