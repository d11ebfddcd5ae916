// Runs every *.test.ts below the folders given (default: test) with Node's own runner, and ends with one countable line.
// With --fast, files and tests that are marked as slow are left out (README.md beside this file), and several files share a process;
// with --in-turn, a file runs by itself.
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { pathToFileURL } from "node:url";

function testFiles(place: string): string[] {
  if (statSync(place).isFile()) return [place];
  return readdirSync(place, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".test.ts"))
    .map((name) => path.join(place, name))
    .sort();
}

const isSlow = (file: string): boolean => /^(\/\/.*\n)+\/\/ slow\n/.test(readFileSync(file, "utf8"));

/** Tests that npm test leaves to a command of their own: these need several processes on all cores. */
const APART = path.join("test", "mpi");

/** Starting a process and loading the sources takes a second, more than most fast files take. */
const FILES_A_PROCESS = 12;

/** A test file for each few files, which imports them, in a folder that goes with this process. */
function grouped(files: readonly string[]): string[] {
  const folder = mkdtempSync(path.join(tmpdir(), "lowrank-test-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  return Array.from({ length: Math.ceil(files.length / FILES_A_PROCESS) }, (_, group) => {
    const imports = files
      .slice(group * FILES_A_PROCESS, (group + 1) * FILES_A_PROCESS)
      .map((file) => `import ${JSON.stringify(pathToFileURL(file).href)};\n`);
    const entry = path.join(folder, `group-${group}.test.mjs`);
    writeFileSync(entry, imports.join(""));
    return entry;
  });
}

const places = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
const isFast = process.argv.includes("--fast");
if (isFast) process.env["LOWRANK_TEST_FAST"] = "1"; // for the processes of the files
process.env["LOWRANK_CACHE"] ??= "off"; // tests of the cache have folders of their own
const files = (places.length ? places.flatMap(testFiles) : testFiles("test").filter((file) => !file.startsWith(APART)))
  .filter((file) => !isFast || !isSlow(file))
  .map((file) => path.resolve(file));
const counts = { passed: 0, failed: 0, skipped: 0 };
const stream = run({
  files: isFast ? grouped(files) : files,
  concurrency: process.argv.includes("--in-turn") ? 1 : 2,
  timeout: 600_000,
});
const isFile = (name: string) => /\.test\.(ts|mjs)$/.test(name);
stream.on("test:pass", (event) => {
  if (event.skip !== undefined) counts.skipped++;
  else if (!isFile(event.name) && event.details.type !== "suite") counts.passed++;
});
stream.on("test:fail", (event) => {
  if (event.details.type !== "suite") counts.failed++;
});
stream.compose(new spec()).pipe(process.stdout);
stream.on("end", () =>
  setImmediate(() => {
    process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
    process.on("exit", () => {
      const skipped = counts.skipped ? `, ${counts.skipped} skipped` : "";
      console.log(`${counts.passed} passed, ${counts.failed} failed${skipped}`);
    });
  }),
);
