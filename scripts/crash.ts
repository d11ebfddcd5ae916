// npm run crash -- [--kills N] [--only train,merge,download] [--seed S] [--parallel P]: lowrank train, merge and download, each killed N times at random instants, gone on with, and compared with what an undisturbed one writes.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { crash } from "../test/crash/crash.ts";
import { crashDownloads, crashMerges } from "../test/crash/folders.ts";

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "200" },
    only: { type: "string", default: "train,merge,download" },
    seed: { type: "string", default: "1" },
    parallel: { type: "string", default: "2" },
  },
});
const program = ["dist/cli/main.js"];
const root = mkdtempSync(path.join(tmpdir(), "lowrank-crash-"));
const base = "test/fixtures/tiny-llama";
const data = "test/fixtures/tiny-e2e";
const run = ["--base", base, "--data", `${data}/train.jsonl`, "--threads", "1", "--learning-rate", "1e-3"];
const training = [...run, "--eval-data", `${data}/eval.jsonl`, "--eval-every", "25", "--dropout", "0.1", "--batch-size", "2"];
const parallel = Number(values.parallel);

interface Result {
  /** What each kill was aimed at, and what it left. */
  kills: { aim: string; left: string }[];
  finished: number;
}
type Series = { folder: string; kills: number; seed: number; onKill: () => void };

const kinds: Record<string, (series: Series) => Promise<Result>> = {
  async train(series) {
    const { kills, finished } = await crash({ ...series, program, run: training, steps: 120, checkpointEvery: 5, lifeMs: 1500 });
    const left = (step: number | null, half: boolean) => (half ? "a part" : step === null ? "no checkpoint" : "checkpoints");
    return { kills: kills.map(({ aim, step, caughtWriting }) => ({ aim, left: left(step, caughtWriting) })), finished };
  },
  merge(series) {
    const adapter = path.join(series.folder, "adapter");
    const demo = ["--base", "embedded", "--data", "models/demo/train.jsonl", "--threads", "1", "--steps", "1"];
    execFileSync(process.execPath, [...program, "train", ...demo, "--output", adapter], { stdio: "pipe" });
    // Several files, so that there is much to be killed in.
    const merge = ["--base", "embedded", "--adapter", adapter, "--max-shard-bytes", "1000000"];
    return crashMerges({ ...series, program, merge, lifeMs: 600 });
  },
  download(series) {
    const files = Object.fromEntries(readdirSync(base).map((name) => [name, readFileSync(path.join(base, name))]));
    return crashDownloads({ ...series, program, files, lifeMs: 600 });
  },
};

const counts = (of: readonly string[]): string => {
  const totals = new Map<string, number>();
  for (const name of of) totals.set(name, (totals.get(name) ?? 0) + 1);
  return [...totals].map(([name, count]) => `${name} ${count}`).join(", ");
};

for (const kind of values.only.split(",")) {
  const began = performance.now();
  const seconds = () => ((performance.now() - began) / 1000).toFixed(0);
  let done = 0;
  const onKill = () => {
    if (++done % 20 === 0) console.log(`${kind}: ${done} kills, ${seconds()} s`);
  };
  const series = Array.from({ length: parallel }, (_, n) =>
    kinds[kind]!({
      kills: Math.floor((Number(values.kills) + n) / parallel),
      seed: Number(values.seed) * parallel + n,
      folder: path.join(root, `${kind}-${n}`),
      onKill,
    }),
  );
  const results = await Promise.all(series);
  const kills = results.flatMap((result) => result.kills);
  const finished = results.reduce((sum, result) => sum + result.finished, 0);
  console.log(`${kind}: aimed at ${counts(kills.map(({ aim }) => aim))}; left ${counts(kills.map(({ left }) => left))}`);
  console.log(
    `${kind}: ${kills.length} kills, ${finished} finished with the bits of the undisturbed one; seed ${values.seed}, ${seconds()} s`,
  );
}
rmSync(root, { recursive: true, force: true });
