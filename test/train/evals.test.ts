// Evaluations steer a run: the best one's checkpoint stays and can be the result, and a run that gets no better ends early.
import assert from "node:assert/strict";
import { readdirSync, readFileSync, renameSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { afterEval, bestOf, hasStalled, noEvals } from "../../src/train/evals.ts";
import { type TrainEvent, type TrainOptions, type TrainOutput, train } from "../../src/train/trainer.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { saveToy, toyBatch, toyObjective, toyRows, toyRun, toyTheta } from "../helpers/toy.ts";

const root = temporaryFolder();
let folders = 0;
const fresh = (): string => path.join(root, `run-${folders++}`);

const WEIGHTS = "adapter_model.safetensors";
const batches = [toyBatch(toyRows(2))];

/** An evaluation a step, whose losses are those given. */
function scripted(losses: number[], output: Partial<TrainOutput> & { folder: string }, change: Partial<TrainOptions> = {}) {
  const toy = toyObjective(0.2);
  let step = 0;
  const lossAndGradient: typeof toy.lossAndGradient = (batch, theta, divisor, key) => {
    step = key.step + 1;
    return toy.lossAndGradient(batch, theta, divisor, key);
  };
  const targets = batches[0]!.targets;
  const objective = {
    ...toy,
    lossAndGradient,
    evaluate: async () => ({
      loss: { dtype: "float64" as const, shape: [], data: Float64Array.of(losses[step - 1]! * targets) },
    }),
  };
  return toyRun(
    { checkpointEvery: 100, ...output },
    { objective, steps: losses.length, evaluation: { batches, every: 1 }, ...change },
  );
}

async function run(options: TrainOptions, onEvent: (event: TrainEvent) => void = () => {}) {
  const all: TrainEvent[] = [];
  for await (const event of train(options)) {
    all.push(event);
    onEvent(event);
  }
  const last = all.at(-1)!;
  assert.ok(last.type === "done");
  return { all, done: last };
}

const weightsOf = (folder: string) => readFileSync(path.join(folder, WEIGHTS)).toString("base64");
const checkpointsOf = (folder: string) => readdirSync(folder).filter((name) => name.startsWith("checkpoint-"));

test("a run has stalled after `patience` evaluations that are not better by more than minDelta", () => {
  const evals = (...losses: number[]) => losses.map((loss, i) => ({ step: i + 1, loss }));
  const stalled = (patience: number, minDelta: number, ...losses: number[]) => {
    let history = noEvals;
    return evals(...losses).some((one) => {
      history = afterEval(history, one, minDelta);
      return hasStalled(history, { patience, minDelta });
    });
  };
  assert.equal(stalled(1, 0), false);
  assert.equal(stalled(1, 0, 5), false);
  assert.equal(stalled(1, 0, 5, 4), false);
  assert.equal(stalled(1, 0, 5, 5), true, "as good is not better");
  assert.equal(stalled(2, 0, 5, 6, 4, 4.5), false);
  assert.equal(stalled(2, 0, 5, 6, 4, 4.5, 4), true);
  assert.equal(stalled(2, 0, 5, 6, 6, 1), true, "what comes after the end does not count");
  assert.equal(stalled(2, 0.5, 5, 4.8, 4.4), false, "small steps add up");
  assert.equal(stalled(2, 0.5, 5, 4.8, 4.6), true);
  assert.deepEqual(bestOf(evals(5, 3, 4, 3)), { step: 2, loss: 3 });
  assert.equal(bestOf([]), null);
});

test("the best evaluation's checkpoint stays beside the newest ones, and is named at the end", async () => {
  const folder = fresh();
  const { done } = await run(scripted([5, 3, 4, 4, 4, 4], { folder, keepCheckpoints: 2, checkpointEvery: 1 }));
  assert.deepEqual(checkpointsOf(folder), ["checkpoint-2", "checkpoint-5", "checkpoint-6"]);
  assert.deepEqual([done.best, done.result, done.early], [{ step: 2, loss: 3 }, 6, false]);
  assert.equal(weightsOf(folder), weightsOf(`${folder}/checkpoint-6`));
  assert.notEqual(weightsOf(folder), weightsOf(`${folder}/checkpoint-2`));
});

test("a better evaluation is saved at once, a worse one only when a checkpoint is due", async () => {
  const folder = fresh();
  const { all } = await run(scripted([5, 3, 4, 2, 4, 4], { folder, keepCheckpoints: 100 }));
  assert.deepEqual(
    all.filter((event) => event.type === "checkpoint").map((event) => event.step),
    [0, 1, 2, 4, 6],
  );
});

test("loadBest makes the best the result; a finished run can still be asked for either", async () => {
  const folder = fresh();
  const theta = toyTheta();
  const losses = [5, 3, 4, 4, 4, 4];
  const { done } = await run(scripted(losses, { folder, loadBest: true }, { theta }));
  assert.equal(done.result, 2);
  assert.equal(weightsOf(folder), weightsOf(`${folder}/checkpoint-2`));
  await saveToy(nodeFiles, root, theta);
  assert.equal(weightsOf(root), weightsOf(folder), "θ is not what was saved");
  await run(scripted(losses, { folder, resume: true }));
  assert.equal(weightsOf(folder), weightsOf(`${folder}/checkpoint-6`));
  await run(scripted(losses, { folder, resume: true, loadBest: true }));
  assert.equal(weightsOf(folder), weightsOf(`${folder}/checkpoint-2`));
  renameSync(`${folder}/checkpoint-2`, `${folder}/elsewhere`);
  await assert.rejects(run(scripted(losses, { folder, resume: true, loadBest: true })), { code: "train/best", exitCode: 1 });
});

test("a run that gets no better ends early, wherever it is killed and resumed", async () => {
  const losses = [5, 3, 4, 4, 4, 2, 2, 2];
  const early = { patience: 3, minDelta: 0 };
  const change = { evaluation: { batches, every: 1, early } };
  const [whole, folder] = [fresh(), fresh()];
  const { done } = await run(scripted(losses, { folder: whole }, change));
  assert.deepEqual([done.step, done.early, done.stopped, done.result], [5, true, false, 5]);
  for (let stop = 1; stop <= 5; stop++) {
    const control = new AbortController();
    const part = scripted(losses, { folder, resume: true }, { ...change, signal: control.signal });
    await run(part, (event) => {
      if (event.type === "eval" && event.step === stop) control.abort();
    });
  }
  for (const file of [
    WEIGHTS,
    `checkpoint-5/${WEIGHTS}`,
    "checkpoint-5/optimizer.safetensors",
    "checkpoint-5/trainer_state.json",
  ]) {
    assert.deepEqual(readFileSync(`${folder}/${file}`), readFileSync(`${whole}/${file}`), file);
  }
  const again = await run(scripted(losses, { folder, resume: true }, change));
  assert.deepEqual(
    again.all.map(({ type }) => type),
    ["start", "done"],
    "it has ended",
  );
  const further = await run(scripted(losses, { folder, resume: true }, { evaluation: { batches, every: 1 } }));
  assert.deepEqual([further.done.step, further.done.early], [8, false], "without patience it goes on");
});

test("a checkpoint is due by the clock as well", async () => {
  const stepsWith = async (checkpointMinutes: number) => {
    const options = toyRun({ folder: fresh(), checkpointMinutes }, { evaluation: undefined });
    return (await run(options)).all.filter((event) => event.type === "checkpoint").map((event) => event.step);
  };
  assert.deepEqual(await stepsWith(1e-9), [0, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual(await stepsWith(60), [0, 6]);
});

test("what can't be meant is refused", async () => {
  const wrong = async (change: Partial<TrainOptions>, subject: string) =>
    assert.rejects(run(toyRun({ folder: fresh() }, change)), { code: "train/option", subject });
  const files = { files: nodeFiles, saveWeights: saveToy, folder: fresh() };
  await wrong({ evaluation: { batches, every: 1, early: { patience: 0, minDelta: 0 } } }, "evaluation.early.patience");
  await wrong({ evaluation: { batches, every: 1, early: { patience: 1, minDelta: -1 } } }, "evaluation.early.minDelta");
  await wrong({ output: { ...files, checkpointMinutes: 0 } }, "output.checkpointMinutes");
});
