// docs/add-a-method.md, taken at its word: its steps for a method that is taken away first, in a copy of the sources.
// slow
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { fixtures, repository } from "../helpers/repository.ts";
import { long } from "../helpers/slow.ts";
import { sourceCopy } from "../helpers/source-copy.ts";

const NAME = "lora-bias";
const page = readFileSync(path.join(repository, "docs/add-a-method.md"), "utf8");

const copy = sourceCopy("add-a-method", ["scripts/oracle", "scripts/cli-docs.ts", "docs/cli.md"]);
after(copy.remove);
const { at, changed, lowrank } = copy;

const methodFile = `src/adapters/methods/${NAME}.ts`;
const tableFile = "src/adapters/methods/index.ts";
const golden = `${fixtures}/cases/lora-b-bias`;

test("the page has the steps that this test follows", () => {
  const steps = [...page.matchAll(/^\d\. \*\*(.+?)\*\*/gm)].map(([, step]) => step);
  assert.deepEqual(steps, ["Read", "The fields", "The tensors", "The update", "Merging", "The line", "The proof"]);
  assert.ok(page.includes(`one line in \`${tableFile}\``));
  assert.deepEqual(changed(), []);
});

const line = /^export \{ loraBias \} from .*$/m;
const unbuiltLine = 'export const loraBias = unbuilt("lora_bias", false, "a bias of B is not applied", /\\.lora_[AB]\\.bias$/);';
const builtTable = readFileSync(path.join(repository, tableFile), "utf8");
const unbuiltTable = builtTable.replace(line, () => unbuiltLine);

test("until the method is there, an adapter that uses it is refused by its field", async () => {
  assert.match(builtTable, line);
  rmSync(at(methodFile));
  writeFileSync(at(tableFile), unbuiltTable);
  await copy.compile();
  const { code, text } = await lowrank("inspect", `${golden}/adapter`);
  assert.equal(code, 2, text);
  assert.match(text, /lora_bias is not supported with this value: a bias of B is not applied/);
});

test("The fields, The tensors, The update, Merging: one file", () => {
  writeFileSync(at(methodFile), readFileSync(path.join(repository, methodFile), "utf8"));
  assert.deepEqual(changed(), [tableFile]);
});

test("The line: in the place of the one that said why it is refused", async () => {
  writeFileSync(at(tableFile), unbuiltTable.replace(/^export const loraBias = .*$/m, `export { loraBias } from "./${NAME}.ts";`));
  assert.deepEqual(changed(), [], "as the sources are");
  const lines = (text: string) => text.trimEnd().split("\n");
  assert.equal(lines(builtTable).filter((one, i) => one !== lines(unbuiltTable)[i]).length, 1, "one line");
  await copy.compile();
  const { code, text } = await lowrank("inspect", `${golden}/adapter`, "--base", `${golden}/base`, "--json");
  assert.equal(code, 0, text);
  const { trainable_parameters: trainable } = JSON.parse(readFileSync(`${golden}/meta.json`, "utf8"));
  const { method, parameters } = JSON.parse(text);
  assert.deepEqual([method, parameters], ["LoRA with a bias of B", trainable]);
});

test("The proof: golden case, a run and its scores", async () => {
  const data = `${fixtures}/tiny-e2e/train.jsonl`;
  const base = `${fixtures}/tiny-llama`;
  const training = ["--base", base, "--data", data, "--steps", "2", "--batch-size", "2", "--threads", "1"];
  const [oracle, docs, run] = await Promise.all([
    copy.run("scripts/oracle/main.ts", golden),
    copy.run("scripts/cli-docs.ts"),
    lowrank("train", ...training, "--output", at("run"), "--lora-bias"),
  ]);
  assert.match(oracle.text, /\n1 passed, 0 failed, 0 skipped\n$/);
  assert.equal(docs.code, 0, docs.text);
  assert.match(readFileSync(at("docs/cli.md"), "utf8"), /`--lora-bias`/);
  assert.equal(run.code, 0, run.text);
  assert.equal(JSON.parse(readFileSync(at("run/adapter_config.json"), "utf8")).lora_bias, true);
  const scored = await lowrank("eval", "--base", base, "--adapter", at("run"), "--data", data, "--threads", "1", "--json");
  assert.equal(scored.code, 0, scored.text);
});

test("The proof: types", long, async () => assert.deepEqual(await copy.types(), { code: 0, text: "" }));

test("no other file had to change", () => {
  assert.deepEqual(
    changed().filter((name) => !name.startsWith("run/")),
    [],
  );
});
