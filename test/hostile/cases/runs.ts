// Runs that are stopped, resumed with other options or data, or whose folder was damaged meanwhile.
import assert from "node:assert/strict";
import { appendFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import type { FinetuneEvent } from "../../../src/index.ts";
import { nodeFiles } from "../../../src/platform/node/files.ts";
import { latestCheckpoint } from "../../../src/train/checkpoint.ts";
import { type Case, engine, goodBase, goodData, type Place } from "../../helpers/hostile.ts";

const fresh = { base: undefined, data: undefined, steps: undefined, learningRate: undefined };
const resumed = (place: Place, change: object = {}) => place.train({ ...fresh, resume: true, ...change });
const result = (place: Place, folder = "output") => readFileSync(`${place.at(folder)}/adapter_model.safetensors`);
const startOf = (events: readonly FinetuneEvent[]) => events.find((event) => event.type === "start")?.step;

/** Six steps of which four are done, with checkpoints at 2 and 4; then `damage`, and the run goes on. */
const damaged =
  (damage: (folder: string, place: Place) => void, change: object = {}) =>
  async (place: Place) => {
    const options = { steps: 6, checkpointEvery: 2, schedule: "constant" };
    await place.train({ ...options, output: place.at("whole") });
    const stop = new AbortController();
    const engineThatStops = engine((run) => {
      if (run === 4) stop.abort();
      return 1;
    });
    await place.train({ ...options, signal: stop.signal }, { openSession: engineThatStops });
    const folder = place.at("output");
    assert.equal((await latestCheckpoint(nodeFiles, folder))?.step, 4);
    damage(folder, place);
    return resumed(place, change);
  };

/** …from the step `from`, and to the bits of the undisturbed run. */
const goesOn = (from: number, damage: (folder: string, place: Place) => void) => async (place: Place) => {
  const events = await damaged(damage)(place);
  assert.equal(startOf(events), from);
  assert.deepEqual(result(place), result(place, "whole"));
};

/** A refused resumption leaves the checkpoints as they were. */
const keeps = (work: (place: Place) => Promise<unknown>) => async (place: Place) => {
  try {
    await work(place);
  } finally {
    assert.equal((await latestCheckpoint(nodeFiles, place.at("output")))?.step, 4);
  }
};

export const runCases: Case[] = [
  { name: "nothing to resume", ends: "train/no-run", work: (place) => resumed(place) },
  {
    name: "a run that is started again without being resumed",
    ends: "train/output",
    message: /another run/,
    work: keeps(damaged(() => {}, { resume: false, base: goodBase, data: goodData, steps: 6 })),
  },
  {
    name: "a run that is resumed with other data",
    ends: "train/resume-mismatch",
    message: /examples/,
    work: keeps((place) => damaged(() => {}, { data: place.file("d.jsonl", '{"text":"a"}\n') })(place)),
  },
  {
    name: "a run whose data file has changed",
    ends: "train/resume-mismatch",
    work: keeps(async (place) => {
      const data = place.file("d.jsonl", readFileSync(goodData));
      return damaged(() => appendFileSync(data, '{"prompt":"a","completion":"b"}\n'), { data })(place);
    }),
  },
  {
    name: "a run that is resumed with another seed",
    ends: "train/resume-mismatch",
    message: /seed/i,
    work: keeps(damaged(() => {}, { seed: 9 })),
  },
  {
    name: "a run whose base was changed",
    ends: "train/resume-mismatch",
    message: /base/,
    work: keeps((place) =>
      damaged(() => {}, { base: place.base({ "config.json": (json) => ({ ...json, rms_norm_eps: 1e-6 }) }) })(place),
    ),
  },
  {
    name: "leftovers of a killed run",
    ends: "accepted",
    work: async (place) => {
      await goesOn(4, (folder) => {
        mkdirSync(`${folder}/.checkpoint-5.new`);
        writeFileSync(`${folder}/.checkpoint-5.new/adapter_model.safetensors`, "half");
        cpSync(`${folder}/checkpoint-2`, `${folder}/.checkpoint-1.old`, { recursive: true });
        writeFileSync(`${folder}/.lowrank-0b7f6a52-0000-4000-8000-000000000000.tmp`, "half");
      })(place);
      assert.deepEqual(
        readdirSync(place.at("output")).filter((name) => name.startsWith(".")),
        [],
      );
    },
  },
  {
    name: "a newest checkpoint that is cut off, with one before it",
    ends: "accepted",
    work: goesOn(2, (folder) => truncateSync(`${folder}/checkpoint-4/optimizer.safetensors`, 100)),
  },
  {
    name: "a newest checkpoint without its state",
    ends: "accepted",
    work: goesOn(2, (folder) => rmSync(`${folder}/checkpoint-4/trainer_state.json`)),
  },
  {
    name: "a newest checkpoint whose state is NUL bytes",
    ends: "accepted",
    work: goesOn(2, (folder) => writeFileSync(`${folder}/checkpoint-4/trainer_state.json`, new Uint8Array(4096))),
  },
  {
    name: "a checkpoint of a step that its name does not say",
    ends: "accepted",
    work: goesOn(4, (folder) => cpSync(`${folder}/checkpoint-4`, `${folder}/checkpoint-999`, { recursive: true })),
  },
  {
    name: "checkpoints none of which is whole",
    ends: "train/output",
    message: /no complete checkpoint/,
    work: damaged((folder) => {
      for (const step of [2, 4]) rmSync(`${folder}/checkpoint-${step}/optimizer.safetensors`);
    }),
  },
  {
    name: "a file in place of a checkpoint",
    ends: "accepted",
    work: goesOn(4, (folder) => writeFileSync(`${folder}/checkpoint-77`, "x")),
  },
  {
    name: "run.json cut off",
    ends: "json/syntax",
    message: /run\.json/,
    work: keeps(damaged((folder) => truncateSync(`${folder}/run.json`, 50))),
  },
  {
    name: "run.json of a later version",
    ends: "train/no-run",
    message: /version 2/,
    work: keeps(damaged((folder) => writeFileSync(`${folder}/run.json`, '{"version":2,"options":{}}'))),
  },
  {
    name: "run.json with __proto__",
    ends: "train/option",
    work: keeps(
      damaged((folder) => writeFileSync(`${folder}/run.json`, '{"version":1,"options":{"__proto__":{"polluted":1},"base":7}}')),
    ),
  },
  {
    name: "a log of NUL bytes, as after a power cut",
    ends: "accepted",
    work: goesOn(4, (folder) => writeFileSync(`${folder}/metrics.jsonl`, new Uint8Array(10_000))),
  },
  { name: "a log that was removed", ends: "accepted", work: goesOn(4, (folder) => rmSync(`${folder}/metrics.jsonl`)) },
  {
    name: "an interruption in the middle of an evaluation",
    ends: "accepted",
    work: async (place) => {
      const stop = new AbortController();
      let evaluations = 0;
      const openSession = engine((_, isTraining) => {
        if (!isTraining && ++evaluations === 2) stop.abort();
        return 1;
      });
      const events = await place.train({ steps: 6, evalData: goodData, evalEvery: 3, signal: stop.signal }, { openSession });
      const done = events.at(-1);
      assert.ok(done?.type === "done" && done.stopped && done.step === 3, JSON.stringify(done));
      assert.equal((await latestCheckpoint(nodeFiles, place.at("output")))?.step, 3);
    },
  },
  {
    name: "an interruption before the first step",
    ends: "accepted",
    work: async (place) => {
      const events = await place.train({ signal: AbortSignal.abort() });
      const done = events.at(-1);
      assert.ok(done?.type === "done" && done.stopped && done.step === 0, JSON.stringify(done));
    },
  },
  {
    name: "a run that is resumed after its end",
    ends: "accepted",
    work: async (place) => {
      await place.train();
      const before = result(place);
      await resumed(place);
      assert.deepEqual(result(place), before);
    },
  },
];
