// Training killed at random instants: the folder always holds whole checkpoints, and the end has the uninterrupted run's bits.
// slow
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { readHeader } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { purpose, uniform } from "../../src/random.ts";
import { latestCheckpoint, loadCheckpoint } from "../../src/train/checkpoint.ts";
import { train } from "../../src/train/trainer.ts";
import { compiled } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { toyRun } from "../helpers/toy.ts";

const KILLS = 16;
const STEPS = 400;
/** A child is killed at most this long after its first checkpoint is there: several checkpoints. */
const LONGEST_LIFE_MS = 100;

const root = temporaryFolder();
const child = compiled("test/crash/train-child.ts");

/** Trains in a process of its own and kills it `life` ms after a checkpoint is there, if it lives that long. */
function trainAndKill(folder: string, life: number): Promise<{ killed: boolean; errors: string }> {
  return new Promise((resolve, reject) => {
    const running = spawn(process.execPath, [child, folder, String(STEPS)]);
    let errors = "";
    let timer: NodeJS.Timeout | undefined;
    running.stderr.on("data", (text) => {
      errors += text;
    });
    running.stdout.once("data", () => {
      timer = setTimeout(() => running.kill("SIGKILL"), life);
    });
    running.on("error", reject);
    running.on("close", (_, signal) => {
      clearTimeout(timer);
      resolve({ killed: signal === "SIGKILL", errors });
    });
  });
}

const contents = (folder: string) =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(path.join(folder, name)).toString("base64")]));

const whole = path.join(root, "whole");
const last = `checkpoint-${STEPS}`;
for await (const event of train(toyRun({ folder: whole }, { steps: STEPS }))) assert.ok(event);
const { facts } = JSON.parse(readFileSync(path.join(whole, last, "trainer_state.json"), "utf8"));
const { length } = toyRun({ folder: whole }).theta;

/** Checks every checkpoint of `folder` and returns the step of the newest. */
async function checkWhole(folder: string): Promise<number> {
  for (const name of readdirSync(folder).filter((name) => name.startsWith("checkpoint-"))) {
    const state = await loadCheckpoint(nodeFiles, `${folder}/${name}`, facts, length);
    assert.equal(name, `checkpoint-${state.step}`);
    assert.equal((await readHeader(nodeFiles, `${folder}/${name}/adapter_model.safetensors`)).tensors.size, 2);
  }
  const latest = await latestCheckpoint(nodeFiles, folder);
  assert.ok(latest, "no complete checkpoint");
  return latest.step;
}

/** Kills a run once for each of `lives`, then lets it end. Returns how often a kill came while a checkpoint was written. */
async function killAgainAndAgain(name: string, lives: Float32Array): Promise<number> {
  let folder = path.join(root, name);
  let reached = 0;
  let kills = 0;
  let caughtWriting = 0;
  while (kills < lives.length) {
    const { killed, errors } = await trainAndKill(folder, lives[kills]!);
    assert.equal(errors, "");
    const step = await checkWhole(folder);
    assert.ok(step >= reached, `step ${step} after ${reached}`);
    reached = step;
    if (killed) {
      kills++;
      if (readdirSync(folder).some((entry) => entry.startsWith(".checkpoint-"))) caughtWriting++;
    } else {
      // A fast machine finished it: go on with another.
      assert.deepEqual(contents(path.join(folder, last)), contents(path.join(whole, last)));
      folder += "-again";
      reached = 0;
    }
  }
  const resumed = toyRun({ folder, resume: true, checkpointEvery: 50 }, { steps: STEPS });
  for await (const event of train(resumed)) if (event.type === "start") assert.equal(event.step, reached);
  assert.deepEqual(contents(path.join(folder, last)), contents(path.join(whole, last)));
  const weights = "adapter_model.safetensors";
  assert.deepEqual(readFileSync(path.join(folder, weights)), readFileSync(path.join(whole, weights)));
  assert.ok(!readdirSync(folder).some((entry) => entry.startsWith(".checkpoint-")));
  return caughtWriting;
}

test(`killed ${KILLS} times, always whole, and at the end the same bits`, async () => {
  const lives = uniform(11, [purpose.sample], KILLS).map((draw) => draw * LONGEST_LIFE_MS);
  const half = KILLS / 2;
  const caught = await Promise.all([killAgainAndAgain("a", lives.slice(0, half)), killAgainAndAgain("b", lives.slice(half))]);
  assert.ok(caught[0]! + caught[1]! > 0, "no kill came while a checkpoint was written");
});
