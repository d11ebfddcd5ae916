// Hostile and odd input: every case of the tables in cases/, through finetune or the command line, ends as its row says, and soon.
// slow
import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import { LowrankError } from "../../src/errors.ts";
import { type Case, makePlace } from "../helpers/hostile.ts";
import { baseCases } from "./cases/base.ts";
import { dataCases } from "./cases/data.ts";
import { imageCases } from "./cases/images.ts";
import { machineCases } from "./cases/machine.ts";
import { optionCases } from "./cases/options.ts";
import { runCases } from "./cases/runs.ts";

/** No case may use more of a processor than this; the time it waits is bounded by the test's own limit. */
const MAX_CPU_SECONDS = 20;
const MAX_MS = 60_000;
/** The tables may grow, but not shrink. */
const LEAST_CASES = 60;

const tables: Record<string, Case[]> = {
  "data files": dataCases,
  "folders of images": imageCases,
  "bases, tokenizers, templates": baseCases,
  "options, adapters, config files": optionCases,
  "disk, folders, clocks": machineCases,
  "runs that are stopped, resumed, damaged": runCases,
};

for (const [title, cases] of Object.entries(tables)) {
  describe(title, () => {
    for (const each of cases) it(`${each.name}: ${each.ends}`, { timeout: MAX_MS }, () => check(each));
  });
}

async function check({ ends, message, work }: Case): Promise<void> {
  const place = makePlace();
  const began = process.cpuUsage();
  try {
    let error: unknown;
    try {
      await work(place);
    } catch (caught) {
      error = caught;
    }
    const { user, system } = process.cpuUsage(began);
    assert.ok(user + system < MAX_CPU_SECONDS * 1e6, `${((user + system) / 1e6).toFixed(1)} s of processor time`);
    if (ends === "accepted") return assert.ifError(error);
    assert.ok(error instanceof LowrankError, error === undefined ? "it was accepted" : String((error as Error).stack));
    const text = error.describe();
    assert.equal(error.code, ends, text);
    assert.ok(error.subject || message, `it does not say what it is about: ${text}`);
    assert.ok(error.next, `it does not say what to do next: ${text}`);
    if (message) assert.match(text, message);
    assert.ok(text.length < 8000, `${text.length} characters`);
  } finally {
    place.leave();
  }
}

describe("the tables", () => {
  const names = Object.values(tables).flatMap((cases) => cases.map(({ name }) => name));
  it(`hold ${names.length} cases, at least ${LEAST_CASES}, each with a name of its own`, () => {
    assert.ok(names.length >= LEAST_CASES);
    assert.equal(new Set(names).size, names.length);
  });
  after(() => assert.equal(({} as Record<string, unknown>)["polluted"], undefined, "a prototype was changed"));
});
