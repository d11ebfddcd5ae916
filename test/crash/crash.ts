// lowrank train killed again and again: how it is aimed, and what has to be true after every kill and at the end. For npm run crash and the tests.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, watch } from "node:fs";
import path from "node:path";
import { damagedFile, SUMS_NAME } from "../../src/formats/checksums.ts";
import { readHeader } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { digest } from "../../src/platform/node/host.ts";
import { purpose, uniform } from "../../src/random.ts";
import { latestCheckpoint } from "../../src/train/checkpoint.ts";
import { readMetrics } from "../../src/train/run-log.ts";
import { finish, killedAfter, type Launched, launch } from "./process.ts";

export interface CrashOptions {
  /** How a lowrank process is started: arguments of node. */
  program: readonly string[];
  /** The flags of the run, without --output. */
  run: readonly string[];
  /** Steps of a run, and between its checkpoints. */
  steps: number;
  checkpointEvery: number;
  kills: number;
  seed: number;
  /** Gets the undisturbed run and those that are killed. */
  folder: string;
  /** Longest time between start and a kill that is aimed by the clock. */
  lifeMs: number;
  onKill?: (kill: Kill, done: number) => void;
}

/** What a kill is aimed at. Each waits for something and then for a random part of `ms`. */
const aims = {
  /** Any instant of the process's life, loading and preparing included. */
  start: { ms: (lifeMs: number) => lifeMs, after: "spawn" },
  /** Any instant after training has begun. */
  training: { ms: (lifeMs: number) => lifeMs, after: "training" },
  /** While a checkpoint is written: some milliseconds after its folder has appeared. */
  checkpoint: { ms: () => 12, after: "making" },
  /** While the result is written, behind the last checkpoint. */
  saving: { ms: () => 12, after: "last" },
} as const;
type Aim = keyof typeof aims;

export interface Kill {
  aim: Aim;
  /** Steps of the newest whole checkpoint afterwards; null before the first. */
  step: number | null;
  /** The kill left a half-written checkpoint or file. */
  caughtWriting: boolean;
}

export interface CrashResult {
  kills: Kill[];
  /** Runs that were brought to their end, each compared with the undisturbed one to the bit. */
  finished: number;
}

/** Kills runs until `kills` kills have been survived, and brings each run to its end. Throws what is wrong. */
export async function crash(options: CrashOptions): Promise<CrashResult> {
  const { program, kills, seed, folder, steps, checkpointEvery, run, onKill } = options;
  const whole = path.join(folder, "whole");
  const flags = [...run, "--steps", String(steps), "--checkpoint-every", String(checkpointEvery), "--json"];
  await finish(launch(program, ["train", ...flags, "--output", whole]));
  const result: CrashResult = { kills: [], finished: 0 };
  const draws = uniform(seed, [purpose.sample], 3 * 100_000);
  let draw = 0;
  for (let n = 0; result.kills.length < kills; n++) {
    const output = path.join(folder, `run-${n}`);
    mkdirSync(output, { recursive: true });
    let reached: number | null = null;
    for (let ended = false; !ended; ) {
      // One process in eight is left alone, so that runs end; and all are when there have been kills enough.
      const spared = draws[draw++]! < 1 / 8 || result.kills.length >= kills;
      const aim = pickAim(draws[draw++]!);
      const part = draws[draw++]!;
      const again = existsSync(`${output}/run.json`) ? ["--resume", "--json"] : [...flags, "--resume"];
      const child = launch(program, ["train", ...again, "--output", output]);
      const killed = spared ? false : await killedAt(child, output, aim, part, options);
      if (spared) await finish(child);
      if (killed) {
        const kill: Kill = {
          aim,
          step: await checkState(output, reached, result.kills.length + 1),
          caughtWriting: isHalfWritten(output),
        };
        reached = kill.step ?? reached;
        result.kills.push(kill);
        onKill?.(kill, result.kills.length);
      }
      ended = !killed;
    }
    await checkSame(output, whole, steps);
    result.finished++;
    rmSync(output, { recursive: true });
  }
  return result;
}

const pickAim = (draw: number): Aim => (draw < 0.2 ? "start" : draw < 0.5 ? "training" : draw < 0.85 ? "checkpoint" : "saving");

/** Kills the process where it is aimed at; false if it came to its end before that. */
function killedAt(child: Launched, output: string, aim: Aim, part: number, { steps, lifeMs }: CrashOptions): Promise<boolean> {
  const { after, ms } = aims[aim];
  return killedAfter(child, part * ms(lifeMs), (shoot) => {
    child.onEvent((event) => {
      if (after === "training" && event.type === "step") shoot();
      if (after === "last" && event.type === "checkpoint" && event.step === steps) shoot();
    });
    if (after === "spawn") shoot();
    if (after !== "making") return undefined;
    // Not always the first checkpoint of a process: the part of the wait says which.
    let ahead = Math.floor(part * 1000) % 4;
    return watch(output, (_, name) => {
      if (/^\.checkpoint-.*\.new$/.test(String(name)) && ahead-- <= 0) shoot();
    });
  });
}

const isHalfWritten = (output: string): boolean =>
  existsSync(output) && readdirSync(output).some((name) => /^\.checkpoint-.*\.new$|\.tmp$/.test(name));

/** What is true of a run's folder at any instant. Returns the step of the newest whole checkpoint. */
async function checkState(output: string, reached: number | null, kills: number): Promise<number | null> {
  const names = readdirSync(output);
  const latest = await latestCheckpoint(nodeFiles, output);
  const there = names.filter((name) => name.startsWith("checkpoint-"));
  assert.ok(latest !== undefined || there.length === 0, `no complete checkpoint among ${names.join(", ")}`);
  assert.ok((latest?.step ?? -1) >= (reached ?? -1), `step ${latest?.step} after ${reached}`);
  for (const name of there) {
    assert.ok(existsSync(`${output}/${name}/${SUMS_NAME}`), name);
    assert.equal(await damagedFile(nodeFiles, `${output}/${name}`, digest), null, name);
    assert.equal((await readHeader(nodeFiles, `${output}/${name}/adapter_model.safetensors`)).tensors.size, 28, name);
    const state = JSON.parse(readFileSync(`${output}/${name}/trainer_state.json`, "utf8"));
    assert.equal(`checkpoint-${state.step}`, name);
  }
  if (latest) {
    JSON.parse(readFileSync(`${output}/run.json`, "utf8"));
    const metrics = await readMetrics(nodeFiles, output);
    assert.ok(metrics && metrics.skipped <= kills, `${metrics?.skipped} lines of the log are lost`);
    // Every step that a checkpoint covers is in the log.
    const logged = new Set(metrics.steps.map(({ step }) => step));
    for (let step = 1; step <= latest.step; step++)
      assert.ok(logged.has(step), `step ${step} of ${latest.step} is not in the log`);
  }
  return latest?.step ?? null;
}

/** The result, its configuration, the last optimizer state and the history are those of the undisturbed run. */
async function checkSame(output: string, whole: string, steps: number): Promise<void> {
  const last = `checkpoint-${steps}`;
  for (const name of [
    "adapter_model.safetensors",
    "adapter_config.json",
    `${last}/optimizer.safetensors`,
    `${last}/trainer_state.json`,
  ]) {
    assert.deepEqual(readFileSync(path.join(output, name)), readFileSync(path.join(whole, name)), name);
  }
  assert.deepEqual(await history(output), await history(whole));
  assert.deepEqual(visible(output), visible(whole));
  assert.ok(!isHalfWritten(output), readdirSync(output).join(", "));
}

/** What the log says of each step and each evaluation, without what depends on the machine. */
async function history(output: string) {
  const { steps, evals } = (await readMetrics(nodeFiles, output))!;
  return [
    steps.map(({ step, loss, learningRate, gradNorm, tokens }) => ({ step, loss, learningRate, gradNorm, tokens })),
    evals.map(({ time: _, ...row }) => row),
  ];
}

const visible = (folder: string) => readdirSync(folder).filter((name) => !name.startsWith("."));
