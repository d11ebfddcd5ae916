// The oracle reports every difference from PEFT's numbers; goldens of combined adapters. Those of models are in goldens.test.ts.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { runCase, runOracle } from "../../scripts/oracle/run.ts";
import { readHeader } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { compiled, fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const SAMPLE = "lora-regex-target";
const { losses } = JSON.parse(await readFile(path.join(cases, SAMPLE, "meta.json"), "utf8")) as { losses: number[] };

const algebra = `${fixtures}/algebra`;
for (const name of await readdir(algebra)) {
  test(`golden algebra ${name}`, async () => {
    const { status, text } = await runCase(path.join(algebra, name), {});
    assert.equal(status, "ok", text);
    assert.match(text, /^combinations 2\d within \d|^base \d.*, mixed \d.*, all_active \d/);
  });
}

test("a combination that is not PEFT's fails, and so does an error that is missing", async () => {
  const copy = async (name: string, change: (results: Record<string, unknown>[]) => void) => {
    const folder = path.join(temporaryFolder(), "case");
    await cp(path.join(algebra, name), folder, { recursive: true });
    const meta = JSON.parse(await readFile(`${folder}/meta.json`, "utf8")) as { results: Record<string, unknown>[] };
    change(meta.results);
    await writeFile(`${folder}/meta.json`, JSON.stringify(meta));
    return runCase(folder, {});
  };
  const weights = await copy("conv1d", ([first]) => Object.assign(first!, { weights: [0.7, 0.41] }));
  assert.match(`${weights.status} ${weights.text}`, /^FAIL r00-linear: differs by .*r00-linear, read again: differs by /);
  const error = await copy("different-ranks", ([first]) =>
    Object.assign(first!, { error: "All adapters must have the same r value" }),
  );
  assert.match(`${error.status} ${error.text}`, /^FAIL r00-cat: PEFT refuses this/);
});

/** Copies a golden, changes the copy, and gives what the oracle says of it. */
async function changed(change: (folder: string) => Promise<void>) {
  const folder = path.join(temporaryFolder(), "case");
  await cp(path.join(cases, SAMPLE), folder, { recursive: true });
  await change(folder);
  return runCase(folder, { executions: "one" });
}

/** Adds `delta` to one float32 element of a tensor. */
async function nudge(file: string, pattern: RegExp, element: number, delta: number): Promise<void> {
  const { tensors } = await readHeader(nodeFiles, file);
  const [, entry] = [...tensors].find(([name]) => pattern.test(name))!;
  const bytes = await readFile(file);
  const at = entry.offset + 4 * element;
  bytes.writeFloatLE(bytes.readFloatLE(at) + delta, at);
  await writeFile(file, bytes);
}

/** Puts other members into a JSON file; undefined removes one. */
async function edit(file: string, members: Record<string, unknown>): Promise<void> {
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), ...members }));
}

const failures: [string, (folder: string) => Promise<void>, RegExp][] = [
  [
    "one element of a gradient",
    (folder) => nudge(`${folder}/grads.safetensors`, /lora_B/, 5, 1e-4),
    /gradients: differs by 1\.0e-4 .*lora_B\.weight \[5\]/,
  ],
  [
    "one weight of the base",
    (folder) => nudge(`${folder}/base/model.safetensors`, /q_proj/, 7, 0.5),
    /base outputs: differs by .*merged weights: differs by 5\.0e-1/,
  ],
  ["one logit", (folder) => nudge(`${folder}/io.safetensors`, /logits_adapter/, 3, 1e-3), /^adapter outputs: differs by 1\.0e-3/],
  [
    "one trained element",
    (folder) => nudge(`${folder}/trained/adapter_model.safetensors`, /lora_A/, 0, 1e-3),
    /^trained tensors: differs by 1\.0e-3/,
  ],
  [
    "one merged weight",
    (folder) => nudge(`${folder}/merged/model.safetensors`, /norm/, 0, 1e-4),
    /^merged weights: differs by 1\.0e-4 .*norm/,
  ],
  ["the loss", (folder) => edit(`${folder}/meta.json`, { loss: 1 }), /^loss: differs by .*not 1(;|$)/],
  [
    "one step's loss",
    (folder) => edit(`${folder}/meta.json`, { losses: [...losses.slice(0, 9), losses[9]! + 0.01] }),
    /^losses: differs by 1\.0e-2 .*\[9\]/,
  ],
  ["alpha", (folder) => edit(`${folder}/adapter/adapter_config.json`, { lora_alpha: 3 }), /adapter outputs: differs by/],
  [
    "a trained tensor too few",
    (folder) => edit(`${folder}/meta.json`, { trainable_parameters: 1 }),
    /^counts: item 1 is \d+, not 1/,
  ],
  ["a missing file", (folder) => rm(`${folder}/grads.safetensors`), /(training|gradients)[^;]*: .*grads\.safetensors/],
  ["an io file that is no safetensors", (folder) => writeFile(`${folder}/io.safetensors`, "nonsense"), /io\.safetensors/],
  ["a meta.json that is no JSON", (folder) => writeFile(`${folder}/meta.json`, "{"), /meta\.json: not valid JSON/],
  ["a meta.json without a kind", (folder) => edit(`${folder}/meta.json`, { kind: undefined }), /meta\.json has no kind/],
  [
    "a meta.json without losses",
    (folder) => edit(`${folder}/meta.json`, { losses: undefined }),
    /meta\.json is not in the goldens' format.*losses/,
  ],
];

for (const [what, change, expected] of failures) {
  test(`a golden that differs in ${what} fails`, slow, async () => {
    const { status, text } = await changed(change);
    assert.equal(status, "FAIL", text);
    assert.match(text, expected);
    assert.ok(!text.includes("\n"), "one line");
  });
}

const skips: [string, (folder: string) => Promise<void>, RegExp][] = [
  ["a kind", (folder) => edit(`${folder}/meta.json`, { kind: "no-such" }), /"no-such" is not built yet/],
  [
    "a family",
    (folder) => edit(`${folder}/base/config.json`, { model_type: "no_such_family" }),
    /^base\/config\.json: model_type: .*no_such_family/,
  ],
  ["an option of LoRA", (folder) => edit(`${folder}/adapter/adapter_config.json`, { use_bdlora: { blocks: 2 } }), /use_bdlora/],
  [
    "a real run without its base",
    (folder) => edit(`${folder}/meta.json`, { first_step_grad_norm_per_tensor: {}, val_loss_before: 1 }),
    /--base/,
  ],
];

for (const [what, change, expected] of skips) {
  test(`skipped with the reason: ${what}`, async () => {
    const { status, text } = await changed(change);
    assert.equal(status, "skip", text);
    assert.match(text, expected);
  });
}

test("goldens are found at any depth, one that is broken stops no other, and all are counted", slow, async () => {
  const root = temporaryFolder();
  for (const name of ["a", "deep/er/b", "c"]) await cp(path.join(cases, SAMPLE), path.join(root, name), { recursive: true });
  await writeFile(path.join(root, "a/meta.json"), "broken");
  await edit(path.join(root, "c/meta.json"), { kind: "no-such" });
  const lines: string[] = [];
  const counts = await runOracle(root, {}, (line) => void lines.push(line));
  assert.deepEqual(counts, { passed: 1, failed: 1, skipped: 1 });
  assert.deepEqual(
    lines.map((line) => line.match(/^(FAIL a:|skip c:|ok deep\/er\/b )/)?.[0] ?? line),
    ["FAIL a:", "skip c:", "ok deep/er/b ", "1 passed, 1 failed, 1 skipped"],
  );
});

/** Exit code and last line of `npm run oracle -- ...`. */
function oracle(...args: string[]): Promise<{ code: number; last: string; stderr: string }> {
  const main = compiled("scripts/oracle/main.ts");
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, last: stdout.trim().split("\n").at(-1)!, stderr }),
    );
  });
}

test(
  "exit codes: 0 when all that ran passed, 1 on a failure, when nothing passed, and for a folder that is not there",
  slow,
  async () => {
    const root = temporaryFolder();
    const empty = await oracle(root);
    assert.deepEqual([empty.code, empty.last], [1, "0 passed, 0 failed, 0 skipped"]);
    await cp(path.join(cases, SAMPLE), path.join(root, "good"), { recursive: true });
    const good = await oracle(root);
    assert.deepEqual([good.code, good.last], [0, "1 passed, 0 failed, 0 skipped"]);
    await cp(path.join(cases, SAMPLE), path.join(root, "bad"), { recursive: true });
    await nudge(path.join(root, "bad/grads.safetensors"), /lora_A/, 0, 1);
    const bad = await oracle(root);
    assert.deepEqual([bad.code, bad.last], [1, "1 passed, 1 failed, 0 skipped"]);
    const missing = await oracle(path.join(root, "nowhere"));
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, /nowhere/);
  },
);
