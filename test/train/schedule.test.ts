// Learning-rate schedules against Transformers' own numbers (scripts/reference/train.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type ScheduleName, schedules } from "../../src/train/schedule.ts";
import { fixtures } from "../helpers/repository.ts";

const rows: { name: ScheduleName; warmup: number; steps: number; factors: number[] }[] = JSON.parse(
  readFileSync(`${fixtures}/train/schedules.json`, "utf8"),
);

for (const { name, warmup, steps, factors } of rows) {
  test(`${name}, ${warmup} warm-up steps of ${steps}: the factor at every step is Transformers'`, () => {
    assert.ok(factors.length > steps);
    factors.forEach((factor, step) => {
      const ours = schedules[name](step, warmup, steps);
      assert.ok(Math.abs(ours - factor) <= 1e-15, `step ${step}: ${ours}, not ${factor}`);
    });
  });
}

test("every schedule is in the fixture", () => {
  assert.deepEqual([...new Set(rows.map(({ name }) => name))].sort(), Object.keys(schedules).sort());
});
