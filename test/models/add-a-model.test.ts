// docs/add-a-model.md, taken at its word: its steps for a family that is not built, in a copy of the sources.
// slow
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { modelTypes } from "../../src/models/registry.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const fixture = path.join(root, "test/fixtures/add-a-model");
const NAME = "starcoder2";
const page = readFileSync(path.join(root, "docs/add-a-model.md"), "utf8");

/** The sources that the steps of the page touch or run, in a folder of their own. */
const copy = temporaryFolder();
const copied = [
  ...["package.json", "tsconfig.json", "src", "scripts/oracle", "test/fixtures/graphs"],
  ...[
    "test/helpers/assert.ts",
    "test/helpers/print-graph.ts",
    "test/helpers/tiny-decoder.ts",
    "test/models/decoder.test.ts",
    "test/graph/graph.test.ts",
  ],
];
for (const name of copied) cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
symlinkSync(path.join(root, "node_modules"), path.join(copy, "node_modules"));
mkdirSync(path.join(copy, "test/fixtures/cases"));

const inCopy = (name: string) => path.join(copy, name);
const familyFile = `src/models/families/${NAME}.ts`;
const registryFile = "src/models/families/index.ts";
const caseFolder = `test/fixtures/cases/${NAME}`;

/** Runs a program of the copy: its exit code, and all that it printed. */
function node(args: string[], env: Record<string, string> = {}): Promise<{ code: number | null; text: string }> {
  const { NODE_TEST_CONTEXT: _, ...own } = process.env; // a test runner within ours prints for itself
  const child = spawn(process.execPath, args, { cwd: copy, env: { ...own, ...env } });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (part: string) => (text += part));
  return new Promise((resolve, reject) => child.on("error", reject).on("close", (code) => resolve({ code, text })));
}

const lowrank = (...args: string[]) => node(["--import", "tsx", "src/cli/main.ts", ...args]);
/** The tests of a file of the copy whose names hold the family's. */
const tests = (file: string, env = {}) => node(["--import", "tsx", `--test-name-pattern=${NAME}`, "--test", file], env);
const passed = (text: string) => Number(/^(?:ℹ|#) pass (\d+)$/m.exec(text)?.[1]);

/** Files of the copy that the working tree has not, or has otherwise. */
function changed(folder = ""): string[] {
  return readdirSync(inCopy(folder), { withFileTypes: true }).flatMap((entry) => {
    const name = path.posix.join(folder, entry.name);
    if (entry.isSymbolicLink()) return [];
    if (entry.isDirectory()) return changed(name);
    const [there, here] = [path.join(root, name), inCopy(name)];
    return existsSync(there) && readFileSync(there).equals(readFileSync(here)) ? [] : [name];
  });
}

test("the page has the steps that this test follows", () => {
  const steps = [...page.matchAll(/^\d\. \*\*(.+?)\*\*/gm)].map(([, step]) => step);
  assert.deepEqual(steps, ["Read", "The config", "The forward pass", "Older names", "The line", "The proof"]);
  assert.ok(!modelTypes.includes(NAME), "the family is built: take another one for this test");
  assert.deepEqual(changed(), []);
});

test("until the family is there, lowrank plan says so, and names the file for the line", async () => {
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
  writeFileSync(inCopy(familyFile), moved);
  assert.deepEqual(changed(), [familyFile]);
});

test("The line: one more in families.ts, and lowrank plan counts the model", async () => {
  const before = readFileSync(inCopy(registryFile), "utf8");
  writeFileSync(inCopy(registryFile), `${before}export { ${NAME} } from "./${NAME}.ts";\n`);
  assert.deepEqual(changed(), [registryFile, familyFile]);
  const { code, text } = await lowrank("plan", `${fixture}/case/base/config.json`, "--json");
  assert.equal(code, 0, text);
  const { trainable_parameters: trainable } = JSON.parse(readFileSync(`${fixture}/case/meta.json`, "utf8"));
  assert.equal(JSON.parse(text).trainableParameters, 2 * trainable, "at rank 8, twice PEFT's at rank 4");
});

test("The proof: types, golden case, cache and graph", async () => {
  cpSync(`${fixture}/case`, inCopy(caseFolder), { recursive: true });
  const [types, oracle, cache, graph] = await Promise.all([
    node(["node_modules/typescript/bin/tsc", "--noEmit", "-p", "tsconfig.json"]),
    node(["--import", "tsx", "scripts/oracle/main.ts", caseFolder]),
    tests("test/models/decoder.test.ts"),
    tests("test/graph/graph.test.ts", { UPDATE: "1" }),
  ]);
  assert.equal(types.text, "");
  assert.equal(types.code, 0);
  assert.match(oracle.text, /\n1 passed, 0 failed, 0 skipped\n$/);
  for (const { text, code } of [cache, graph]) assert.deepEqual([code, passed(text)], [0, 1], text);
});

test("no other file had to change", () => {
  const places = changed().map((name) => (name.startsWith(caseFolder) ? caseFolder : name));
  const printed = `test/fixtures/graphs/${NAME}.txt`;
  assert.deepEqual([...new Set(places)], [registryFile, familyFile, caseFolder, printed]);
  const lines = (file: string) => readFileSync(file, "utf8").trimEnd().split("\n");
  const [before, now] = [lines(path.join(root, registryFile)), lines(inCopy(registryFile))];
  assert.deepEqual(now.slice(0, -1), before, "one line");
});
