// lowrank cache: what is kept of converted bases, and its removal.
// slow
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { initModel } from "../../src/index.ts";
import { partCache } from "../../src/platform/node/part-cache.ts";
import { cacheEntries } from "../../src/runtime/part-cache.ts";
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

test("reports what is converted, and what stops it leaves nothing", async () => {
  const [base, root] = [`${folder}/stopped`, `${folder}/cache-of-stopped`];
  const cache = { ...partCache(), folder: root };
  await initModel(largeConfig, base);
  const stop = new Error("stopped here");
  const stopping = twoSteps(base, {
    baseDtype: "int8",
    cache,
    onConverted: ({ done, total }) => {
      if (done > total / 2) throw stop;
    },
  });
  await assert.rejects(stopping, stop);
  assert.deepEqual(await cacheEntries(cache), []);
  assert.deepEqual(readdirSync(root), []);
  const reported: { done: number; total: number }[] = [];
  await twoSteps(base, { baseDtype: "int8", cache, onConverted: (progress) => reported.push(progress) });
  const [entry] = await cacheEntries(cache);
  assert.ok(reported.every(({ done, total }, i) => total === entry!.bytes && done > (reported[i - 1]?.done ?? 0)));
  // The file begins with a header.
  assert.ok(reported.at(-1)!.done <= entry!.bytes && reported.at(-1)!.done > 0.99 * entry!.bytes);
});

test("says when the cache is off", async () => {
  process.env["LOWRANK_CACHE"] = "off";
  assert.match((await printed("cache")).stderr, /switched off/);
});
