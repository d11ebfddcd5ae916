// npm run check:streaming -- [--gigabytes 2]: makes a file of that size, trains a tiny model on it for a step, and compares the memory with the file.
import { spawn } from "node:child_process";
import { createWriteStream, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { finished } from "node:stream/promises";
import { parseArgs } from "node:util";
import { bytes } from "../src/units.ts";

const { values } = parseArgs({ options: { gigabytes: { type: "string", default: "2" } } });
const size = Number(values.gigabytes) * 1e9;
const folder = mkdtempSync(path.join(tmpdir(), "lowrank-streaming-"));
const data = path.join(folder, "train.jsonl");

/** The rows of the fixture again and again, each with a number, so that no two are equal. */
async function writeData(): Promise<void> {
  const fixture = readFileSync(new URL("../test/fixtures/tiny-e2e/train.jsonl", import.meta.url), "utf8");
  const rows: { prompt: string; completion: string }[] = fixture
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const out = createWriteStream(data);
  for (let written = 0, n = 0; written < size; ) {
    let block = "";
    for (const { prompt, completion } of rows) block += `${JSON.stringify({ prompt: `${n++} ${prompt}`, completion })}\n`;
    written += block.length;
    if (!out.write(block)) await new Promise((resolve) => out.once("drain", () => resolve(undefined)));
  }
  await finished(out.end());
}

/** Runs `lowrank train`; resolves to its peak resident memory, in bytes, by what it reports and by Linux. */
function train(): Promise<number> {
  const main = new URL("../dist/cli/main.js", import.meta.url).pathname;
  const base = new URL("../test/fixtures/tiny-llama", import.meta.url).pathname;
  const flags = ["--base", base, "--data", data, "--eval-split", "0.001", "--steps", "1", "--output", path.join(folder, "out")];
  const child = spawn(process.execPath, [main, "train", ...flags], { stdio: ["ignore", "inherit", "inherit"] });
  let peak = 0;
  const watch = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      peak = Math.max(peak, 1024 * Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? 0));
    } catch {
      // It has ended.
    }
  }, 100);
  return new Promise((resolve, reject) => {
    child.on("exit", (code) => {
      clearInterval(watch);
      if (code === 0) resolve(peak);
      else reject(new Error(`lowrank train ended with ${code}`));
    });
  });
}

try {
  console.log(`writing ${bytes(size)} to ${data}`);
  await writeData();
  const began = performance.now();
  const peak = await train();
  const file = statSync(data).size;
  const seconds = (performance.now() - began) / 1000;
  console.log(
    `${bytes(file)} in ${seconds.toFixed(0)} s, ${bytes(file / seconds)}/s; peak memory ${bytes(peak)}, ${(peak / file).toFixed(2)} of the file`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
