// generate/sample.ts against Transformers' processors, and its draws against the softmax of what they leave.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import { nextToken, processLogits } from "../../src/generate/sample.ts";
import type { Sampling } from "../../src/generate/types.ts";
import { fixtures } from "../helpers/repository.ts";

type Options = { temperature: number; top_k: number; top_p: number; repetition_penalty: number };
interface Fixture {
  seen: number[];
  logits: Record<string, (number | null)[]>;
  rows: {
    name: string;
    logits: string;
    options: Options;
    scores: (number | null)[];
    probabilities: number[];
    argmax: number;
  }[];
  largeVocab: number;
  large: { name: string; options: Options; kept: number; idSum: number; scoreSum: number }[];
}
const fixture: Fixture = JSON.parse(readFileSync(`${fixtures}/generate/sampling.json`, "utf8"));
const seen = new Set(fixture.seen);
const plain: Sampling = { temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1, seed: 5 };

const samplingOf = (options: Options): Sampling => ({
  temperature: options.temperature,
  topK: options.top_k,
  topP: options.top_p,
  repetitionPenalty: options.repetition_penalty,
  seed: 5,
});
const cutsTies = (row: Fixture["rows"][number]) => row.options.top_p < 1 && ["ties", "flat"].includes(row.logits);
const logitsOf = (name: string) => Float32Array.from(fixture.logits[name]!, (score) => score ?? Number.NEGATIVE_INFINITY);

test("processed scores are Transformers' to the last bit", () => {
  assert.ok(fixture.rows.length >= 19);
  for (const row of fixture.rows) {
    const logits = logitsOf(row.logits);
    const before = logits.slice();
    const scores = processLogits(logits, seen, samplingOf(row.options));
    const shown = [...scores].map((score) => (score === Number.NEGATIVE_INFINITY ? null : score));
    // Which of equal scores top-p removes is unspecified there; how many is not.
    if (cutsTies(row)) assert.deepEqual(shown.sort(), row.scores.slice().sort(), row.name);
    else assert.deepEqual(shown, row.scores, row.name);
    assert.deepEqual(logits, before, "the logits given are not changed");
  }
});

test("a vocabulary of 150000 is cut as Transformers cuts it", () => {
  const logits = Float32Array.from({ length: fixture.largeVocab }, (_, id) => {
    const hash = Number((BigInt(id) * 2654435761n) % 2n ** 32n);
    return (hash >>> 8) / 2 ** 20 - 8;
  });
  assert.equal(fixture.large.length, 3);
  for (const row of fixture.large) {
    const scores = processLogits(logits, seen, samplingOf(row.options));
    let kept = 0;
    let idSum = 0;
    let scoreSum = 0;
    for (const [id, score] of scores.entries()) {
      if (score === Number.NEGATIVE_INFINITY) continue;
      kept++;
      idSum += id;
      scoreSum += score;
    }
    assert.deepEqual([kept, idSum], [row.kept, row.idSum], row.name);
    assert.ok(Math.abs(scoreSum - row.scoreSum) < 1e-6 * Math.abs(row.scoreSum), row.name);
  }
});

test("draws follow the probabilities that Transformers would draw with", () => {
  const draws = 4000;
  let tested = 0;
  for (const row of fixture.rows.filter((row) => row.options.temperature > 0 && !cutsTies(row))) {
    const counts = new Array<number>(row.probabilities.length).fill(0);
    const logits = logitsOf(row.logits);
    for (let step = 0; step < draws; step++) {
      const token = nextToken(logits, seen, samplingOf(row.options), { row: 2, step });
      counts[token]!++;
    }
    // Pearson's statistic over tokens expected at least 5 times, the rest as one class.
    let statistic = 0;
    let classes = 0;
    let rest = { count: 0, expected: 0 };
    for (const [id, probability] of row.probabilities.entries()) {
      if (probability === 0) assert.equal(counts[id], 0, `${row.name}: drew ${id}, which is ruled out`);
      const expected = probability * draws;
      if (expected < 5) {
        rest = { count: rest.count + counts[id]!, expected: rest.expected + expected };
        continue;
      }
      statistic += (counts[id]! - expected) ** 2 / expected;
      classes++;
    }
    if (rest.expected > 1) statistic += (rest.count - rest.expected) ** 2 / rest.expected;
    // Mean of chi-squared is its degrees of freedom, its standard deviation sqrt(2 * freedom); 5 of them.
    assert.ok(statistic <= classes + 5 * Math.sqrt(2 * classes), `${row.name}: ${statistic} over ${classes} classes`);
    tested += classes;
  }
  assert.ok(tested > 100);
});

test("temperature 0 takes the first of the largest scores, after the penalty", () => {
  const rows = fixture.rows.filter((row) => row.options.temperature === 0);
  assert.equal(rows.length, 1);
  for (const row of rows) {
    assert.equal(nextToken(logitsOf(row.logits), seen, samplingOf(row.options), { row: 0, step: 0 }), row.argmax);
  }
  const ties = Float32Array.of(1, 3, 2, 3);
  const none = new Set<number>();
  assert.equal(nextToken(ties, none, { ...plain, temperature: 0 }, { row: 0, step: 0 }), 1);
  assert.equal(nextToken(ties, new Set([1, 9]), { ...plain, temperature: 0, repetitionPenalty: 2 }, { row: 0, step: 0 }), 3);
});

test("of equal scores top-p keeps the lower ids, so that a tiny one is greedy", () => {
  const scores = processLogits(Float32Array.of(1, 3, 3, 2, 3), new Set(), { ...plain, topP: 1e-6 });
  assert.deepEqual([...scores].map(Number.isFinite), [false, true, false, false, false]);
});

test("a draw depends on seed, row and step, and on nothing else", () => {
  const logits = new Float32Array(1000);
  const sequence = (seed: number, row: number) =>
    Array.from({ length: 20 }, (_, step) => nextToken(logits, new Set(), { ...plain, seed }, { row, step }));
  assert.deepEqual(sequence(1, 0), sequence(1, 0));
  assert.notDeepEqual(sequence(1, 0), sequence(2, 0));
  assert.notDeepEqual(sequence(1, 0), sequence(1, 1));
  assert.ok(new Set(sequence(1, 0)).size > 10);
});

test("logits that nothing can be drawn from are refused with the token", () => {
  const { NaN: nan, POSITIVE_INFINITY: infinity, NEGATIVE_INFINITY: masked } = Number;
  const cases: [number[], RegExp][] = [
    [[0, nan, 5], /token 1\b[\s\S]*NaN/],
    [[nan, 1], /token 0\b[\s\S]*NaN/],
    [[0, infinity], /token 1\b[\s\S]*Infinity/],
    [[masked, masked], /-Infinity/],
  ];
  for (const temperature of [0, 1]) {
    for (const [logits, pattern] of cases) {
      assert.throws(
        () => nextToken(Float32Array.from(logits), new Set(), { ...plain, temperature }, { row: 0, step: 0 }),
        (error: LowrankError) => error.code === "generate/logits" && pattern.test(error.describe()),
      );
    }
  }
});
