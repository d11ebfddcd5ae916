// lowrank cache: what is kept of converted bases, and its removal.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { initModel } from "../../src/index.ts";
import { partCache } from "../../src/platform/node/part-cache.ts";
import { largeConfig, twoSteps } from "../helpers/large-decoder.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const folder = temporaryFolder();
process.env["LOWRANK_CACHE"] = folder;

test("lists entries with base, weights and size, and removes them", async () => {
  assert.match((await printed("cache")).stderr, /Nothing is cached in /);
  const base = `${folder}/base`;
  await initModel(largeConfig, base);
  await twoSteps(base, { baseDtype: "int8", memory: "stream", cache: partCache() });
  const { stdout, status } = await printed("cache");
  assert.equal(status, 0);
  assert.match(stdout, /base +weights +size +made +state +folder/);
  assert.match(stdout, /base +\d+ int8 +\d+\.?\d* MB +20.* usable /);
  const [listed] = jsonLines<{ entries: { folder: string; isCurrent: boolean }[] }>((await printed("cache", "--json")).stdout);
  assert.equal(listed!.entries.length, 1);
  const entry = listed!.entries[0]!.folder;
  assert.match((await printed("verify", entry)).stdout, /: 1 ok/);
  const cleared = await printed("cache", "--clear");
  assert.match(cleared.stderr, /^Removed \d+\.?\d* MB from /);
  assert.ok(!existsSync(entry) && existsSync(`${base}/config.json`));
});

test("says when the cache is off", async () => {
  process.env["LOWRANK_CACHE"] = "off";
  assert.match((await printed("cache")).stderr, /switched off/);
});
