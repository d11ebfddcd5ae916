// Makes test/fixtures/tiny-llama: a Llama of 2 layers with a tokenizer of its own, trained on the texts of tiny-e2e with `--method full`.
// node scripts/run.mjs scripts/make-tiny-llama.ts
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { finetune } from "../src/index.ts";
import { permutation, purpose } from "../src/random.ts";
import { CHECKPOINT_FILES, type Sizes, writeUntrained } from "./untrained.ts";

const fixtures = fileURLToPath(new URL("../test/fixtures", import.meta.url));
const target = `${fixtures}/tiny-llama`;
/** Orders that the texts are seen in, and texts of one document. */
const SHUFFLES = 4;
const TEXTS = 4;

/** Prompts, and a quarter of the completions: the model learns to list attributes, and has seen some sentences. */
const rows: { prompt: string; completion: string }[] = readFileSync(`${fixtures}/tiny-e2e/train.jsonl`, "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line));
const texts = rows.flatMap(({ prompt, completion }) => [prompt.trimEnd(), completion]);
const seen = rows.flatMap(({ prompt, completion }, i) => (i % 4 === 0 ? [prompt.trimEnd(), completion] : [prompt.trimEnd()]));
const documents = Array.from({ length: SHUFFLES }, (_, round) => {
  const shuffled = [...permutation(0, [purpose.shuffle, round], seen.length)].map((i) => seen[i]!);
  return Array.from({ length: Math.ceil(seen.length / TEXTS) }, (_, i) => shuffled.slice(i * TEXTS, (i + 1) * TEXTS).join("\n"));
}).flat();

const sizes: Sizes = {
  vocab: 512,
  hidden: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  mlp: 128,
  positions: 512,
  dtype: "bfloat16",
};
const work = mkdtempSync(path.join(tmpdir(), "lowrank-tiny-"));
const base = `${work}/base`;
await writeUntrained(base, sizes, texts);
const data = `${work}/texts.jsonl`;
writeFileSync(data, documents.map((text) => `${JSON.stringify({ text })}\n`).join(""));

const run = finetune({
  method: "full",
  base,
  data,
  output: `${work}/trained`,
  epochs: 8,
  batchSize: 16,
  learningRate: 3e-3,
  schedule: "cosine",
  warmup: 0.05,
  checkpointEvery: 100_000,
});
for await (const event of run) {
  if (event.type === "step" && event.step % 50 === 0) console.log(event.step, event.loss.toFixed(3), event.etaSeconds.toFixed(0));
}
mkdirSync(target, { recursive: true });
for (const name of CHECKPOINT_FILES) cpSync(`${work}/trained/${name}`, `${target}/${name}`);
rmSync(work, { recursive: true });
