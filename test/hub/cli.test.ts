// The command line with models from a hub: by name, offline, interrupted.
// slow
import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { it } from "node:test";
import { lowrank, type ProcessOptions } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { type Fault, fakeHub } from "./server.ts";

const root = temporaryFolder();

const names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
const files = Object.fromEntries(names.map((name) => [name, readFileSync(`${fixtures}/tiny-llama/${name}`)]));
const start = (fault?: Fault) => fakeHub([{ id: "owner/tiny", commit: "a".repeat(40), files }], fault);

const inCache = (args: string[], environment: Record<string, string>, onError?: ProcessOptions["onError"]) =>
  lowrank(args, { cwd: root, env: { HF_HUB_OFFLINE: "", HF_TOKEN: "", ...environment }, onError });

it("a base by its name: trained on, named in the adapter, then used without the hub", async () => {
  const hub = await start();
  const environment = { HF_HOME: path.join(root, "home"), HF_ENDPOINT: hub.endpoint };
  const data = `${fixtures}/tiny-e2e/train.jsonl`;
  const training = ["train", "--base", "owner/tiny", "--data", data, "--output", "adapter", "--steps", "1", "--threads", "1"];
  const lost = await inCache(training.with(4, "nothing.jsonl"), environment);
  assert.match(lost.stderr, /nothing\.jsonl: no such file/);
  assert.equal(hub.requests.length, 0, "the data are looked for first");
  const trained = await inCache(training, environment);
  assert.equal(trained.status, 0, trained.stderr);
  assert.match(trained.stderr, /downloading owner\/tiny \(aaaaaaaaaaaa\): 5 files, \d+ kB\n/);
  assert.match(trained.stderr, /100%, .*\ndownloaded to .*snapshots/);
  const config = JSON.parse(readFileSync(path.join(root, "adapter/adapter_config.json"), "utf8"));
  assert.equal(config.base_model_name_or_path, "owner/tiny");
  hub.close();

  const prompt = ["generate", "--base", "owner/tiny", "--adapter", "adapter", "--prompt", "name[", "--max-new-tokens", "3"];
  const generated = await inCache([...prompt, "--offline"], environment);
  assert.deepEqual([generated.status, generated.stderr], [0, ""]);
});

it("Ctrl+C ends a download; the same command resumes where it stopped", { skip: process.platform === "win32" }, async () => {
  const weights = files["model.safetensors"]!;
  const hub = await start(({ url }, response, count) => {
    if (!url!.endsWith("/model.safetensors") || count > 1) return false;
    response.writeHead(200, { "content-length": weights.length }).write(weights.subarray(0, 20_000));
    return true;
  });
  const environment = { HF_HOME: path.join(root, "stopped"), HF_ENDPOINT: hub.endpoint };
  const blobs = path.join(root, "stopped/hub/models--owner--tiny/blobs");
  const partial = () => readdirSync(blobs).filter((name) => name.endsWith(".incomplete"));
  let waiting: NodeJS.Timeout | undefined;
  const stopped = await inCache(["download", "owner/tiny"], environment, (text, kill) => {
    if (!text.includes("downloading")) return;
    waiting ??= setInterval(() => {
      if (!partial().some((name) => statSync(path.join(blobs, name)).size === 20_000)) return;
      clearInterval(waiting);
      kill("SIGINT");
    }, 50);
  });
  assert.equal(stopped.status, 130, stopped.stderr);
  assert.match(stopped.stderr, /resumes where it stopped/);
  assert.equal(partial().length, 1);
  const again = await inCache(["download", "owner/tiny", "--json"], environment);
  assert.equal(again.status, 0, again.stderr);
  const events = again.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  assert.deepEqual([events[0].type, events[0].there > 0, events.at(-1).type], ["download", true, "done"]);
  assert.equal(hub.requests.at(-1)!.range, "bytes=20000-");
  hub.close();
});
