// Training in several processes, here inside one: whatever their number, a run is the run of one process.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { type FinetuneEvent, finetune as finetuneOn } from "../../src/commands/train/finetune.ts";
import type { Communicator } from "../../src/distributed/communicator.ts";
import { nodePlatform } from "../../src/node.ts";
import type { FinetuneOptions, RunOptions } from "../../src/train/options.ts";
import { collect, near, only, refused } from "../helpers/assert.ts";
import { curve, same } from "../helpers/same-run.ts";
import { jsonl } from "../helpers/task-bases.ts";
import { memoryTeam } from "../helpers/team.ts";
import { teamRuns } from "../helpers/team-runs.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
let folders = 0;

/** The events of the first process of a run in so many. */
async function run(processes: number, options: Partial<RunOptions>, output = `${root}/run-${folders++}`) {
  const own = (team: (typeof teams)[number]) =>
    collect(finetuneOn({ threads: 1, ...options, output } as FinetuneOptions, { ...nodePlatform, team }));
  const teams = memoryTeam(processes);
  const [events] = await Promise.all(teams.map(own));
  return { events: events!, output };
}

for (const [name, options] of Object.entries(teamRuns)) {
  test(`${name}: three processes train what one does`, async (t) => {
    const settings = { ...(await options(temporaryFolder(t))), steps: 12, evalEvery: 6 };
    await same(await run(1, settings), await run(3, settings));
  });
}

const llama = (folder: string) => teamRuns["LoRA"]!(folder);

test("a run of four processes goes on with two, then with three, on the curve of one", async (t) => {
  const settings = { ...(await llama(temporaryFolder(t))), checkpointEvery: 5 };
  const whole = await run(1, settings);
  const output = `${root}/resumed`;
  const losses: number[] = [];
  for (const [processes, stop] of [
    [4, 9],
    [2, 20],
    [3, 99],
  ] as const) {
    const stopping = new AbortController();
    const teams = memoryTeam(processes);
    const events = await Promise.all(
      teams.map(async (team) => {
        const seen: FinetuneEvent[] = [];
        // A signal reaches one process, and all stop behind the same step.
        const signal = team.rank === processes - 1 ? stopping.signal : undefined;
        const options = { threads: 1, ...settings, output, resume: processes < 4, signal } as FinetuneOptions;
        for await (const event of finetuneOn(options, { ...nodePlatform, team })) {
          seen.push(event);
          if (event.type === "step" && event.step === stop) stopping.abort();
        }
        return seen;
      }),
    );
    const ends = events.map((own) => only(own, "done")[0]!);
    assert.deepEqual(new Set(ends.map(({ step }) => step)).size, 1);
    assert.equal(ends[0]!.stopped, stop < 30);
    losses.push(...only(events[0]!, "step").map(({ loss }) => loss));
  }
  near(losses, curve(whole.events).losses, { rtol: 1e-6, atol: 1e-6 });
  await same({ ...whole, events: [] }, { events: [], output });
});

/** The failure of each process, where `change` makes the communicator of the last one err. */
async function failures(options: Partial<RunOptions>, change: (team: Communicator) => Partial<Communicator>) {
  const teams = memoryTeam(3);
  const output = `${root}/failed-${folders++}`;
  const runs = teams.map((team) => {
    const own = team.rank === 2 ? { ...team, ...change(team) } : team;
    return collect(finetuneOn({ threads: 1, ...options, output } as FinetuneOptions, { ...nodePlatform, team: own }));
  });
  return Promise.all(runs.map((one) => refused(one, "distributed/different")));
}

test("a process whose θ is not that of the others is found at the next checkpoint, and all say which and when", async (t) => {
  const settings = { ...(await llama(temporaryFolder(t))), evalData: undefined, checkpointEvery: 4 };
  const found = await failures(settings, (team) => ({
    async allReduce(values, what) {
      await team.allReduce(values, what);
      if (what === "gradient of step 6") values[5]! *= 1 + 1e-3;
    },
  }));
  for (const error of found) {
    assert.match(error.message, /the same θ at step 8, as they had at step 4/);
    assert.equal(error.subject, "process 2");
  }
});

test("processes with other data are refused before the first step, by the name of the file", async (t) => {
  const folder = temporaryFolder(t);
  const settings = await llama(folder);
  const other = await jsonl(
    folder,
    "other.jsonl",
    Array.from({ length: 23 }, (_, i) => ({ prompt: `${i}`, completion: "?" })),
  );
  const teams = memoryTeam(2);
  const runs = teams.map((team) => {
    // What process 0 says of the options holds for all; the file of the last process is another.
    const files = {
      ...nodePlatform.files,
      ...Object.fromEntries(
        (["read", "size", "exists"] as const).map((name) => [
          name,
          (path: string, ...rest: never[]) =>
            (nodePlatform.files[name] as (...args: unknown[]) => unknown)(
              path === settings.data && team.rank === 1 ? other : path,
              ...rest,
            ),
        ]),
      ),
    };
    const options = { threads: 1, ...settings, output: `${root}/differs` } as FinetuneOptions;
    return collect(finetuneOn(options, { ...nodePlatform, files, team }));
  });
  for (const error of await Promise.all(runs.map((own) => refused(own, "distributed/different")))) {
    assert.match(error.message, /the same records of .*texts.jsonl from record 1 on/);
    assert.equal(error.subject, "process 1");
  }
});

test("a file of samples is read by all, and one process shows what is written; only that one has an output folder", async (t) => {
  const folder = temporaryFolder(t);
  const samples = await jsonl(folder, "samples.jsonl", [
    { prompt: "Question: what is the capital of France?\nAnswer:", completion: "" },
  ]);
  const settings = { ...(await llama(folder)), samples, steps: 4, evalEvery: 2 };
  const teams = memoryTeam(2);
  const freeDisk = async () => assert.fail("the output folder is not on this machine");
  const [first, second] = await Promise.all(
    teams.map((team) =>
      collect(
        finetuneOn({ threads: 1, ...settings, output: `${root}/samples` } as FinetuneOptions, {
          ...nodePlatform,
          ...(team.rank === 1 && { freeDisk }),
          team,
        }),
      ),
    ),
  );
  assert.deepEqual(
    only(first!, "samples").map(({ step, samples: texts }) => [step, texts.length]),
    [
      [2, 1],
      [4, 1],
    ],
  );
  assert.deepEqual(only(second!, "samples"), []);
});

test("a run ends before its time is over, and can be resumed", async (t) => {
  const settings = { ...(await llama(temporaryFolder(t))), evalData: undefined };
  let left = 1000;
  const output = `${root}/timed`;
  const teams = memoryTeam(2);
  const events = await Promise.all(
    teams.map((team) => {
      const platform = { ...nodePlatform, team, ...(team.rank === 1 && { secondsLeft: () => (left -= 120) }) };
      return collect(finetuneOn({ threads: 1, ...settings, output } as FinetuneOptions, platform));
    }),
  );
  const [end] = only(events[0]!, "done");
  assert.ok(end!.stopped && end!.step > 3 && end!.step < 12, String(end!.step));
  assert.equal(only((await run(2, { ...settings, resume: true }, output)).events, "done")[0]!.step, 30);
});
