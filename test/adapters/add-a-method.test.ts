// docs/add-a-method.md, taken at its word: its steps for a method that is not built, in a copy of the sources.
// slow
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { unbuiltMethods } from "../../src/adapters/method-table.ts";
import { sourceCopy } from "../helpers/source-copy.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const fixture = path.join(root, "test/fixtures/add-a-method");
const NAME = "lora-bias";
const page = readFileSync(path.join(root, "docs/add-a-method.md"), "utf8");

const copy = sourceCopy("add-a-method", ["src", "scripts/oracle", "scripts/cli-docs.ts", "docs/cli.md"]);
after(copy.remove);
const { at, changed, node } = copy;

const methodFile = `src/adapters/methods/${NAME}.ts`;
const tableFile = "src/adapters/methods/index.ts";
const caseFolder = "test/fixtures/cases/lora-b-bias";
const lowrank = (...args: string[]) => node(["--import", "tsx", "src/cli/main.ts", ...args]);

test("the page has the steps that this test follows", () => {
  const steps = [...page.matchAll(/^\d\. \*\*(.+?)\*\*/gm)].map(([, step]) => step);
  assert.deepEqual(steps, ["Read", "The fields", "The tensors", "The update", "Merging", "The line", "The proof"]);
  const isUnbuilt = unbuiltMethods.some(({ peftName }) => peftName === "lora_bias");
  assert.ok(isUnbuilt, "the method is built: take another one for this test");
  assert.ok(page.includes(`one line in \`${tableFile}\``));
  assert.deepEqual(changed(), []);
});

test("until the method is there, an adapter that uses it is refused by its field", async () => {
  const { code, text } = await lowrank("inspect", `${fixture}/case/adapter`);
  assert.equal(code, 2, text);
  assert.match(text, /lora_bias is not supported with this value: a bias of B is not applied/);
});

test("The fields, The tensors, The update, Merging: one file", () => {
  // Beside the fixture the sources are further away; types are checked in both places.
  const text = readFileSync(`${fixture}/${NAME}.ts`, "utf8");
  const moved = text.replaceAll("../../../src/adapters/methods/", "./").replaceAll("../../../src/adapters/", "../");
  writeFileSync(at(methodFile), moved.replaceAll("../../../src/", "../../"));
  assert.deepEqual(changed(), [methodFile]);
});

test("The line: in the place of the one that said why it is refused", async () => {
  const before = readFileSync(at(tableFile), "utf8");
  writeFileSync(at(tableFile), before.replace(/^export const loraBias = .*$/m, `export { loraBias } from "./${NAME}.ts";`));
  assert.deepEqual(changed(), [tableFile, methodFile]);
  const lines = (text: string) => text.trimEnd().split("\n");
  const now = lines(readFileSync(at(tableFile), "utf8"));
  assert.equal(now.filter((line, i) => line !== lines(before)[i]).length, 1, "one line");
  const { code, text } = await lowrank("inspect", `${fixture}/case/adapter`, "--base", `${fixture}/case/base`, "--json");
  assert.equal(code, 0, text);
  const { trainable_parameters: trainable } = JSON.parse(readFileSync(`${fixture}/case/meta.json`, "utf8"));
  const { method, parameters } = JSON.parse(text);
  assert.deepEqual([method, parameters], ["LoRA with a bias of B", trainable]);
});

test("The proof: types, golden case, a run and its merged model", async () => {
  cpSync(`${fixture}/case`, at(caseFolder), { recursive: true });
  const data = `${root}/test/fixtures/tiny-e2e/train.jsonl`;
  const base = `${root}/test/fixtures/tiny-llama`;
  const training = ["--base", base, "--data", data, "--steps", "2", "--batch-size", "2", "--threads", "1"];
  const [types, oracle, docs, run] = await Promise.all([
    node(["node_modules/typescript/bin/tsc", "--noEmit", "-p", "tsconfig.json"]),
    node(["--import", "tsx", "scripts/oracle/main.ts", caseFolder]),
    node(["--import", "tsx", "scripts/cli-docs.ts"]),
    lowrank("train", ...training, "--output", at("run"), "--lora-bias"),
  ]);
  assert.equal(types.text, "");
  assert.equal(types.code, 0);
  assert.match(oracle.text, /\n1 passed, 0 failed, 0 skipped\n$/);
  assert.equal(docs.code, 0, docs.text);
  assert.match(readFileSync(at("docs/cli.md"), "utf8"), /`--lora-bias`/);
  assert.equal(run.code, 0, run.text);
  assert.equal(JSON.parse(readFileSync(at("run/adapter_config.json"), "utf8")).lora_bias, true);
  const scored = await lowrank("eval", "--base", base, "--adapter", at("run"), "--data", data, "--threads", "1", "--json");
  assert.equal(scored.code, 0, scored.text);
});

test("no other file had to change", () => {
  const places = changed().filter((name) => !name.startsWith("run/") && !name.startsWith(caseFolder));
  assert.deepEqual(places, ["docs/cli.md", tableFile, methodFile]);
});
