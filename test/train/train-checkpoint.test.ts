// Checkpoints: resuming gives the uninterrupted run's bits, only whole folders count, another run's options are refused.
// slow
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fingerprint } from "../../src/formats/fingerprint.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { digest } from "../../src/platform/node/host.ts";
import { latestCheckpoint, loadCheckpoint, saveCheckpoint } from "../../src/train/checkpoint.ts";
import type { Objective } from "../../src/train/objective.ts";
import { type TrainEvent, type TrainOptions, type TrainOutput, train } from "../../src/train/trainer.ts";
import { refused } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { toyBatch, toyLoader, toyObjective, toyOptimizer, toyRows, toyRun, toyTheta } from "../helpers/toy.ts";

const root = temporaryFolder();
let folders = 0;
const fresh = (): string => path.join(root, `run-${folders++}`);

const STEPS = 6;
const rows = toyRows(10);
const options = (output: Partial<TrainOutput> & { folder: string }, change: Partial<TrainOptions> = {}) =>
  toyRun({ checkpointEvery: 1, keepCheckpoints: 100, ...output }, { steps: STEPS, ...change });

/** Runs to the end, or asks it to stop when `step` steps are done. */
async function run(of: TrainOptions, stopAt?: number): Promise<TrainEvent[]> {
  const control = new AbortController();
  const all: TrainEvent[] = [];
  for await (const event of train({ ...of, signal: control.signal })) {
    all.push(event);
    if ((event.type === "start" || event.type === "step") && event.step === stopAt) control.abort();
  }
  return all;
}

const contents = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => [name, readFileSync(path.join(folder, name)).toString("base64")]),
  );

const whole = fresh();
const wholeTheta = toyTheta();
const wholeEvents = await run(options({ folder: whole }, { theta: wholeTheta }));

test("a run leaves a checkpoint a step, from step 0 on, and the weights beside them", () => {
  const names = Array.from({ length: STEPS + 1 }, (_, step) => `checkpoint-${step}`);
  assert.deepEqual(readdirSync(whole).sort(), ["adapter_model.safetensors", ...names].sort());
  const checkpoint = contents(path.join(whole, `checkpoint-${STEPS}`));
  assert.deepEqual(Object.keys(checkpoint).sort(), ["adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json"]);
  assert.equal(contents(whole)["adapter_model.safetensors"], checkpoint["adapter_model.safetensors"]);
  assert.deepEqual(
    wholeEvents.filter(({ type }) => type === "checkpoint").map(({ step }) => step),
    [0, 1, 2, 3, 4, 5, 6],
  );
});

test("checkpoint-0 is there before the first step", async () => {
  const folder = fresh();
  for await (const event of train(options({ folder }))) if (event.type === "step") break;
  assert.equal((await latestCheckpoint(nodeFiles, folder))?.step, 0);
});

const stateOf = (folder: string, step: number) =>
  JSON.parse(readFileSync(path.join(folder, `checkpoint-${step}/trainer_state.json`), "utf8"));

test("trainer_state.json has the best evaluation and what early stopping compares with", () => {
  const state = stateOf(whole, STEPS);
  const evals = wholeEvents.filter((event) => event.type === "eval").map(({ step, loss }) => ({ step, loss }));
  const best = [...evals].sort((a, b) => a.loss - b.loss)[0]!;
  assert.ok(evals.length > 1);
  assert.deepEqual(state.evals, { best, toBeat: best.loss, without: evals.length - 1 - evals.indexOf(best) });
  assert.deepEqual([state.version, state.facts.seed], [2, 3]);
});

test("a checkpoint has as many bytes after many steps as after a few", async () => {
  const folder = fresh();
  const evaluation = { batches: [toyBatch(rows)], every: 30 };
  await run(options({ folder, checkpointEvery: undefined }, { steps: 90, evaluation }));
  const early = statSync(path.join(whole, "checkpoint-4/trainer_state.json")).size;
  const late = statSync(path.join(folder, "checkpoint-90/trainer_state.json")).size;
  assert.ok(late < early + 60, `${early} bytes at step 4, ${late} at step 90`);
});

test("a checkpoint of version 1, which lists every step and evaluation, is resumed to the same bits", async () => {
  const folder = fresh();
  const early = { patience: 2, minDelta: 0 };
  const evaluation = { batches: [toyBatch(rows)], every: 1, early };
  cpSync(whole, folder, { recursive: true });
  for (const name of readdirSync(folder)) if (name > "checkpoint-3") rmSync(path.join(folder, name), { recursive: true });
  const { facts, files } = stateOf(folder, 3);
  const log = [1, 2, 3].map((step) => ({ step, loss: 1 / 3, learningRate: 1e-300, gradNorm: 1 }));
  const state = (evals: { step: number; loss: number }[]) =>
    writeFileSync(
      path.join(folder, "checkpoint-3/trainer_state.json"),
      JSON.stringify({ version: 1, step: 3, facts, bestEval: evals[0], evals, log, files }),
    );
  state([1, 2, 3].map((step) => ({ step, loss: step })));
  const stalled = await run(options({ folder, resume: true }, { evaluation }));
  assert.deepEqual(stalled.at(-1), { ...stalled.at(-1), type: "done", step: 3, early: true, best: { step: 1, loss: 1 } });
  state([{ step: 2, loss: 9 }]);
  const theta = toyTheta();
  await run(options({ folder, resume: true }, { theta }));
  assert.deepEqual(theta, wholeTheta);
});

for (let stop = 0; stop < STEPS; stop++) {
  test(`stopped at step ${stop} and resumed: the same bits in θ, moments and every file`, async () => {
    const folder = fresh();
    const stopped = await run(options({ folder, checkpointEvery: undefined }), stop);
    const last = stopped.at(-1)!;
    assert.deepEqual(last, { ...last, type: "done", step: stop, stopped: true, early: false, result: null, folder });
    assert.equal((await latestCheckpoint(nodeFiles, folder))?.step, stop);
    assert.equal(existsSync(path.join(folder, "adapter_model.safetensors")), false);

    const theta = toyTheta();
    const resumed = await run(options({ folder, resume: true }, { theta }));
    assert.deepEqual(resumed[0], {
      type: "start",
      step: stop,
      steps: STEPS,
      parameters: theta.length,
      resumedFrom: `${folder}/checkpoint-${stop}`,
    });
    assert.equal(resumed.filter(({ type }) => type === "step").length, STEPS - stop);
    assert.deepEqual(theta, wholeTheta);
    assert.deepEqual(contents(folder), contents(whole));
    for (let step = stop; step <= STEPS; step++) {
      const name = `checkpoint-${step}`;
      assert.deepEqual(contents(path.join(folder, name)), contents(path.join(whole, name)), name);
    }
  });
}

test("resuming a finished run does nothing but say so", async () => {
  const folder = fresh();
  cpSync(whole, folder, { recursive: true });
  const theta = toyTheta();
  const all = await run(options({ folder, resume: true }, { theta }));
  assert.deepEqual(
    all.map(({ type }) => type),
    ["start", "done"],
  );
  assert.deepEqual(theta, wholeTheta);
});

test("resuming in an empty folder starts at the beginning", async () => {
  const all = await run(options({ folder: fresh(), resume: true }));
  assert.equal(all[0]!.type === "start" && all[0]!.resumedFrom, null);
  assert.equal(all.at(-1)!.step, STEPS);
});

test("a folder that holds another run is refused unless it is resumed", async () => {
  await refused(run(options({ folder: whole })), "train/output", /holds another run[\s\S]*checkpoint-6/);
});

test("only the newest checkpoints stay, as many as asked", async () => {
  const folder = fresh();
  await run(options({ folder, keepCheckpoints: 2 }));
  assert.deepEqual(readdirSync(folder).sort(), ["adapter_model.safetensors", "checkpoint-5", "checkpoint-6"]);
  const one = fresh();
  await run(options({ folder: one, keepCheckpoints: 1 }, { evaluation: undefined }));
  assert.deepEqual(readdirSync(one).sort(), ["adapter_model.safetensors", "checkpoint-6"]);
});

for (const [what, change, pattern] of [
  ["seed", { seed: 4 }, /another value of seed[\s\S]*seed = 3[\s\S]*seed = 4/],
  ["learning rate", { optimizer: { ...toyOptimizer, learningRate: 1 } }, /another value of learningRate[\s\S]*= 0\.05[\s\S]*= 1/],
  ["number of steps", { steps: 9 }, /another value of steps[\s\S]*= 6[\s\S]*= 9/],
  ["loader", { loader: toyLoader(rows, 2) }, /another value of micro[\s\S]*= 3[\s\S]*= 2/],
  ["fact of the caller", { facts: { model: "b" } }, /another value of model[\s\S]*undefined[\s\S]*"b"/],
] as const) {
  test(`resuming with another ${what} is refused by name`, async () => {
    await refused(run(options({ folder: whole, resume: true }, change)), "train/resume-mismatch", pattern);
  });
}

test("a constant schedule can be trained on for longer", async () => {
  const optimizer = { ...toyOptimizer, schedule: "constant" } as const;
  const [one, two] = [toyTheta(), toyTheta()];
  const [folder, other] = [fresh(), fresh()];
  await run(options({ folder }, { optimizer, steps: 3 }));
  await run(options({ folder, resume: true }, { optimizer, theta: one }));
  await run(options({ folder: other }, { optimizer, theta: two }));
  assert.deepEqual(one, two);
});

const summed = fresh();
await run(options({ folder: summed, digest, keepCheckpoints: 2 }));

/** The file with one bit changed. */
function flip(file: string): void {
  const bytes = readFileSync(file);
  bytes[bytes.length >> 1]! ^= 4;
  writeFileSync(file, bytes);
}

test("checkpoints and the result have checksums, and the bits that they have without", () => {
  for (const folder of [summed, path.join(summed, "checkpoint-6")]) {
    const listed = readFileSync(path.join(folder, "SHA256SUMS"), "utf8").match(/ {2}.+$/gm)!;
    const others = Object.keys(contents(folder)).filter((name) => name !== "SHA256SUMS");
    assert.deepEqual(
      listed.map((name) => name.trim()),
      others.sort(),
    );
    execFileSync("sha256sum", ["-c", "--strict", "--quiet", "SHA256SUMS"], { cwd: folder });
  }
  const { SHA256SUMS: _, ...files } = contents(path.join(summed, "checkpoint-6"));
  assert.deepEqual(files, contents(path.join(whole, "checkpoint-6")));
});

for (const file of ["optimizer.safetensors", "adapter_model.safetensors", "trainer_state.json", "SHA256SUMS"]) {
  test(`one bit that changed in ${file} is found when the run is resumed, and the older checkpoint is named`, async () => {
    const folder = fresh();
    cpSync(summed, folder, { recursive: true });
    flip(path.join(folder, "checkpoint-6", file));
    const resumed = () => run(options({ folder, digest, resume: true }));
    await refused(resumed(), "train/checkpoint-damaged", /checkpoint-6[\s\S]*goes on from \S+checkpoint-5,/);
    flip(path.join(folder, "checkpoint-5/optimizer.safetensors"));
    await refused(resumed(), "train/checkpoint-damaged", /no older checkpoint/);
    flip(path.join(folder, "checkpoint-5/optimizer.safetensors"));
    rmSync(path.join(folder, "checkpoint-6"), { recursive: true });
    await resumed();
    assert.deepEqual(contents(folder), contents(summed));
  });
}

test("the best evaluation's checkpoint is checked before it becomes the result", async () => {
  const folder = fresh();
  cpSync(summed, folder, { recursive: true });
  const { best } = stateOf(folder, 6).evals;
  const worse = { ...stateOf(folder, 6), evals: { best: { ...best, step: 5 }, toBeat: best.loss, without: 1 } };
  rmSync(path.join(folder, "checkpoint-6/SHA256SUMS"));
  writeFileSync(path.join(folder, "checkpoint-6/trainer_state.json"), JSON.stringify(worse));
  flip(path.join(folder, "checkpoint-5/adapter_model.safetensors"));
  await refused(run(options({ folder, digest, resume: true, loadBest: true })), "train/checkpoint-damaged", /checkpoint-5/);
});

test("a checkpoint without checksums is resumed from", async () => {
  const folder = fresh();
  cpSync(whole, folder, { recursive: true });
  const all = await run(options({ folder, digest, resume: true }));
  assert.equal(all[0]!.type === "start" && all[0]!.step, 6);
});

const spoilt: [string, (folder: string) => void][] = [
  ["no trainer_state.json", (folder) => rmSync(path.join(folder, "trainer_state.json"))],
  ["a state cut short", (folder) => truncateSync(path.join(folder, "trainer_state.json"), 90)],
  [
    "a state of another step",
    (folder) => cpSync(path.join(whole, "checkpoint-2/trainer_state.json"), path.join(folder, "trainer_state.json")),
  ],
  ["a state that is something else", (folder) => writeFileSync(path.join(folder, "trainer_state.json"), '{"version":1}')],
  ["no optimizer.safetensors", (folder) => rmSync(path.join(folder, "optimizer.safetensors"))],
  ["weights cut short", (folder) => truncateSync(path.join(folder, "adapter_model.safetensors"), 100)],
];
for (const [what, spoil] of spoilt) {
  test(`a checkpoint with ${what} is passed over, and written again when the run comes by`, async () => {
    const folder = fresh();
    cpSync(whole, folder, { recursive: true });
    spoil(path.join(folder, "checkpoint-6"));
    assert.deepEqual(await latestCheckpoint(nodeFiles, folder), { step: 5, folder: `${folder}/checkpoint-5` });
    await run(options({ folder, resume: true, keepCheckpoints: 1 }));
    assert.deepEqual(readdirSync(folder).sort(), ["adapter_model.safetensors", "checkpoint-6"]);
    assert.deepEqual(contents(path.join(folder, "checkpoint-6")), contents(path.join(whole, "checkpoint-6")));
  });
}

test("a resume is refused when no checkpoint is whole, and nothing is removed", async () => {
  const folder = fresh();
  cpSync(path.join(whole, "checkpoint-3"), path.join(folder, "checkpoint-3"), { recursive: true });
  rmSync(path.join(folder, "checkpoint-3/optimizer.safetensors"));
  await refused(run(options({ folder, resume: true })), "train/output", /no complete checkpoint/);
  assert.deepEqual(readdirSync(folder), ["checkpoint-3"]);
});

test("leftovers of a killed run are passed over and removed; other names are left alone", async () => {
  const folder = fresh();
  for (const name of [".checkpoint-7.new", ".checkpoint-1.old", "checkpoint-x", "checkpoint-07", "notes"]) {
    mkdirSync(path.join(folder, name), { recursive: true });
    writeFileSync(path.join(folder, name, "part"), "");
  }
  assert.equal(await latestCheckpoint(nodeFiles, folder), undefined);
  await run(options({ folder, keepCheckpoints: 1 }));
  assert.deepEqual(readdirSync(folder).sort(), [
    "adapter_model.safetensors",
    "checkpoint-07",
    "checkpoint-6",
    "checkpoint-x",
    "notes",
  ]);
});

test("latestCheckpoint of a folder that is not there is none", async () => {
  assert.equal(await latestCheckpoint(nodeFiles, fresh()), undefined);
});

test("the state comes back to the bit, extreme numbers included", async () => {
  const folder = fresh();
  mkdirSync(folder);
  const values = Float32Array.of(0, -0, 1e-45, -3.4028234663852886e38, 1 / 3, 2 ** -126);
  const evals = { best: { step: 1, loss: 1e-300 }, toBeat: 1 / 3, without: 7 };
  const state = { theta: values, m: values.slice().reverse(), v: values.map(Math.abs), step: 1, evals };
  const saved = await saveCheckpoint(nodeFiles, folder, state, { a: null }, async () => {});
  assert.deepEqual(await loadCheckpoint(nodeFiles, saved, { a: null }, values.length), state);
  await refused(
    loadCheckpoint(nodeFiles, saved, { a: null }, 7),
    "train/checkpoint",
    /theta[\s\S]*float32 \[7\][\s\S]*float32 \[6\]/,
  );
  await refused(loadCheckpoint(nodeFiles, folder, {}, 6), "train/checkpoint", /not a complete checkpoint/);
});

test("a non-finite loss keeps every checkpoint and saves the state of before", async () => {
  const folder = fresh();
  const toy = toyObjective(0.2);
  const lossAndGradient: typeof toy.lossAndGradient = async (batch, theta, divisor, key) => {
    const result = await toy.lossAndGradient(batch, theta, divisor, key);
    return key.step === 3 ? { ...result, loss: Number.POSITIVE_INFINITY } : result;
  };
  const work = run(options({ folder, checkpointEvery: 2, keepCheckpoints: 1 }, { objective: { ...toy, lossAndGradient } }));
  await refused(work, "train/non-finite", /loss is Infinity at step 4[\s\S]*checkpoint-3/);
  await refused(work, "train/non-finite", /with a finite loss is \S+checkpoint-2\./);
  assert.deepEqual(readdirSync(folder).sort(), ["checkpoint-2", "checkpoint-3"]);
  for (const name of ["optimizer.safetensors", "adapter_model.safetensors"]) {
    assert.equal(contents(path.join(folder, "checkpoint-3"))[name], contents(path.join(whole, "checkpoint-3"))[name]);
  }
});

/** The toy, whose loss is no number once a parameter is larger than `most`, in training and in evaluation. */
function fragile(most: number): Objective {
  const toy = toyObjective(0.2);
  const spoilt = (theta: Float32Array) => theta.some((value) => Math.abs(value) > most);
  return {
    ...toy,
    lossAndGradient: async (batch, theta, divisor, key) => {
      const result = await toy.lossAndGradient(batch, theta, divisor, key);
      return spoilt(theta) ? { ...result, loss: Number.NaN } : result;
    },
    evaluate: async (batch, theta) => {
      const { loss } = await toy.evaluate(batch, theta);
      return { loss: spoilt(theta) ? { ...loss!, data: Float64Array.of(Number.NaN) } : loss! };
    },
  };
}

const diverging = { ...toyOptimizer, learningRate: 1e30, warmupSteps: 0, maxGradNorm: undefined };

for (const [what, evaluation] of [
  ["without an evaluation", undefined],
  ["with one", { batches: [toyBatch(rows)], every: 1 }],
] as const) {
  test(`a last update that broke the model is seen, ${what}, and is no result, now or when the run is resumed`, async () => {
    const folder = fresh();
    const broken = options({ folder }, { optimizer: diverging, steps: 1, objective: fragile(1e20), evaluation });
    await refused(run(broken), "train/non-finite", /at step 1[\s\S]*with a finite loss is \S+checkpoint-0\./);
    assert.deepEqual(readdirSync(folder), ["checkpoint-0"]);
    const { output, ...others } = broken;
    await refused(run({ ...others, theta: toyTheta() }), "train/non-finite", /at step 1/);
    await refused(run({ ...others, theta: toyTheta(), output: { ...output!, resume: true } }), "train/non-finite", /at step 1/);
  });
}

test("a checkpoint made after the update that broke the model is not offered, now or when the run is resumed", async () => {
  const folder = fresh();
  const optimizer = { ...diverging, learningRate: 0.9 };
  const change = { optimizer, objective: fragile(1), evaluation: undefined };
  const offered = /loss is NaN at step 2[\s\S]*with a finite loss is \S+checkpoint-0\./;
  await refused(run(options({ folder, keepCheckpoints: 1 }, change)), "train/non-finite", offered);
  assert.deepEqual(readdirSync(folder), ["checkpoint-0", "checkpoint-1"]);
  await refused(run(options({ folder, resume: true }, change)), "train/non-finite", offered);
});

test("parameters that are not finite are never saved", async () => {
  const folder = fresh();
  const optimizer = { ...toyOptimizer, learningRate: 1e39, warmupSteps: 0, maxGradNorm: undefined };
  await refused(
    run(options({ folder, keepCheckpoints: 1 }, { optimizer, evaluation: undefined })),
    "train/non-finite",
    /a parameter/,
  );
  assert.deepEqual(readdirSync(folder), ["checkpoint-0"]);
});

test("fingerprints differ for other content, order and bounds", () => {
  const of = (...chunks: number[][]) => fingerprint(chunks);
  const all = [of([1, 2, 3]), of([1, 2], [3]), of([3, 2, 1]), of([1, 2, 4]), of([]), of(), of([-100]), of([0])];
  assert.equal(new Set(all).size, all.length);
  assert.equal(of([1, 2, 3]), fingerprint([Int32Array.of(1, 2, 3)]));
  assert.match(of([1]), /^[0-9a-f]{16}$/);
});
