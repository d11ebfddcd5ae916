// docs/add-a-format.md, taken at its word: its steps for a format that is not built, in a copy of the sources.
// slow
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { fixtures, repository } from "../helpers/repository.ts";
import { long } from "../helpers/slow.ts";
import { sourceCopy } from "../helpers/source-copy.ts";

const page = readFileSync(path.join(repository, "docs/add-a-format.md"), "utf8");
const NAME = "single-file";

const copy = sourceCopy("add-a-format", ["scripts/cli-docs.ts", "docs/cli.md"]);
after(copy.remove);
const { at, changed } = copy;

const rowFile = `src/interop/adapters/${NAME}.ts`;
const tableFile = "src/interop/adapters/index.ts";
const golden = `${fixtures}/cases/lora-qv-default`;
const convert = (...args: string[]) => copy.lowrank("convert", ...args, "--base", `${golden}/base`);

test("the page has the steps that this test follows", () => {
  const steps = [...page.matchAll(/^\d\. \*\*(.+?)\*\*/gm)].map(([, step]) => step);
  assert.deepEqual(steps, ["Read", "The row", "What it can't say", "The line", "The proof"]);
  assert.ok(page.includes(`one line in \`${tableFile}\``));
  assert.deepEqual(changed(), []);
});

test("The row, What it can't say: one file", () => {
  const text = readFileSync(`${fixtures}/add-a-format/${NAME}.ts`, "utf8");
  writeFileSync(at(rowFile), text.replaceAll("../../../src/interop/adapters/", "./").replaceAll("../../../src/", "../../"));
  assert.deepEqual(changed(), [rowFile]);
});

test("The line: convert has the format", async () => {
  writeFileSync(at(tableFile), `${readFileSync(at(tableFile), "utf8")}export { singleFile } from "./${NAME}.ts";\n`);
  await copy.compile();
  const { code, text } = await convert("--help");
  assert.equal(code, 0, text);
  assert.match(text, /singleFile/);
});

test("The proof: every update there and back", async () => {
  const to = await convert(`${golden}/adapter`, at("a.safetensors"), "--to", "singleFile");
  assert.equal(to.code, 0, to.text);
  const back = await convert(at("a.safetensors"), at("back"));
  assert.equal(back.code, 0, back.text);
  const [ours, theirs] = [await readAdapter(nodeFiles, at("back")), await readAdapter(nodeFiles, `${golden}/adapter`)];
  assert.deepEqual([ours.modules, ours.tensors], [theirs.modules, theirs.tensors]);
  const docs = await copy.run("scripts/cli-docs.ts");
  assert.equal(docs.code, 0, docs.text);
});

test("The proof: types", long, async () => assert.deepEqual(await copy.types(), { code: 0, text: "" }));

test("no other file had to change", () => {
  const places = changed().filter((name) => !name.startsWith("back/") && name !== "a.safetensors");
  assert.deepEqual(places, ["docs/cli.md", tableFile, rowFile]);
});
