// lowrank train under mpirun: any number of processes trains what one does, and what happens on a bad day.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { cp, mkdir, writeFile } from "node:fs/promises";
import { setTimeout as later } from "node:timers/promises";
import type { FinetuneEvent } from "../../src/commands/train/finetune.ts";
import { only } from "../helpers/assert.ts";
import { curve, same } from "../helpers/same-run.ts";
import { teamRuns } from "../helpers/team-runs.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { type Ended, type Flavour, mpirun, testEach } from "./harness.ts";

const CLI = "src/cli/main.ts";
/** Kills of one process, under each MPI. */
const KILLS = 25;
/** Within which all processes end behind one that was killed. */
const ENDS_WITHIN_S = 10;

const root = temporaryFolder();
let folders = 0;
const newFolder = (name: string): string => `${root}/${name}-${folders++}`;

interface Job {
  flavour: Flavour;
  processes: number;
  config: string;
  output: string;
  args?: readonly string[];
  onOutput?: (text: string) => void;
}

const train = ({ flavour, processes, config, output, args = [], onOutput }: Job): Promise<Ended> =>
  mpirun(flavour, processes, CLI, ["train", "--config", config, "--output", output, "--json", ...args], { onOutput });

const eventsOf = ({ stdout }: Ended): FinetuneEvent[] =>
  stdout
    .split(/\r?\n/)
    .filter((line) => line.startsWith('{"type"'))
    .map((line) => JSON.parse(line) as FinetuneEvent);

async function whole(job: Job) {
  const ended = await train(job);
  assert.equal(ended.code, 0, ended.stderr);
  return { events: eventsOf(ended), output: job.output };
}

/** The options of a kind of run as a config file. */
async function configOf(kind: string, more: object = {}): Promise<string> {
  const folder = newFolder("data");
  await mkdir(folder);
  const file = `${folder}/config.json`;
  await writeFile(file, JSON.stringify({ threads: 1, ...(await teamRuns[kind]!(folder)), ...more }));
  return file;
}

for (const kind of Object.keys(teamRuns)) {
  testEach(`${kind}: two, three and four processes train what one does`, async (flavour) => {
    const config = await configOf(kind);
    const one = await whole({ flavour, processes: 1, config, output: newFolder("one") });
    for (const processes of [2, 3, 4]) await same(one, await whole({ flavour, processes, config, output: newFolder("many") }));
  });
}

testEach("the same number of processes gives the same bits", async (flavour) => {
  const config = await configOf("LoRA");
  const [a, b] = [newFolder("a"), newFolder("b")];
  for (const output of [a, b]) await whole({ flavour, processes: 3, config, output });
  assert.deepEqual(readFileSync(`${a}/adapter_model.safetensors`), readFileSync(`${b}/adapter_model.safetensors`));
});

/** Process ids of the job's Node processes: what they train into is on their command lines. */
function processesOf(output: string): number[] {
  return readdirSync("/proc").flatMap((name) => {
    try {
      const [command = "", ...args] = readFileSync(`/proc/${Number(name)}/cmdline`, "utf8").split("\0");
      return command === process.execPath && args.includes(output) ? [Number(name)] : [];
    } catch {
      return []; // not a process, or one that has ended
    }
  });
}

testEach(
  "a signal that one process gets ends the run behind a step, and others go on with it: four, two, three",
  async (flavour) => {
    const config = await configOf("LoRA", { checkpointEvery: 5, steps: 60 });
    const one = await whole({ flavour, processes: 1, config, output: newFolder("one") });
    const output = newFolder("stopped");
    const losses: number[] = [];
    for (const [processes, stop] of [
      [4, 9],
      [2, 30],
      [3, 99],
    ] as const) {
      let isSent = false;
      const onOutput = (text: string) => {
        if (isSent || !new RegExp(`"type":"step","step":${stop},`).test(text)) return;
        isSent = true;
        process.kill(processesOf(output).at(-1)!, "SIGTERM");
      };
      const ended = await train({ flavour, processes, config, output, args: losses.length > 0 ? ["--resume"] : [], onOutput });
      assert.equal(ended.code, 0, ended.stderr);
      const events = eventsOf(ended);
      losses.push(...only(events, "step").map(({ loss }) => loss));
      assert.equal(only(events, "done")[0]!.stopped, stop < 60);
    }
    await same({ ...one, events: [] }, { events: [], output });
    const expected = curve(one.events).losses;
    assert.equal(losses.length, expected.length);
    for (const [i, loss] of losses.entries())
      assert.ok(Math.abs(loss - expected[i]!) <= 2e-6 * Math.max(1, loss), `step ${i + 1}`);
  },
);

testEach(
  `a process is killed ${KILLS} times: all end, and the run goes on from a checkpoint to the same result`,
  async (flavour) => {
    const config = await configOf("LoRA", { checkpointEvery: 10, evalData: undefined, evalEvery: undefined, steps: 200 });
    const undisturbed = await whole({ flavour, processes: 2, config, output: newFolder("whole") });
    let output = newFolder("killed");
    /** The step of the newest checkpoint. */
    let before = -1;
    let [kills, finished] = [0, 0];
    while (kills < KILLS || finished === 0) {
      const processes = 2 + (kills % 3);
      let begun = () => {};
      const start = new Promise<void>((resolve) => {
        begun = resolve;
      });
      const running = train({
        flavour,
        processes,
        config,
        output,
        args: before >= 0 ? ["--resume"] : [],
        onOutput: (text) => text.includes('"type":"step"') && begun(),
      });
      await Promise.race([start, running]);
      let killed: number | undefined;
      if (kills < KILLS) {
        await later(Math.random() * 1500);
        const ids = processesOf(output);
        const id = ids[Math.floor(Math.random() * ids.length)];
        if (id !== undefined) {
          killed = performance.now();
          process.kill(id, "SIGKILL");
        }
      }
      const ended = await running;
      if (killed !== undefined && ended.code !== 0) {
        kills++;
        const seconds = (performance.now() - killed) / 1000;
        assert.ok(seconds < ENDS_WITHIN_S, `the others ended ${seconds.toFixed(1)} s after the kill`);
        assert.deepEqual(processesOf(output), []);
        const [begin] = only(eventsOf(ended), "start");
        assert.ok(!begin || begin.step === Math.max(0, before), `went on from step ${begin!.step}, behind step ${before}`);
        before = Math.max(
          -1,
          ...(existsSync(output) ? readdirSync(output) : []).map((name) => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? -1)),
        );
        continue;
      }
      assert.equal(ended.code, 0, ended.stderr);
      finished++;
      await same({ ...undisturbed, events: [] }, { events: [], output }, 1e-5);
      [output, before] = [newFolder("killed"), -1];
    }
  },
);

testEach("a process with other data is named once, and ends all", async (flavour) => {
  const folder = newFolder("apart");
  const options = (await teamRuns["LoRA"]!(folder).catch(async () => {
    await mkdir(folder);
    return teamRuns["LoRA"]!(folder);
  })) as { data: string; base: string };
  const [here, there] = [`${folder}/here`, `${folder}/there`];
  for (const own of [here, there]) {
    await mkdir(own);
    await cp(options.data, `${own}/texts.jsonl`);
  }
  writeFileSync(`${there}/texts.jsonl`, readFileSync(options.data, "utf8").replace("Paris", "Tours"));
  const args = ["train", "--base", options.base, "--data", "texts.jsonl", "--steps", "3", "--output", `${folder}/out`];
  const ended = await mpirun(flavour, 3, "test/mpi/programs/apart.ts", [[here, here, there].join(","), ...args]);
  assert.equal(ended.code, 1, ended.stderr);
  assert.match(ended.stderr, /process 2: processes do not have the same records of texts\.jsonl/);
  assert.equal(ended.stderr.match(/do not have the same records/g)!.length, 1);
  assert.ok(ended.seconds < 25, `${ended.seconds} s`);
});

testEach("a wrong option, and a command of one process, are said once", async (flavour) => {
  const wrong = await mpirun(flavour, 3, CLI, [
    "train",
    "--base",
    "test/fixtures/tiny-llama",
    "--data",
    "nothing.jsonl",
    "--output",
    newFolder("x"),
  ]);
  assert.equal(wrong.code, 2, wrong.stderr);
  assert.equal(wrong.stderr.match(/^lowrank: /gm)?.length, 1, wrong.stderr);
  const other = await mpirun(flavour, 2, CLI, ["inspect", "test/fixtures/tiny-llama"]);
  assert.equal(other.code, 2);
  assert.equal(other.stderr.match(/lowrank inspect is the work of one process/g)?.length, 1, other.stderr);
});
