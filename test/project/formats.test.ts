// docs/formats.md says which versions of our files are read and written; newer ones are refused by name and version.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { PEFT_VERSION } from "../../src/adapters/config.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { latestCheckpoint, resumable, STATE_VERSION } from "../../src/train/checkpoint.ts";
import { RUN_VERSION, readOptions, readPromptFormat } from "../../src/train/run-file.ts";
import { train } from "../../src/train/trainer.ts";
import { refused } from "../helpers/assert.ts";
import { repository } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { toyRun } from "../helpers/toy.ts";

const page = readFileSync(`${repository}docs/formats.md`, "utf8");
const rows = new Map(
  page.split("\n").flatMap((line) => {
    const [, file, written, read] = /^\| `([\w.]+)`.*? \| (.*?) \| (.*?) \|/.exec(line) ?? [];
    return file ? [[file, { written, read }]] : [];
  }),
);

const root = temporaryFolder();
const VERSIONS = [0, 1, 2, 3, 4];

test("run.json: the versions of the table are read, newer ones refused", async () => {
  const accepted: number[] = [];
  for (const version of VERSIONS) {
    const folder = path.join(root, `run-${version}`);
    mkdirSync(folder);
    const options = { base: "b", data: "d.jsonl", steps: 5 };
    writeFileSync(`${folder}/run.json`, JSON.stringify({ version, options, prompts: { kind: "text" } }));
    const work = readOptions(nodeFiles, { output: folder, resume: true });
    if (version > RUN_VERSION) {
      const facts = { subject: /run\.json/, got: `version ${version}` };
      await refused(work, "train/no-run", facts);
      const { next } = await refused(readPromptFormat(nodeFiles, folder), "file/newer", facts);
      assert.match(next!, /Update lowrank/);
    } else if (await work.catch(() => null)) accepted.push(version);
  }
  assert.deepEqual(rows.get("run.json"), { written: `${RUN_VERSION}`, read: accepted.join(", ") });
});

test("trainer_state.json: the versions of the table are read, newer ones refused, also beside older ones", async () => {
  const folder = path.join(root, "states");
  for await (const event of train(toyRun({ folder, keepCheckpoints: 5, checkpointEvery: 1 }, { steps: 1 }))) assert.ok(event);
  const saved = JSON.parse(readFileSync(`${folder}/checkpoint-1/trainer_state.json`, "utf8"));
  assert.equal(saved.version, STATE_VERSION);
  const older: Record<number, object> = { 1: { evals: [], log: [], bestEval: null } };
  const accepted: number[] = [];
  for (const version of VERSIONS) {
    const copy = path.join(root, `states-${version}`);
    cpSync(folder, copy, { recursive: true });
    rmSync(`${copy}/checkpoint-1/SHA256SUMS`, { force: true });
    writeFileSync(`${copy}/checkpoint-1/trainer_state.json`, JSON.stringify({ ...saved, ...older[version], version }));
    if (version > STATE_VERSION) {
      const facts = { subject: /checkpoint-1\/trainer_state\.json/, got: `version ${version}` };
      await refused(resumable(nodeFiles, copy, true), "file/newer", facts);
    } else if ((await latestCheckpoint(nodeFiles, copy))?.step === 1) accepted.push(version);
  }
  assert.deepEqual(rows.get("trainer_state.json"), { written: `${STATE_VERSION}`, read: accepted.join(", ") });
});

test("adapters are written as one release of PEFT does", () => {
  assert.equal(rows.get("adapter_config.json")!.written, `PEFT ${PEFT_VERSION}`);
});
