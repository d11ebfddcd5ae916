// Makes examples/data/restaurants.jsonl from the E2E dataset's development set and questions.jsonl from GSM8K's training set:
// node scripts/run.mjs scripts/make-example-data.ts e2e-dev.csv gsm8k-train.jsonl
import { readFileSync, writeFileSync } from "node:fs";
import { readRecords } from "../src/data/readers.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { permutation, purpose } from "../src/random.ts";

const RESTAURANTS = 900;
const QUESTIONS = 400;
const [csv, jsonl] = process.argv.slice(2);
if (csv === undefined || jsonl === undefined) throw new Error("give the paths of e2e-dev.csv and gsm8k-train.jsonl");

const restaurants: string[] = [];
for await (const { record } of readRecords(nodeFiles, csv, { promptColumn: "mr", completionColumn: "ref" })) {
  if ("completion" in record) restaurants.push(record.completion);
}
const questions = readFileSync(jsonl, "utf8")
  .trim()
  .split("\n")
  .map((line): string => JSON.parse(line).question);

function write(name: string, texts: readonly string[], count: number): void {
  const distinct = [...new Set(texts.map((text) => text.trim().replace(/\s+/g, " ")))];
  const chosen = [...permutation(0, [purpose.shuffle], distinct.length).subarray(0, count)].map((i) => distinct[i]!);
  const file = new URL(`../examples/data/${name}`, import.meta.url);
  writeFileSync(file, chosen.map((text) => `${JSON.stringify({ text })}\n`).join(""));
}
write("restaurants.jsonl", restaurants, RESTAURANTS);
write("questions.jsonl", questions, QUESTIONS);
