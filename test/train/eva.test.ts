// EVA against PEFT's initialize_lora_eva_weights on a tiny Llama (test/fixtures/eva/generate.py), and in a run.
// slow
import assert from "node:assert/strict";
import { readFile, rm } from "node:fs/promises";
import { test } from "node:test";
import { batchOf, readTensors } from "../../scripts/oracle/golden.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { firstTensors } from "../../src/adapters/init.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { finetune } from "../../src/index.ts";
import { openBase } from "../../src/models/base.ts";
import type { DecoderModel } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { evaAdapter } from "../../src/train/eva.ts";
import type { FinetuneOptions } from "../../src/train/options.ts";
import { collect, near, only } from "../helpers/assert.ts";
import { caseFolder } from "../helpers/golden-rows.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixture = (name: string) => `${fixtures}/${name}`;

/** Whether the first is a query's or a value's of the layer of the second. */
const sameLayer = (a: string, b: string): boolean => /[qv]_proj$/.test(a) && a.split(".")[2] === b.split(".")[2];

for (const name of ["default", "even", "whiten"]) {
  for (const stages of [false, true]) {
    test(`${name}${stages ? ", streamed" : ""}: PEFT's ranks, and its directions`, async () => {
      const theirs = await readAdapter(nodeFiles, fixture(`eva/${name}`));
      const base = await openBase(nodeFiles, `${caseFolder("lora-init-pissa")}/base`);
      const model = base.config as DecoderModel;
      const { evaConfig, useRslora } = theirs.config;
      const targetModules = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"];
      const config = loraConfig({
        rank: 4,
        alpha: 8,
        targetModules,
        initLoraWeights: "eva",
        evaConfig,
        useRslora,
        taskType: "CAUSAL_LM",
      });
      const modules = matchModules(base.modules, config, model.modelType);
      const drawn = { config, modules, tensors: await firstTensors(base, config, modules, 0) };
      const io = await readTensors(fixture("eva/batches.safetensors"));
      const batches = [0, 1, 2].map((i) => batchOf(io, `micro${i}.`, model));
      const loss = lossGraph(model, { maxTargets: 64, maxLength: 64 });
      const engine = { openSession: openNodeSession, threads: 1, stages };
      const ours = await evaAdapter(drawn, base, loss, async (step) => batches[step % 3]!, engine);

      const sorted = (patterns: Record<string, number>) => Object.entries(patterns).sort();
      assert.deepEqual(sorted(ours.config.rankPattern), sorted(theirs.config.rankPattern));
      assert.deepEqual(sorted(ours.config.alphaPattern), sorted(theirs.config.alphaPattern));
      assert.deepEqual(ours.config.evaConfig, evaConfig);
      for (const { path, rank, scale, inFeatures } of ours.modules) {
        assert.equal(scale, theirs.modules.find((module) => module.path === path)!.scale);
        const [a, b] = [ours, theirs].map(({ tensors }) => tensors.get(path)!.loraA) as [Float32Array, Float32Array];
        assert.ok(ours.tensors.get(path)!.loraB.every((value) => value === 0));
        for (let r = 0; r < rank; r++) {
          const [row, want] = [a, b].map((values) => values.subarray(r * inFeatures, (r + 1) * inFeatures)) as [
            Float32Array,
            Float32Array,
          ];
          const [length, theirLength] = [Math.hypot(...row), Math.hypot(...want)];
          const cosine = row.reduce((sum, value, i) => sum + value * want[i]!, 0) / (length * theirLength);
          assert.ok(cosine > 0.99, `${path}, direction ${r}: ${cosine}`);
          // PEFT divides by the root in place: once for each of the modules that read the same input.
          const others = ours.modules.filter(
            (module) => /[qv]_proj$/.test(path) && sameLayer(module.path, path) && module.rank > r,
          );
          const times = name === "whiten" ? Math.max(1, others.length) : 1;
          near(length ** times, theirLength, { rtol: 1e-2 }, `${path}, length ${r}`);
        }
      }
    });
  }
}

test("the configuration that is written is PEFT's, but for the way that whole numbers are written", async (t) => {
  const folder = temporaryFolder(t);
  const adapter = await readAdapter(nodeFiles, fixture("eva/default"));
  await writeAdapter(nodeFiles, folder, adapter);
  const [ours, theirs] = await Promise.all(
    [folder, fixture("eva/default")].map(async (place) => JSON.parse(await readFile(`${place}/adapter_config.json`, "utf8"))),
  );
  theirs.target_modules.sort();
  assert.deepEqual(ours, theirs);
  assert.match(await readFile(`${folder}/adapter_config.json`, "utf8"), /"rho": 2\.0,\n {4}"tau": 0\.99/);
});

test("a run begins with its own data's directions and ranks, and resumes to the bit", async (t) => {
  const output = `${temporaryFolder(t)}/out`;
  const options = { base: fixture("tiny-llama"), data: fixture("tiny-e2e/train.jsonl"), output, init: "eva", rank: 4, steps: 4 };
  const run = { ...options, batchSize: 4, maxLength: 64, learningRate: 3e-3, checkpointEvery: 2, keepCheckpoints: 9 };
  const events = await collect(finetune(run as FinetuneOptions));
  const { config, modules, tensors } = await readAdapter(nodeFiles, output);
  assert.equal(config.initLoraWeights, "eva");
  const ranks = modules.map(({ rank }) => rank);
  assert.ok(Math.max(...ranks) > 4 && Math.max(...ranks) <= 8, String(ranks));
  assert.equal(
    only(events, "prepared")[0]!.trainable,
    [...tensors.values()].reduce((sum, { loraA, loraB }) => sum + loraA.length + loraB.length, 0),
  );
  const bytes = await readFile(`${output}/adapter_model.safetensors`);
  for (const name of ["checkpoint-4", "adapter_model.safetensors", "SHA256SUMS"])
    await rm(`${output}/${name}`, { recursive: true });
  await collect(finetune({ output, resume: true } as FinetuneOptions));
  assert.deepEqual(await readFile(`${output}/adapter_model.safetensors`), bytes);
});
