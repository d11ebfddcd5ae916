// Disks that are full or read-only, folders that are none, clocks that jump. What was written before has to be there afterwards.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { LowrankError } from "../../../src/errors.ts";
import type { Files } from "../../../src/files.ts";
import type { FinetuneEvent } from "../../../src/index.ts";
import { nodeFiles } from "../../../src/platform/node/files.ts";
import { latestCheckpoint } from "../../../src/train/checkpoint.ts";
import { type Case, engine, filesWith, goodBase, type Place, withReplaced } from "../../helpers/hostile.ts";

const noSpace = (subject: string) =>
  new LowrankError("file/no-space", "no space left on the disk", {
    subject,
    next: "Free some space, then run again.",
    exitCode: 1,
  });

/** Files on a disk that is full from the moment that `isFull` says so. A write that fails leaves half of a temporary file. */
function fullDisk(isFull: (file: string) => boolean): Files {
  const failing =
    <A extends [string, ...unknown[]], R>(real: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      if (isFull(args[0])) throw noSpace(args[0]);
      return real(...args);
    };
  return {
    ...nodeFiles,
    write: failing(nodeFiles.write),
    append: failing(nodeFiles.append),
    makeFolder: failing(nodeFiles.makeFolder),
  };
}

const result = (place: Place, folder: string) => readFileSync(`${place.at(folder)}/adapter_model.safetensors`);
const steps = { steps: 6, checkpointEvery: 2, keepCheckpoints: 2 };

/** Trains until the disk is full, then on with space: the same bits as without the fault, and a whole checkpoint in between. */
const fullAt = (where: RegExp, least: number) => async (place: Place) => {
  await place.train({ ...steps, output: place.at("whole") });
  const output = place.at("output");
  let failure: unknown;
  try {
    await place.train({ ...steps, output }, { files: fullDisk((file) => where.test(file)) });
  } catch (error) {
    failure = error;
  }
  const latest = await latestCheckpoint(nodeFiles, output);
  assert.ok(latest && latest.step >= least, `checkpoint ${latest?.step}`);
  await place.train({ base: undefined, data: undefined, steps: undefined, learningRate: undefined, output, resume: true });
  assert.deepEqual(result(place, "output"), result(place, "whole"));
  throw failure;
};

const stepsOf = (events: readonly FinetuneEvent[]) => events.flatMap((event) => (event.type === "step" ? [event] : []));

/** Six steps by a clock that message `times` in turn, again and again, beside the real one's beginning. */
const clock =
  (read: (call: number) => number, options: object = {}) =>
  async (place: Place) => {
    let calls = 0;
    const now = () => read(calls++);
    const run = () => place.train({ ...steps, ...options });
    const DateNow = () => 1.7e12 + read(calls++);
    const events = await withReplaced(performance, { now }, () => withReplaced(Date, { now: DateNow }, run));
    for (const { seconds, tokensPerSecond, etaSeconds } of stepsOf(events)) {
      for (const value of [seconds, tokensPerSecond, etaSeconds]) assert.ok(Number.isFinite(value) && value >= 0, `${value}`);
    }
    assert.equal(stepsOf(events).length, 6);
    return events;
  };
const YEAR = 365 * 86_400_000;
const checkpointsOf = (events: readonly FinetuneEvent[]) => events.filter((event) => event.type === "checkpoint").length;

export const machineCases: Case[] = [
  {
    name: "a disk that is full before the first checkpoint",
    ends: "file/no-space",
    work: (place) => place.train({}, { files: fullDisk((file) => file.includes("optimizer")) }),
  },
  {
    name: "a disk that is full while weights are saved",
    ends: "file/no-space",
    message: /checkpoint-4/,
    work: fullAt(/checkpoint-4\.new\/adapter_model/, 2),
  },
  {
    name: "a disk that is full while the optimizer is saved",
    ends: "file/no-space",
    work: fullAt(/checkpoint-4\.new\/optimizer/, 2),
  },
  {
    name: "a disk that is full while the state is saved",
    ends: "file/no-space",
    work: fullAt(/checkpoint-2\.new\/trainer_state/, 0),
  },
  { name: "a disk that is full while a folder is made", ends: "file/no-space", work: fullAt(/checkpoint-6\.new$/, 4) },
  { name: "a disk that is full while the result is saved", ends: "file/no-space", work: fullAt(/output\/adapter_model/, 6) },
  {
    name: "a disk that is full for the log alone",
    ends: "file/no-space",
    message: /metrics\.jsonl/,
    work: (place) => place.train({}, { files: fullDisk((file) => file.endsWith("metrics.jsonl")) }),
  },
  {
    name: "a disk with less than the run needs",
    ends: "train/disk",
    work: (place) => place.train({}, { freeDisk: async () => 1000 }),
  },
  {
    name: "a machine with less memory than the run needs",
    ends: "train/memory",
    work: (place) => place.train({}, { memoryLimits: () => ({ available: 1e6, total: 1e6 }) }),
  },
  {
    name: "a folder that can only be read",
    ends: "file/read-only",
    work: (place) =>
      place.train(
        {},
        {
          files: filesWith("write", () => async (subject) => {
            throw new LowrankError("file/read-only", "the file system is read-only", { subject, next: "Choose another folder." });
          }),
        },
      ),
  },
  {
    name: "an output folder where the system lets nobody write",
    ends: "file/missing",
    work: (place) => place.train({ output: "/proc/lowrank/output" }),
  },
  {
    name: "a file in place of the output folder",
    ends: "file/exists",
    work: (place) => place.train({ output: place.file("output", "thesis") }),
  },
  {
    name: "an output folder under a file",
    ends: "file/not-folder",
    work: (place) => place.train({ output: `${place.file("thesis", "x")}/output` }),
  },
  {
    name: "the base's own folder for output",
    ends: "train/output",
    work: (place) => {
      const base = place.base();
      return place.train({ base, output: `${base}/../base` });
    },
  },
  {
    name: "a link to the base for output",
    ends: "train/output",
    work: (place) => {
      symlinkSync(goodBase, place.at("output"));
      return place.train();
    },
  },
  {
    name: "an output folder with somebody's work",
    ends: "train/output",
    message: /thesis\.tex/,
    work: async (place) => {
      const file = place.file("output/thesis.tex", "\\begin{document}");
      try {
        await place.train();
      } finally {
        assert.equal(readFileSync(file, "utf8"), "\\begin{document}");
      }
    },
  },
  {
    name: "a folder in place of the file of options",
    ends: "file/not-regular",
    work: (place) => {
      mkdirSync(place.at("output/run.json"), { recursive: true });
      return place.train({ resume: true });
    },
  },
  { name: "a clock that goes back a year at every look", ends: "accepted", work: clock((call) => -call * YEAR) },
  { name: "a clock that goes on by a year at every look", ends: "accepted", work: clock((call) => call * YEAR) },
  { name: "a clock that stands still", ends: "accepted", work: clock(() => 5) },
  { name: "a clock that is set forth and back", ends: "accepted", work: clock((call) => call + (call % 2) * YEAR) },
  {
    name: "a clock that jumps once, with checkpoints by minutes",
    ends: "accepted",
    work: async (place) => {
      const events = await clock((call) => (call < 20 ? call : call + YEAR), { checkpointEvery: 1000, checkpointMinutes: 5 })(
        place,
      );
      assert.ok(checkpointsOf(events) <= 3, `${checkpointsOf(events)} checkpoints`);
    },
  },
  {
    name: "a clock that jumps back once, with checkpoints by minutes",
    ends: "accepted",
    work: async (place) => {
      const minute = 60_000;
      const events = await clock((call) => call * minute - (call < 20 ? 0 : YEAR), {
        checkpointEvery: 1000,
        checkpointMinutes: 5,
      })(place);
      assert.ok(checkpointsOf(events) > 2, `${checkpointsOf(events)} checkpoints`);
    },
  },
  {
    name: "an engine that dies in the third step",
    ends: "runtime/engine",
    work: async (place) => {
      const dies = engine((run) => {
        if (run === 3) throw new LowrankError("runtime/engine", "ONNX Runtime failed", { subject: "engine", next: "Report it." });
        return 1;
      });
      try {
        await place.train(steps, { openSession: dies });
      } finally {
        assert.equal((await latestCheckpoint(nodeFiles, place.at("output")))?.step, 2);
      }
    },
  },
  {
    name: "a loss that is no number in the third step",
    ends: "train/non-finite",
    message: /checkpoint-2/,
    work: async (place) => {
      try {
        await place.train({ ...steps, checkpointEvery: 100 }, { openSession: engine((run) => (run === 3 ? Number.NaN : 1)) });
      } finally {
        assert.equal((await latestCheckpoint(nodeFiles, place.at("output")))?.step, 2);
        assert.ok(!existsSync(`${place.at("output")}/adapter_model.safetensors`));
      }
    },
  },
  {
    name: "an infinite loss in the first step",
    ends: "train/non-finite",
    message: /checkpoint-0/,
    work: (place) => place.train({}, { openSession: engine(() => Number.POSITIVE_INFINITY) }),
  },
];
