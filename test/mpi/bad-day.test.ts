// lowrank train under mpirun when something goes wrong: killed processes, other data, wrong options.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { cp, mkdir } from "node:fs/promises";
import { setTimeout as later } from "node:timers/promises";
import { only } from "../helpers/assert.ts";
import { same } from "../helpers/same-run.ts";
import { teamRuns } from "../helpers/team-runs.ts";
import { mpirun, testEach } from "./harness.ts";
import { CLI, configOf, eventsOf, newFolder, processesOf, train, whole } from "./jobs.ts";

/** Kills of one process, under each MPI. */
const KILLS = 25;
/** Within which all processes end behind one that was killed. */
const ENDS_WITHIN_S = 10;

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
