// npm run crash -- [--kills N] [--seed S] [--parallel P]: lowrank train killed N times at random instants, resumed each time, and compared with an undisturbed run.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { crash, type Kill } from "../test/crash/crash.ts";

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "200" },
    seed: { type: "string", default: "1" },
    parallel: { type: "string", default: "2" },
  },
});
const folder = mkdtempSync(path.join(tmpdir(), "lowrank-crash-"));
const began = performance.now();
const seconds = () => ((performance.now() - began) / 1000).toFixed(0);
const data = "test/fixtures/tiny-e2e";
const run = ["--base", "test/fixtures/tiny-llama", "--data", `${data}/train.jsonl`, "--eval-data", `${data}/eval.jsonl`];
const parallel = Number(values.parallel);
let done = 0;
const series = Array.from({ length: parallel }, (_, n) =>
  crash({
    program: ["dist/cli/main.js"],
    run: [...run, "--eval-every", "25", "--dropout", "0.1", "--batch-size", "2", "--threads", "1", "--learning-rate", "1e-3"],
    steps: 120,
    checkpointEvery: 5,
    kills: Math.floor((Number(values.kills) + n) / parallel),
    seed: Number(values.seed) * parallel + n,
    folder: path.join(folder, String(n)),
    lifeMs: 1500,
    onKill: () => {
      if (++done % 10 === 0) console.log(`${done} kills, ${seconds()} s`);
    },
  }),
);
const results = await Promise.all(series);
const kills = results.flatMap((result) => result.kills);
const finished = results.reduce((sum, result) => sum + result.finished, 0);
rmSync(folder, { recursive: true, force: true });
const counts = (of: (kill: Kill) => string) => {
  const totals = new Map<string, number>();
  for (const kill of kills) totals.set(of(kill), (totals.get(of(kill)) ?? 0) + 1);
  return [...totals].map(([name, count]) => `${name} ${count}`).join(", ");
};
console.log(`aimed at: ${counts(({ aim }) => aim)}`);
console.log(
  `files half written: ${kills.filter(({ caughtWriting }) => caughtWriting).length}; before the first checkpoint: ${kills.filter(({ step }) => step === null).length}`,
);
console.log(
  `${kills.length} kills, ${finished} runs finished with the bits of the undisturbed run; seed ${values.seed}, ${seconds()} s`,
);
