// Where the output cannot be written: training stops as it does when its reader goes away, other commands fail, and nothing is lost in silence.
// slow
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, openSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { LOCK_NAME } from "../../src/files.ts";
import { jsonLines, programArgs } from "../helpers/program.ts";
import { fixtures, repository } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
const base = `${fixtures}/tiny-llama`;
const skip = !existsSync("/dev/full") && "there is no device that is always full";

type Target = number | "pipe";

/** Runs a command with these for its output; a pipe is read. `shell`: a line of sh that runs it, as "$@". */
function run(args: readonly string[], stdout: Target, stderr: Target, shell = '"$@"') {
  return new Promise<{ status: number | null; stderr: string }>((resolve, reject) => {
    const all = ["-c", shell, "sh", process.execPath, ...programArgs, ...args];
    const child = spawn("/bin/sh", all, { cwd: repository, stdio: ["ignore", stdout, stderr] });
    let text = "";
    child.stderr?.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    child.on("error", reject);
    child.on("close", (status) => resolve({ status, stderr: text }));
  });
}

/** Fails unless a command ended with status 1 and this one error, without a stack. */
function assertOneError({ status, stderr }: { status: number | null; stderr: string }, reason: RegExp): void {
  assert.equal(status, 1, stderr);
  assert.equal(stderr.match(/the output could not be written/g)?.length, 1, stderr);
  assert.match(stderr, reason);
  assert.doesNotMatch(stderr, /^ +at |internal/m);
}

const full = () => openSync("/dev/full", "w");

test("where the output of train goes to a full disk, the step is finished and saved, and it ends with one error", {
  skip,
}, async () => {
  const options = ["--data", `${fixtures}/tiny-e2e/train.jsonl`, "--steps", "5000", "--batch-size", "1", "--threads", "1"];
  const output = path.join(root, "results");
  const ended = await run(["train", "--base", base, "--output", output, ...options, "--json"], full(), "pipe");
  assertOneError(ended, /no space left on device/);
  assert.match(ended.stderr, /Resume with: .*--resume/);
  const last = jsonLines(readFileSync(`${output}/metrics.jsonl`, "utf8")).at(-1)!;
  assert.deepEqual([last["type"], last["stopped"]], ["done", true]);
  assert.ok(existsSync(`${output}/checkpoint-${last["step"]}`));
  assert.ok(!existsSync(`${output}/${LOCK_NAME}`));
});

test("a short command ends with status 1 and one error", { skip }, async () => {
  assertOneError(await run(["inspect", base], full(), "pipe"), /no space left on device/);
});

test("a file that has room for a part of the output only is a failure too", { skip: process.platform === "win32" }, async () => {
  const file = path.join(root, "part.json");
  const ended = await run(["inspect", base, "--json"], openSync(file, "w"), "pipe", 'ulimit -f 1; "$@"');
  assertOneError(ended, /file too large/);
  assert.ok(statSync(file).size > 0);
});
