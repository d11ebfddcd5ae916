// The training loop on a hand-differentiated network: what a step computes, what the events say, how runs end and fail.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Batch } from "../../src/data/types.ts";
import { evaluateTheta, lossMeasure } from "../../src/train/evals.ts";
import type { Objective } from "../../src/train/objective.ts";
import { type TrainEvent, type TrainOptions, train } from "../../src/train/trainer.ts";
import { collect, near, only, refused } from "../helpers/assert.ts";
import { lossOf } from "../helpers/loss.ts";
import { toyBatch, toyLoader, toyObjective, toyOptimizer, toyRows, toyTheta } from "../helpers/toy.ts";

const rows = toyRows(12);

const options = (change: Partial<TrainOptions> = {}): TrainOptions => ({
  objective: toyObjective(),
  theta: toyTheta(),
  loader: toyLoader(rows, 4),
  steps: 6,
  seed: 7,
  optimizer: toyOptimizer,
  ...change,
});

const events = (of: TrainOptions): Promise<TrainEvent[]> => collect(train(of));

const fails = (of: TrainOptions, code: string, ...text: RegExp[]) => refused(events(of), code, { text });

test("the toy's gradient is the one of finite differences", async () => {
  const objective = toyObjective();
  const batch = toyBatch(rows.slice(0, 3));
  const theta = toyTheta();
  const { gradient } = await objective.lossAndGradient(batch, theta, 1, { seed: 0, step: 0, micro: 0 });
  for (const i of [0, 5, 17, 33, 40, 65]) {
    const at = async (h: number) => {
      const moved = theta.map((value, j) => (i === j ? value + h : value));
      return lossOf(objective, batch, moved);
    };
    const slope = ((await at(2 ** -10)) - (await at(-(2 ** -10)))) / 2 ** -9;
    near(gradient[i]!, slope, 1e-4, `gradient ${i}`);
  }
  assert.ok(gradient.some((value) => Math.abs(value) > 0.1));
});

test("training lowers the loss, in place, and says so in order", async () => {
  const theta = toyTheta();
  const all = await events(options({ theta, steps: 60, optimizer: { ...toyOptimizer, learningRate: 0.2 } }));
  assert.equal(all[0]!.type, "start");
  assert.deepEqual(all[0], { type: "start", step: 0, steps: 60, parameters: theta.length, resumedFrom: null });
  const steps = only(all, "step");
  assert.deepEqual(
    steps.map(({ step }) => step),
    Array.from({ length: 60 }, (_, i) => i + 1),
  );
  assert.ok(steps.at(-1)!.loss < 0.7 * steps[0]!.loss, `${steps[0]!.loss} → ${steps.at(-1)!.loss}`);
  assert.equal(steps[0]!.learningRate, 0);
  assert.equal(steps[2]!.learningRate, 0.2);
  assert.equal(steps[0]!.tokens, rows.slice(0, 4).flat().length);
  assert.ok(steps.every(({ gradNorm, tokensPerSecond, etaSeconds }) => gradNorm > 0 && tokensPerSecond > 0 && etaSeconds >= 0));
  assert.equal(steps.at(-1)!.etaSeconds, 0);
  assert.deepEqual(all.at(-1), { ...all.at(-1), type: "done", step: 60, stopped: false, folder: null });
  assert.notDeepEqual(theta, toyTheta());
});

test("accumulated micro-batches are the big batch, not the mean of their means", async () => {
  const [small, big, shuffled] = [toyTheta(), toyTheta(), toyTheta()];
  const loaderOf = (batches: (step: number) => Batch[]) => ({ stepsPerEpoch: 3, microBatches: batches, facts: {} });
  const four = (step: number) => rows.slice((step % 3) * 4, (step % 3) * 4 + 4);
  assert.ok(new Set(four(0).map(({ length }) => length)).size > 1);
  const accumulated = await events(options({ theta: small }));
  const whole = await events(options({ theta: big, loader: loaderOf((step) => [toyBatch(four(step))]) }));
  await events(
    options({ theta: shuffled, loader: loaderOf((step) => [toyBatch(four(step).slice(0, 1)), toyBatch(four(step).slice(1))]) }),
  );
  for (const [i, { loss, gradNorm, tokens }] of only(whole, "step").entries()) {
    const other = only(accumulated, "step")[i]!;
    assert.ok(Math.abs(other.loss - loss) < 1e-6 && Math.abs(other.gradNorm - gradNorm) < 1e-6);
    assert.equal(other.tokens, tokens);
  }
  for (const theta of [small, shuffled]) near(theta, big, 1e-6);
  const means = await Promise.all(four(0).map((row) => evaluateTheta(toyObjective(), toyTheta(), [toyBatch([row])])));
  const meanOfMeans = means.reduce((sum, { loss }) => sum + loss / 4, 0);
  assert.ok(Math.abs(meanOfMeans - only(whole, "step")[0]!.loss) > 1e-3);
});

test("a micro-batch without targets adds nothing; a step without any is an error", async () => {
  const [without, alone] = [toyTheta(), toyTheta()];
  const loader = (batches: Batch[]) => ({ stepsPerEpoch: 1, microBatches: () => batches, facts: {} });
  await events(options({ theta: alone, loader: loader([toyBatch([rows[0]!])]) }));
  await events(options({ theta: without, loader: loader([toyBatch([[3]]), toyBatch([rows[0]!])]) }));
  assert.deepEqual(without, alone);
  await fails(options({ loader: loader([toyBatch([[3]])]) }), "train/no-targets", /step 1/);
});

test("the same seed gives the same bits, another seed others", async () => {
  const run = async (seed: number) => {
    const theta = toyTheta();
    await events(options({ theta, seed, objective: toyObjective(0.3) }));
    return theta;
  };
  assert.deepEqual(await run(1), await run(1));
  assert.notDeepEqual(await run(1), await run(2));
});

test("dropout draws differ by step and micro-batch", async () => {
  const keys = new Set<string>();
  const toy = toyObjective();
  const lossAndGradient: Objective["lossAndGradient"] = (batch, theta, divisor, key) => {
    keys.add(JSON.stringify(key));
    return toy.lossAndGradient(batch, theta, divisor, key);
  };
  await events(options({ objective: { ...toy, lossAndGradient } }));
  assert.equal(keys.size, 6 * 4);
  assert.ok(keys.has(JSON.stringify({ seed: 7, step: 5, micro: 3 })));
});

test("clipping, schedule and LoRA+ reach the update", async () => {
  const run = async (change: object) => {
    const theta = toyTheta();
    await events(options({ theta, optimizer: { ...toyOptimizer, ...change } }));
    return theta.join();
  };
  const changes = [
    {},
    { maxGradNorm: 0.01 },
    { schedule: "constant" },
    { loraPlusRatio: 4 },
    { weightDecay: 0.5 },
    { eps: 1e-3 },
  ];
  assert.equal(new Set(await Promise.all(changes.map(run))).size, changes.length);
});

test("epochs become steps, a part of one rounded up", async () => {
  assert.equal(only(await events(options({ steps: undefined, epochs: 2 })), "done")[0]!.step, 6);
  assert.equal(only(await events(options({ steps: undefined, epochs: 0.5 })), "done")[0]!.step, 2);
});

/** What a language model logs: the loss, and a figure of its own. */
function perplexity() {
  const { add, score } = lossMeasure();
  return {
    add,
    async score() {
      const { loss } = await score();
      return { loss, perplexity: Math.exp(loss) };
    },
  };
}

test("evaluation weighs tokens, runs when asked and at the end, and does not touch the run", async () => {
  const [plain, evaluated] = [toyTheta(), toyTheta()];
  await events(options({ theta: plain }));
  const batches = [toyBatch(rows.slice(0, 1)), toyBatch(rows.slice(1, 6)), toyBatch([[1]])];
  const all = await events(options({ theta: evaluated, evaluation: { batches, every: 4, measure: perplexity } }));
  assert.deepEqual(evaluated, plain);
  const evals = only(all, "eval");
  assert.deepEqual(
    evals.map(({ step }) => step),
    [4, 6],
  );
  const { loss } = await evaluateTheta(toyObjective(), evaluated, [toyBatch(rows.slice(0, 6))]);
  assert.ok(Math.abs(evals[1]!.loss - loss) < 1e-12);
  assert.equal(evals[1]!.perplexity, Math.exp(evals[1]!.loss));
});

test("a signal ends the run after the step at work", async () => {
  const control = new AbortController();
  const all: TrainEvent[] = [];
  for await (const event of train(options({ signal: control.signal }))) {
    all.push(event);
    if (event.type === "step" && event.step === 2) control.abort();
  }
  assert.equal(only(all, "step").length, 2);
  assert.equal(only(all, "done")[0]!.stopped, true);
});

test("memory is what the caller measures", async () => {
  const [first] = only(await events(options({ memoryBytes: () => 123 })), "step");
  assert.equal(first!.memoryBytes, 123);
});

test("a step says how long it waited for weights, if any stream", async () => {
  let waited = 5;
  const waitedSeconds = () => (waited += 0.25);
  const steps = only(await events(options({ waitedSeconds })), "step");
  assert.ok(steps.length > 1 && steps.every((step) => step.waitedSeconds === 0.25));
  assert.ok(only(await events(options()), "step").every((step) => !("waitedSeconds" in step)));
});

for (const [what, spoil] of [
  ["loss", { loss: Number.NaN }],
  ["gradient norm", { gradient: new Float32Array(66).fill(Number.POSITIVE_INFINITY) }],
] as const) {
  test(`a non-finite ${what} names the step, the value and the learning rate, and leaves θ as it was`, async () => {
    const toy = toyObjective();
    const theta = toyTheta();
    const before: Float32Array[] = [];
    const lossAndGradient: Objective["lossAndGradient"] = async (batch, now, divisor, key) => {
      if (key.step === 3) before.push(now.slice());
      const result = await toy.lossAndGradient(batch, now, divisor, key);
      return key.step === 3 ? { ...result, ...spoil } : result;
    };
    const value = what === "loss" ? /NaN/ : /Infinity/;
    await fails(
      options({ theta, objective: { ...toy, lossAndGradient } }),
      "train/non-finite",
      new RegExp(`${what} is .* at step 4`),
      value,
      /learning rate 0\.04\d+/,
      /lower learning rate/,
    );
    assert.deepEqual(theta, before[0]);
  });
}

test("options that can't be trained with are refused by name before anything runs", async () => {
  const optimizer = toyOptimizer;
  const cases: [RegExp, Partial<TrainOptions>][] = [
    [/^steps, epochs/, { steps: 3, epochs: 1 }],
    [/^steps, epochs/, { steps: undefined }],
    [/^steps:/, { steps: 1.5 }],
    [/^epochs:/, { steps: undefined, epochs: -1 }],
    [/^theta/, { theta: new Float32Array(3) }],
    [/^objective.entries: b/, { objective: { ...toyObjective(), entries: [{ key: "b", offset: 2, shape: [66], group: "A" }] } }],
    [/^learningRate/, { optimizer: { ...optimizer, learningRate: Number.NaN } }],
    [/^maxGradNorm/, { optimizer: { ...optimizer, maxGradNorm: 0 } }],
    [/^loraPlusRatio/, { optimizer: { ...optimizer, loraPlusRatio: -1 } }],
    [/^weightDecay/, { optimizer: { ...optimizer, weightDecay: -0.1 } }],
    [/^beta2/, { optimizer: { ...optimizer, beta2: 1 } }],
    [/^eps/, { optimizer: { ...optimizer, eps: 0 } }],
    [/^schedule/, { optimizer: { ...optimizer, schedule: "toString" as "linear" } }],
    [/^warmupSteps/, { optimizer: { ...optimizer, warmupSteps: -1 } }],
    [/^evaluation.every/, { evaluation: { batches: [toyBatch(rows)], every: 0 } }],
    [/^evaluation.batches/, { evaluation: { batches: [], every: 1 } }],
  ];
  for (const [pattern, change] of cases) await fails(options(change), "train/option", pattern);
});
