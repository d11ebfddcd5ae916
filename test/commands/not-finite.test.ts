// What a model computes that is no number: the command that prints it fails.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { tinyTask } from "../helpers/tiny-tasks.ts";

type Adapter = Awaited<ReturnType<typeof readAdapter>>;

/** The adapter with finite numbers whose products are not. */
async function overflowing(adapter: Adapter, folder: string): Promise<string> {
  for (const tensors of adapter.tensors.values()) for (const values of Object.values(tensors)) values.fill(1e30);
  await writeAdapter(nodeFiles, folder, adapter);
  return folder;
}

test("eval prints a loss that is not finite, and then fails", async () => {
  const base = `${fixtures}/tiny-llama`;
  const { modules, config } = await loadBase(nodeFiles, base);
  const lora = loraConfig({ rank: 2, targetModules: ["q_proj", "down_proj"] });
  const matched = matchModules(modules, lora, config.modelType);
  const adapter = { config: lora, modules: matched, tensors: initAdapter(matched, lora, 0) };
  const folder = await overflowing(adapter, temporaryFolder());
  const command = ["eval", "--base", base, "--data", `${fixtures}/tiny-e2e/eval.jsonl`];
  const { status, stdout, stderr } = await printed(...command, "--adapter", folder, "--generate");
  assert.equal(status, 1, stderr);
  assert.match(stdout, /^with the adapter +(NaN|Infinity)/m);
  assert.doesNotMatch(stdout, /exact answers/);
  assert.match(stderr, /the model's loss is not finite/);
  const asJson = await printed(...command, "--adapter", folder, "--json");
  assert.equal(asJson.status, 1);
  assert.equal((jsonLines(asJson.stdout)[0]!["adapter"] as { loss: unknown }).loss, null);
  assert.equal(jsonLines(asJson.stderr)[0]!["error"], "predict/not-finite");
});

test("embed writes no vectors that are not finite", async (t) => {
  const { base, adapter, folder } = await tinyTask(t, "clip");
  const broken = await overflowing(await readAdapter(nodeFiles, adapter), `${folder}/broken`);
  const { status, stdout, stderr } = await printed("embed", "--base", base, "--adapter", broken, "--text", "a cat");
  assert.equal(status, 1, stderr);
  assert.equal(stdout, "");
  assert.match(stderr, /texts, row 1: the model's vectors are not finite/);
});
