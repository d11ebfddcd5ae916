// lowrank merge and lowrank download as processes that are killed: nothing half-done counts. npm run crash does it 200 times each.
// slow
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import path from "node:path";
import { test } from "node:test";
import { programArgs } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { crashDownloads, crashMerges } from "./folders.ts";

const root = temporaryFolder();
const common = { program: programArgs, kills: 1, seed: 2, lifeMs: 1500 };

test("a merge that is killed leaves a model or none, and the next one takes its place", { timeout: 120_000 }, async () => {
  const fixture = `${fixtures}/cases/lora-rslora`;
  const merge = ["--base", `${fixture}/base`, "--adapter", `${fixture}/adapter`];
  const { kills, finished } = await crashMerges({ ...common, merge, folder: path.join(root, "merges") });
  assert.deepEqual([kills.length, finished], [1, 1]);
});

test("a download that is killed is resumed, and counts when it is whole", { timeout: 120_000 }, async () => {
  const files = {
    "config.json": Buffer.from('{"model_type": "llama"}'),
    "tokenizer.json": Buffer.from("{}"),
    "model.safetensors": randomBytes(300_000),
  };
  const { kills, finished } = await crashDownloads({ ...common, files, folder: path.join(root, "downloads") });
  assert.deepEqual([kills.length, finished], [1, 1]);
});
