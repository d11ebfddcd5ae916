// Runs every *.test.ts below the folders given (default: test) with Node's own runner, two processes at a time, and ends with one
// countable line. README.md beside this file describes the options.
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { compiled } from "../scripts/compile.mjs";

/** Seconds that each file takes by itself, the longest first; `npm test -- --durations` writes it. */
const DURATIONS = "test/durations.txt";
/** Duration in seconds of a file that is not listed. */
const UNKNOWN_S = 1;
/** Files of this many seconds in all share a process: starting one and loading the sources takes as long as most files. */
const PROCESS_S = 30;
const PROCESS_LIMIT_MS = 600_000;
/** Tests of several processes on all cores, which `npm run test:mpi` runs. */
const APART = path.join("test", "mpi");

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    fast: { type: "boolean", default: false },
    name: { type: "string" },
    "in-turn": { type: "boolean", default: false },
    durations: { type: "boolean", default: false },
  },
});

function testFiles(place: string): string[] {
  if (statSync(place).isFile()) return [path.normalize(place)];
  return readdirSync(place, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".test.ts"))
    .map((name) => path.join(place, name))
    .sort();
}

const isSlow = (file: string): boolean => /^(\/\/.*\n)+\/\/ slow\n/.test(readFileSync(file, "utf8"));

function readDurations(): Map<string, number> {
  const lines = readFileSync(DURATIONS, "utf8").trim().split("\n");
  return new Map(
    lines.map((line) => {
      const [seconds, file] = line.split(" ");
      return [path.normalize(file!), Number(seconds)];
    }),
  );
}

/** Files in the order in which they are started, those that share a process together. */
function grouped(files: readonly string[]): string[][] {
  const durations = readDurations();
  const secondsOf = (file: string) => durations.get(file) ?? UNKNOWN_S;
  const groups: string[][] = [];
  let room = 0;
  for (const file of [...files].sort((a, b) => secondsOf(b) - secondsOf(a))) {
    if (secondsOf(file) > room) {
      groups.push([]);
      room = PROCESS_S;
    }
    groups.at(-1)!.push(file);
    room -= secondsOf(file);
  }
  return groups;
}

const folder = mkdtempSync(path.join(tmpdir(), "lowrank-test-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
let entries = 0;

/** The module that runs these files: the file itself, or one that imports them. */
function entryOf(files: readonly string[]): string {
  if (files.length === 1) return compiled(files[0]!);
  const entry = path.join(folder, `group-${entries++}.test.mjs`);
  writeFileSync(entry, files.map((file) => `import ${JSON.stringify(pathToFileURL(compiled(file)).href)};\n`).join(""));
  return entry;
}

const counts = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];
const seconds = new Map<string, number>();

/** Runs some files in one process, and prints its report when it has ended. */
async function runProcess(files: readonly string[]): Promise<void> {
  const began = performance.now();
  const entry = entryOf(files);
  const stream = run({ files: [entry], timeout: PROCESS_LIMIT_MS, ...(values.name && { testNamePatterns: values.name }) });
  const isFile = (name: string) => name === entry;
  stream.on("test:pass", (event) => {
    if (event.skip !== undefined) counts.skipped++;
    else if (!isFile(event.name) && event.details.type !== "suite") counts.passed++;
  });
  stream.on("test:fail", (event) => {
    if (event.details.type === "suite") return;
    counts.failed++;
    failures.push(`${isFile(event.name) ? "" : `${event.name}, in `}${files.join(", ")}`);
  });
  const report = stream.compose(new spec());
  let text = "";
  for await (const part of report) text += part;
  seconds.set(files.join(" "), (performance.now() - began) / 1000);
  process.stdout.write(text);
}

if (values.fast) process.env["LOWRANK_TEST_FAST"] = "1"; // for the processes of the files
process.env["LOWRANK_THREADS"] ??= "1"; // two processes at a time, and small models
process.env["LOWRANK_CACHE"] ??= "off"; // tests of the cache have folders of their own
const found = positionals.length ? positionals.flatMap(testFiles) : testFiles("test").filter((file) => !file.startsWith(APART));
const files = found.filter((file) => !values.fast || !isSlow(file));
const queue = values.durations ? files.map((file) => [file]) : grouped(files);
async function lane(): Promise<void> {
  for (let next = queue.shift(); next; next = queue.shift()) await runProcess(next);
}
await Promise.all(Array.from({ length: values["in-turn"] ? 1 : 2 }, lane));

if (values.durations) {
  const lines = [...seconds].sort(([, a], [, b]) => b - a).map(([file, s]) => `${s.toFixed(1)} ${file.replaceAll("\\", "/")}\n`);
  writeFileSync(DURATIONS, lines.join(""));
}
if (failures.length > 0) console.log(`failed:\n${failures.map((name) => `  ${name}\n`).join("")}`);
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
console.log(`${counts.passed} passed, ${counts.failed} failed${counts.skipped ? `, ${counts.skipped} skipped` : ""}`);
