// docs/add-a-model.md, taken at its word: its steps for a family that is not built, in a copy of the sources.
// slow
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { modelTypes } from "../../src/models/registry.ts";
import { fixtures, repository } from "../helpers/repository.ts";
import { long } from "../helpers/slow.ts";
import { sourceCopy } from "../helpers/source-copy.ts";

const fixture = `${fixtures}/add-a-model`;
const NAME = "starcoder2";
const page = readFileSync(path.join(repository, "docs/add-a-model.md"), "utf8");

const copy = sourceCopy("add-a-model", [
  "scripts/oracle",
  "test/fixtures/graphs",
  "test/helpers/assert.ts",
  "test/helpers/print-graph.ts",
  "test/helpers/repository.ts",
  "test/helpers/tiny-decoder.ts",
  "test/models/decoder.test.ts",
  "test/graph/graph.test.ts",
]);
after(copy.remove);
const { at, changed, lowrank } = copy;

const familyFile = `src/models/families/${NAME}.ts`;
const registryFile = "src/models/families/index.ts";
const caseFolder = `test/fixtures/cases/${NAME}`;

test("the page has the steps that this test follows", () => {
  const steps = [...page.matchAll(/^\d\. \*\*(.+?)\*\*/gm)].map(([, step]) => step);
  assert.deepEqual(steps, ["Read", "The config", "The forward pass", "Older names", "The line", "The proof"]);
  assert.ok(!modelTypes.includes(NAME), "the family is built: take another one for this test");
  assert.deepEqual(changed(), []);
});

test("until the family is there, lowrank plan says so, and names the file for the line", async () => {
  await copy.compile();
  const { code, text } = await lowrank("plan", `${fixture}/case/base/config.json`);
  assert.equal(code, 2, text);
  assert.match(text, new RegExp(`the model type "${NAME}" is not supported`));
  const found = /A new family is a file in (\S+) and a line in (\S+) \((\S+)\)/.exec(text.replace(/\s+/g, " "))!.slice(1);
  assert.deepEqual(found, [path.dirname(familyFile) + "/", registryFile, "docs/add-a-model.md"]);
  assert.ok(page.includes(`one line in \`${registryFile}\``));
});

test("The config, The forward pass: one file", () => {
  // Beside the fixture the sources are further away; types are checked in both places.
  const text = readFileSync(`${fixture}/${NAME}.ts`, "utf8");
  const moved = text.replaceAll("../../../src/models/", "../").replaceAll("../../../src/", "../../");
  writeFileSync(at(familyFile), moved);
  assert.deepEqual(changed(), [familyFile]);
});

test("The line: one more in families.ts, and lowrank plan counts the model", async () => {
  const before = readFileSync(at(registryFile), "utf8");
  writeFileSync(at(registryFile), `${before}export { ${NAME} } from "./${NAME}.ts";\n`);
  assert.deepEqual(changed(), [registryFile, familyFile]);
  await copy.compile();
  const { code, text } = await lowrank("plan", `${fixture}/case/base/config.json`, "--json");
  assert.equal(code, 0, text);
  const { trainable_parameters: trainable } = JSON.parse(readFileSync(`${fixture}/case/meta.json`, "utf8"));
  assert.equal(JSON.parse(text).trainableParameters, 2 * trainable, "at rank 8, twice PEFT's at rank 4");
});

test("The proof: golden case, cache and graph", async () => {
  cpSync(`${fixture}/case`, at(caseFolder), { recursive: true });
  const [oracle, cache, graph] = await Promise.all([
    copy.run("scripts/oracle/main.ts", caseFolder),
    copy.tests("test/models/decoder.test.ts", NAME),
    copy.tests("test/graph/graph.test.ts", NAME, { UPDATE: "1" }),
  ]);
  assert.match(oracle.text, /\n1 passed, 0 failed, 0 skipped\n$/);
  for (const { text, code, passed } of [cache, graph]) assert.deepEqual([code, passed], [0, 1], text);
});

test("The proof: types", long, async () => assert.deepEqual(await copy.types(), { code: 0, text: "" }));

test("no other file had to change", () => {
  const places = changed().map((name) => (name.startsWith(caseFolder) ? caseFolder : name));
  const printed = `test/fixtures/graphs/${NAME}.txt`;
  assert.deepEqual([...new Set(places)], [registryFile, familyFile, caseFolder, printed]);
  const lines = (file: string) => readFileSync(file, "utf8").trimEnd().split("\n");
  const [before, now] = [lines(path.join(repository, registryFile)), lines(at(registryFile))];
  assert.deepEqual(now.slice(0, -1), before, "one line");
});
