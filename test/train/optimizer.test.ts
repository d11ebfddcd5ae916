// AdamW, clipping and LoRA+ groups against torch's and PEFT's own numbers (scripts/reference/train.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { ThetaEntry } from "../../src/adapters/layout.ts";
import { clipGradNorm, parameterRanges, update } from "../../src/train/optimizer.ts";
import { schedules } from "../../src/train/schedule.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";

interface Case {
  weightDecay: number;
  maxGradNorm: number | null;
  loraPlusRatio?: number;
  thetas: number[][];
  norms: number[];
  m: number[];
  v: number[];
}

const fixture: {
  steps: number;
  warmup: number;
  learningRate: number;
  beta1: number;
  beta2: number;
  eps: number;
  entries: ThetaEntry[];
  theta: number[];
  gradients: number[][];
  cases: Record<string, Case>;
} = JSON.parse(readFileSync(`${fixtures}/train/optimizer.json`, "utf8"));

for (const [name, { weightDecay, maxGradNorm, loraPlusRatio, thetas, norms, m, v }] of Object.entries(fixture.cases)) {
  test(`${name}: ${fixture.steps} steps give torch's parameters, moments and norms`, () => {
    const theta = Float32Array.from(fixture.theta);
    const state = { m: new Float32Array(theta.length), v: new Float32Array(theta.length), step: 0 };
    const ranges = parameterRanges(fixture.entries, { learningRate: fixture.learningRate, weightDecay, loraPlusRatio });
    fixture.gradients.forEach((values, step) => {
      const gradient = Float32Array.from(values);
      const norm = clipGradNorm(gradient, maxGradNorm ?? undefined);
      near([norm], [norms[step]!], { rtol: 1e-6, atol: 1e-18 }, "norm");
      update(theta, gradient, state, ranges, schedules.cosine(step, fixture.warmup, fixture.steps), fixture);
      // torch rounds every intermediate to float32; one that cancels keeps fewer of its digits.
      near(theta, thetas[step]!, { rtol: 1e-6, atol: 1e-7 }, `step ${step}`);
    });
    near(state.m, m, { rtol: 2e-5, atol: 2e-17 }, "m");
    near(state.v, v, { rtol: 2e-6, atol: 2e-18 }, "v");
    assert.notDeepEqual([...theta], fixture.theta);
  });
}

test("the cases differ from each other, so that each option shows", () => {
  const ends = Object.values(fixture.cases).map(({ thetas }) => JSON.stringify(thetas.at(-1)));
  assert.equal(new Set(ends).size, 4);
});

test("LoRA+ ranges: B factors learn faster, their biases do not decay, embeddings stay at 1e-6", () => {
  const ranges = parameterRanges(fixture.entries, { learningRate: 1e-3, weightDecay: 0.1, loraPlusRatio: 4 });
  const at = (key: string) => {
    const { offset } = fixture.entries.find((entry) => entry.key.endsWith(key))!;
    const { learningRate, weightDecay } = ranges.find(({ start, end }) => start <= offset && offset < end)!;
    return [learningRate, weightDecay];
  };
  assert.deepEqual(at("linear.lora_A.weight"), [1e-3, 0.1]);
  assert.deepEqual(at("linear.lora_B.weight"), [4e-3, 0.1]);
  assert.deepEqual(at("linear.lora_B.bias"), [4e-3, 0]);
  assert.deepEqual(at("embed.lora_embedding_B"), [1e-6, 0.1]);
});

test("without LoRA+ the whole of θ is one range", () => {
  const ranges = parameterRanges(fixture.entries, { learningRate: 1e-3, weightDecay: 0.1 });
  assert.deepEqual(ranges, [{ start: 0, end: fixture.theta.length, learningRate: 1e-3, weightDecay: 0.1 }]);
});

test("clipping leaves a small gradient alone and reports a non-finite norm", () => {
  const small = Float32Array.of(0.3, 0.4);
  assert.ok(Math.abs(clipGradNorm(small, 1) - 0.5) < 1e-7);
  assert.deepEqual(small, Float32Array.of(0.3, 0.4));
  assert.equal(clipGradNorm(Float32Array.of(1, Number.NaN), 1), Number.NaN);
  assert.equal(clipGradNorm(Float32Array.of(1, Number.NEGATIVE_INFINITY), 1), Number.POSITIVE_INFINITY);
});
