// The parts of the benchmark: what it measures of a process, how it resumes, and that the page says what the file of results holds.
import assert from "node:assert/strict";
import { appendFileSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fitted } from "../../bench/fit.ts";
import { type Measured, measure } from "../../bench/measure.ts";
import { sizeOf } from "../../bench/modes.ts";
import { madePart, pageOf } from "../../bench/page.ts";
import { type Key, type Line, openResults, type Result, readResults } from "../../bench/results.ts";
import { near } from "../helpers/assert.ts";
import { slow } from "../helpers/slow.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const limits = { seconds: 60, megabytes: 4096 };
const node = (script: string, more = limits) => measure(process.execPath, ["-e", script], more);
const line = `console.log(JSON.stringify({ seconds: 2, tokens_per_second: 3, rss_mb: 1 }))`;

test("a process is measured with its children: memory, the first step, what it prints", slow, async () => {
  const hold = (megabytes: number) => `const held = Buffer.alloc(${megabytes} << 20, 1);`;
  const child = `${hold(150)} setTimeout(() => held, 600)`;
  const parent = `${hold(100)} console.log("first step");
    require("child_process").spawnSync(process.execPath, ["-e", ${JSON.stringify(child)}]); held[0]; ${line}`;
  const result = (await node(parent)) as Measured;
  assert.equal(result.seconds, 2);
  assert.ok(result.cold_start_seconds! < result.wall_seconds, JSON.stringify(result));
  if (process.platform === "linux") assert.ok(result.peak_mb > 250 && result.peak_mb < 600, JSON.stringify(result));
});

test("what fails, takes too long or too much memory is a result too", slow, async () => {
  const failed = async (script: string, more = limits) => ((await node(script, more)) as { failed: string }).failed;
  assert.match(await failed(`console.error("no such model"); process.exit(3)`), /ended with 3: no such model/);
  assert.match(await failed("console.log(1, 2)"), /no JSON: 1 2/);
  assert.match(await failed("setInterval(() => {}, 1000)", { ...limits, seconds: 0.3 }), /more than 0.3 s/);
  if (process.platform !== "linux") return;
  const greedy = "const held = Buffer.alloc(300 << 20, 1); setInterval(() => held, 1000)";
  assert.match(await failed(greedy, { ...limits, megabytes: 200 }), /more than 200 MB/);
});

const model = { model: "toy", parameters: 2e6, layers: 2, bytes: 4e6 };
const measured = (key: Partial<Key>, seconds: number, peak_mb: number): Result => {
  const size = { batch: 1, tokens: 256, ...key };
  return {
    ...{ ...model, machine: "a machine", side: "lowrank", mode: "float32", phase: "round" as const, round: 1, ...size },
    ...{ command: "node step", commit: "abc", date: "2026-01-02T03:04:05.000Z" },
    ...{
      seconds,
      tokens_per_second: (size.batch * size.tokens) / seconds,
      peak_mb,
      cold_start_seconds: 1,
      wall_seconds: 2,
      cpu_seconds: 1.8 * seconds,
    },
  };
};

test("what is in the file is not measured again, and half a line of a run that was killed is", async () => {
  const file = `${temporaryFolder()}/results.jsonl`;
  const { command, commit, date, ...key } = measured({}, 1, 100);
  let made = 0;
  const once = async (round: number) => {
    const make = async () => {
      made++;
      return { command, commit, date, failed: "for the test" };
    };
    return openResults(file).once({ ...(key as Key), round }, make);
  };
  assert.equal((await once(1)).isNew, true);
  assert.equal((await once(1)).isNew, false);
  appendFileSync(file, `{"model":"toy","rou`);
  assert.equal((await once(2)).isNew, true);
  assert.equal(made, 2);
  assert.deepEqual(
    readResults(file).map((result) => "round" in result && result.round),
    [1, 2],
  );
});

test("the page has medians, the peer's fastest mode, ratios and slopes", () => {
  const lines: Line[] = [
    ...[1.1, 1.0, 9.0].map((seconds, i) => measured({ round: i + 1 }, seconds, 1000)),
    measured({ side: "peft", mode: "float32", phase: "screen" }, 3, 3000),
    measured({ side: "peft", mode: "bfloat16", phase: "screen" }, 2, 2000),
    measured({ side: "peft", mode: "bfloat16" }, 2.2, 2000),
    measured({ tokens: 512 }, 2.1, 1256),
    { machine: "a machine", side: "peft", phase: "install", megabytes: 6000, gpuMegabytes: 5000, packages: { torch: "2" } },
  ];
  const { text, images } = pageOf(lines);
  assert.match(
    text,
    /\| 1 × 256 \| lowrank, float32 \| 1\.10 s \(1\.00–9\.00\) \| 233 \| 1,000 MB \| 1\.00 s \| 1\.8 \| 2\.00× \| 0\.50× \|/,
  );
  assert.match(text, /PEFT, bfloat16 \(fastest\) \| 2\.20 s \\\* \|/);
  assert.match(text, /PEFT, float32 \| 3\.00 s \\\* \|/);
  assert.match(text, /\| toy \| lowrank \| float32 \| 256–512 \| 3\.91 ms \| 0\.0 % \| 1\.00 MB \| 744 MB \|/);
  assert.match(text, /\| PEFT \| 6,000 MB \| 5,000 MB \| torch 2 \|/);
  assert.equal(images.size, 2);
  for (const [name, svg] of images) {
    assert.ok(text.includes(`](${name})`), name);
    assert.match(svg, /^<svg .*<\/svg>\n$/s);
  }
});

test("docs/performance.md and its plots are those of docs/performance.jsonl", () => {
  const { text, images } = pageOf(readResults("docs/performance.jsonl"));
  assert.equal(madePart(readFileSync("docs/performance.md", "utf8")), text);
  for (const [name, svg] of images) assert.equal(readFileSync(`docs/${name}`, "utf8"), svg, name);
});

test("lines through points, sizes", () => {
  const points = (...ys: number[]) => ys.map((y, i) => [i + 1, y] as const);
  const { slope, intercept, deviation } = fitted(points(5, 7, 9))!;
  near([slope, intercept, deviation], [2, 3, 0], 1e-12);
  assert.equal(fitted(points(5)), null);
  assert.deepEqual(sizeOf("4x512"), { batch: 4, tokens: 512 });
  assert.throws(() => sizeOf("4 by 512"), /no size/);
});
