// lowrank combine, resize and inspect --spectrum, on adapters that PEFT wrote.
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { combineAdapters, inspectAdapter, loadAdapter, resizeAdapter, saveAdapter } from "../../src/index.ts";
import { refused } from "../helpers/assert.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixture = `${fixtures}/algebra/different-ranks`;
const base = `${fixture}/base`;
const [a, b] = [`${fixture}/adapters/a`, `${fixture}/adapters/b`];
const root = temporaryFolder();

test("combine writes an adapter with its checksums, and says what it has", async () => {
  const output = `${root}/both`;
  const { status, stdout, stderr } = await printed("combine", a, b, "--weights", "-0.5,1", "--base", base, "--output", output);
  assert.equal(status, 0, stderr);
  assert.equal(stdout, `combined 2 adapters into ${output}: 4 modules, rank 5, 700 parameters\n`);
  assert.deepEqual(readdirSync(output).sort(), ["SHA256SUMS", "adapter_config.json", "adapter_model.safetensors"]);
  assert.match((await printed("verify", output)).stdout, /^adapter, .*: 2 ok\n$/);
  const { config, modules } = await loadAdapter(output);
  assert.deepEqual([config.rank, config.alpha, modules.length], [5, 5, 4]);
  const cat = ["combine", a, b, "--combination-type", "cat", "--output", `${root}/cat`, "--json"];
  const [done] = jsonLines((await printed(...cat)).stdout);
  assert.deepEqual([done!["type"], done!["modules"], done!["ranks"]], ["done", 4, [7]]);
  assert.deepEqual(
    await loadAdapter(`${root}/cat`),
    await combineAdapters({ adapters: [a, b], combinationType: "cat", output: `${root}/api` }),
  );
});

test("an output that holds anything is left as it is, and a refusal writes nothing", async () => {
  const output = `${root}/full`;
  mkdirSync(output);
  writeFileSync(`${output}/mine`, "mine");
  for (const args of [
    ["combine", a, b],
    ["resize", a, "--rank", "1"],
  ]) {
    const { status, stderr } = await printed(...args, "--output", output, "--json");
    assert.deepEqual([status, jsonLines(stderr)[0]!["error"]], [2, "folder/not-empty"]);
  }
  assert.deepEqual(readdirSync(output), ["mine"]);
  const linear = { adapters: [a, b], combinationType: "linear" as const, output: `${root}/none` };
  await refused(combineAdapters(linear), "combine/ranks");
  await refused(resizeAdapter({ adapter: a, output: `${root}/none` }), "resize/option");
  assert.ok(!readdirSync(root).includes("none"));
});

test("resize prints each module's error, and keeps the base that the adapter was made for", async () => {
  const made = { ...(await loadAdapter(b)), baseFingerprint: "3:0123456789abcdef" };
  await saveAdapter(`${root}/named`, made);
  const { status, stdout, stderr } = await printed("resize", `${root}/named`, "--energy", "0.8", "--output", `${root}/small`);
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^module +rank before +rank +relative error\nmodel\.layers\.0\.self_attn\.q_proj +5 +\d +\d+\.\d %\n/);
  assert.match(stdout, /\nresized into .*: \d+ parameters, relative error \d\d\.\d %\n$/);
  assert.equal((await loadAdapter(`${root}/small`)).baseFingerprint, "3:0123456789abcdef");
  const json = await printed("resize", b, "--rank", "2", "--output", `${root}/two`, "--json");
  const [done] = jsonLines(json.stdout) as { error: number; modules: { rank: number; oldRank: number; error: number }[] }[];
  assert.deepEqual(
    done!.modules.map(({ rank, oldRank }) => [rank, oldRank]),
    Array.from({ length: 4 }, () => [2, 5]),
  );
  assert.ok(done!.error > 0 && done!.modules.every(({ error }) => error > 0 && error < 1));
  const both = await printed("resize", b, "--rank", "2", "--energy", "0.9", "--output", `${root}/both-given`);
  assert.match(both.stderr, /expected: one of the two/);
});

test("inspect --spectrum shows singular values and the ranks at 90 and 99 % of the energy; resize --energy takes those", async () => {
  const { stdout } = await printed("inspect", b, "--spectrum");
  assert.match(
    stdout,
    /module +rank +90 % energy +99 % energy: suggested +singular values\nmodel\.layers\.0\.self_attn\.q_proj +5 +\d +\d +\d/,
  );
  const { modules } = await inspectAdapter(b);
  const resized = await resizeAdapter({ adapter: b, energy: 0.99, output: `${root}/suggested` });
  assert.deepEqual(
    resized.modules.map(({ rank }) => rank),
    modules.map(({ spectrum }) => spectrum!.rank99),
  );
  const [plain] = jsonLines((await printed("inspect", b, "--json")).stdout) as { modules: object[] }[];
  const [full] = jsonLines((await printed("inspect", b, "--spectrum", "--json")).stdout) as {
    modules: { spectrum: { values: number[] } }[];
  }[];
  assert.ok(plain!.modules.every((module) => !("spectrum" in module)));
  assert.deepEqual(
    full!.modules.map(({ spectrum }) => spectrum.values.length),
    [5, 5, 5, 5],
  );
  assert.match(readFileSync(`${root}/suggested/adapter_config.json`, "utf8"), /"rank_pattern": \{/);
});
