// A run and its output folder: one that lost the folder stops, and leaves alone what is there now.
// slow
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { LOCK_NAME } from "../../src/files.ts";
import { lowrank } from "../../src/node.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { pruneCheckpoints, removeLeftovers } from "../../src/train/checkpoint.ts";
import { outputFiles } from "../../src/train/output-files.ts";
import { refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
const base = `${fixtures}/tiny-llama`;
const options = { base, data: `${fixtures}/tiny-e2e/eval.jsonl`, batchSize: 2, steps: 3, checkpointEvery: 2, threads: 1 };

/** Every file below a folder with its content, but for `besides`. */
const contents = (folder: string, besides: RegExp): [string, string][] =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => !besides.test(name) && statSync(path.join(folder, name)).isFile())
    .sort()
    .map((name) => [name, readFileSync(path.join(folder, name), "latin1")]);

/** A run that `meddle` disturbs after its first step. */
async function train(output: string, meddle: () => void): Promise<void> {
  for await (const event of lowrank.finetune({ ...options, output })) {
    if (event.type === "step" && event.step === 1) meddle();
  }
}

describe("a run whose folder is not its own any more", () => {
  it("stops when another run has the lock, and changes nothing that is there", async () => {
    const output = path.join(root, "taken");
    let before: [string, string][] = [];
    const run = train(output, () => {
      writeFileSync(`${output}/${LOCK_NAME}`, "of another run");
      mkdirSync(`${output}/.checkpoint-2.new`);
      writeFileSync(`${output}/.checkpoint-2.new/adapter_model.safetensors`, "of another run");
      before = contents(output, /^$/);
    });
    const { exitCode } = await refused(run, "file/lock-lost");
    assert.equal(exitCode, 1);
    assert.deepEqual(contents(output, /^$/), before);
  });

  it("stops when the folder was removed or replaced", async () => {
    for (const isReplaced of [false, true]) {
      const output = path.join(root, `removed-${isReplaced}`);
      const run = train(output, () => {
        rmSync(output, { recursive: true });
        if (isReplaced) mkdirSync(output);
      });
      await refused(run, "file/lock-lost", { got: /removed or replaced/ });
      assert.equal(existsSync(output), isReplaced);
      if (isReplaced) assert.deepEqual(readdirSync(output), []);
    }
  });

  it("goes on when only the lock file was removed: the bits are those of an undisturbed run", async () => {
    const results = ["undisturbed", "unlocked"].map((name) => path.join(root, name));
    await train(results[0]!, () => {});
    await train(results[1]!, () => rmSync(`${results[1]}/${LOCK_NAME}`));
    const [one, other] = results.map((folder) => contents(folder, /run\.json|metrics\.jsonl/));
    assert.deepEqual(other, one);
  });
});

describe("links in an output folder", { skip: process.platform === "win32" && "Windows makes no links" }, () => {
  it("are not written through: the log, and folders of a result", async () => {
    const [output, elsewhere] = [path.join(root, "linked"), path.join(root, "elsewhere")];
    for (const folder of [output, elsewhere]) mkdirSync(folder);
    for (const name of ["log", "config.json"]) writeFileSync(`${elsewhere}/${name}`, "as it was");
    const before = contents(elsewhere, /^$/);
    writeFileSync(`${output}/run.json`, "{}");
    symlinkSync(`${elsewhere}/log`, `${output}/metrics.jsonl`);
    await refused(
      train(output, () => {}),
      "file/link",
      { subject: `${output}/metrics.jsonl` },
    );
    symlinkSync(elsewhere, `${output}/1_Pooling`);
    const files = await outputFiles(nodeFiles, output);
    const text = new TextEncoder().encode("{}");
    await refused(files.write(`${output}/1_Pooling/config.json`, text), "file/link", { subject: `${output}/1_Pooling` });
    await refused(files.remove(`${output}/1_Pooling/config.json`), "file/link");
    await files.write(`${output}/2_Own`, text);
    assert.deepEqual(contents(elsewhere, /^$/), before);
  });

  it("of a checkpoint are removed without what they lead to", async () => {
    const [output, elsewhere] = [path.join(root, "pruned"), path.join(root, "kept")];
    for (const folder of [output, elsewhere]) mkdirSync(folder);
    writeFileSync(`${elsewhere}/precious`, "as it was");
    for (const name of ["checkpoint-1", "checkpoint-2", ".checkpoint-3.new"]) symlinkSync(elsewhere, `${output}/${name}`);
    const files = await outputFiles(nodeFiles, output);
    await pruneCheckpoints(files, output, 3, 1);
    await removeLeftovers(files, output);
    assert.deepEqual(readdirSync(output), ["checkpoint-2"]);
    assert.equal(readFileSync(`${elsewhere}/precious`, "utf8"), "as it was");
  });
});
