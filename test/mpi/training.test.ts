// lowrank train under mpirun: any number of processes trains what one does, and they can be stopped.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { only } from "../helpers/assert.ts";
import { curve, same } from "../helpers/same-run.ts";
import { teamRuns } from "../helpers/team-runs.ts";
import { testEach } from "./harness.ts";
import { configOf, eventsOf, newFolder, processesOf, train, whole } from "./jobs.ts";

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
