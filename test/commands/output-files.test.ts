// Files that commands write (vectors, reports, configs, conversations): never over a model, a run or the data, and over others with --force only.
// slow
import assert from "node:assert/strict";
import { cpSync, linkSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { openChat } from "../../src/commands/chat/chat.ts";
import { enter } from "../../src/commands/chat/chat-commands.ts";
import { nodePlatform } from "../../src/node.ts";
import { collect } from "../helpers/assert.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { tinyTask } from "../helpers/tiny-tasks.ts";

/** What a folder holds, links followed. */
const contents = (folder: string) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => {
    const file = path.join(folder, name);
    return [name, statSync(file).isFile() ? readFileSync(file, "latin1") : ""];
  });

/** A copy of the tiny checkpoint. */
function tinyBase(folder: string): string {
  cpSync(`${fixtures}/tiny-llama`, `${folder}/base`, { recursive: true });
  return `${folder}/base`;
}

/** Runs a command that must be refused with this error and leave `folder` as it was. */
async function refused(code: string, folder: string, ...args: string[]): Promise<void> {
  const before = contents(folder);
  const { status, stderr } = await printed(...args, "--json");
  assert.equal(status, 2, `${args.join(" ")}: ${stderr}`);
  const error = jsonLines(stderr)[0]!;
  assert.equal(error["error"], code, args.join(" "));
  assert.ok(error["subject"] && error["next"]);
  assert.deepEqual(contents(folder), before);
}

test("embed writes over no file without --force, and into no folder of a model, however it is named", async (t) => {
  const { folder, base, adapter } = await tinyTask(t, "clip");
  symlinkSync(base, `${folder}/link`);
  const stored = `${folder}/store.safetensors`;
  linkSync(`${base}/model.safetensors`, stored); // as the hub's cache: what the base has lies elsewhere
  rmSync(`${base}/model.safetensors`);
  symlinkSync(stored, `${base}/model.safetensors`);
  const command = ["embed", "--base", base, "--adapter", adapter, "--text", "a cat", "--output"];
  for (const output of [
    `${base}/model.safetensors`,
    `${base}/new.safetensors`,
    `${folder}/link/sub/../new.safetensors`,
    stored,
  ]) {
    await refused("file/input", folder, ...command, output, "--force");
  }
  await refused("file/input", adapter, ...command, `${adapter}/vectors.safetensors`);
  const own = `${folder}/vectors.safetensors`;
  writeFileSync(own, "mine");
  await refused("file/exists", folder, ...command, own);
  const forced = await printed(...command, own, "--force");
  assert.equal(forced.status, 0, forced.stderr);
  assert.match(readFileSync(own, "latin1"), /embeddings/);
});

test("report replaces reports, and another file with --force only; in a run's folder it writes pages only", async (t) => {
  const folder = temporaryFolder(t);
  const run = `${folder}/run`;
  mkdirSync(`${run}/checkpoint-1`, { recursive: true });
  const time = "2030-01-01T00:00:00Z";
  writeFileSync(`${run}/metrics.jsonl`, `${JSON.stringify({ type: "start", time, step: 0, steps: 4 })}\n`);
  for (const output of [`${run}/metrics.jsonl`, `${run}/checkpoint-1/adapter_model.safetensors`, `${run}/notes.txt`])
    await refused("file/input", folder, "report", run, "--output", output, "--force");
  writeFileSync(`${run}/report.html`, "<!doctype html><title>mine</title>");
  await refused("file/exists", folder, "report", run);
  writeFileSync(`${folder}/notes.txt`, "mine");
  await refused("file/exists", folder, "report", run, "--output", `${folder}/notes.txt`);
  for (const more of [["--force"], [], ["--output", `${run}/report.html`], ["--output", `${run}/second.html`]]) {
    const { status, stderr } = await printed("report", run, ...more);
    assert.equal(status, 0, stderr);
  }
  assert.match(readFileSync(`${run}/report.html`, "utf8"), /· lowrank<\/title>/);
});

test("init writes over neither the data nor the base", async (t) => {
  const folder = temporaryFolder(t);
  const data = `${folder}/data.jsonl`;
  writeFileSync(data, `${JSON.stringify({ prompt: "a", completion: "b" })}\n`.repeat(20));
  const base = tinyBase(folder);
  const init = ["init", "--base", base, "--data", data, "--goal", "style", "--force", "--file"];
  await refused("file/input", folder, ...init, data);
  await refused("file/input", folder, ...init, `${base}/lowrank.yaml`);
});

test("chat saves into no folder of a model", async (t) => {
  const base = tinyBase(temporaryFolder(t));
  const chat = await openChat({ base, threads: 1, maxNewTokens: 2, temperature: 0 }, nodePlatform);
  await collect(enter(chat, "a"));
  await assert.rejects(collect(enter(chat, `/save ${base}/talk.jsonl`)), { code: "file/input" });
  await chat.generator.close();
});
