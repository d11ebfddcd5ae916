// Adapters on embeddings and output layers: in generation, in training and in files; merged only where nothing else reads the weight.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { initAdapter } from "../../src/adapters/init.ts";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { readHeader } from "../../src/formats/safetensors.ts";
import { openDecoder } from "../../src/generate/decoder.ts";
import { finetune } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { caseFolder, distanceTo, goldenRows } from "../helpers/golden-rows.ts";
import { repository } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";

const TOLERANCE = 3e-5;
const place = await mkdtemp(path.join(tmpdir(), "lowrank-embedding-"));
after(() => rm(place, { recursive: true }));
const at = (name: string) => `${repository}${name}`;

test("adapters on the embedding and the output layer decode as PEFT's, and are swapped with others", async () => {
  for (const name of ["lora-embed", "lora-tied-embed"]) {
    const { base, adapter, rows } = await goldenRows(name);
    const only = adapter.modules.filter(({ isEmbedding }) => !isEmbedding);
    let opened = 0;
    const decoder = await openDecoder({
      ...base,
      openSession: (...given) => {
        opened++;
        return openNodeSession(...given);
      },
      threads: 1,
    });
    assert.ok((await distanceTo(decoder, rows, "base")) < TOLERANCE);
    for (const round of [1, 2]) {
      await decoder.useAdapter(adapter);
      assert.ok((await distanceTo(decoder, rows, "adapter")) < TOLERANCE, `${name}, round ${round}`);
      await decoder.useAdapter({ ...adapter, modules: only });
      assert.ok((await distanceTo(decoder, rows, "adapter")) > 100 * TOLERANCE, "the embedding's part is gone");
      await decoder.useAdapter(null);
      assert.ok((await distanceTo(decoder, rows, "base")) < TOLERANCE);
    }
    assert.equal(opened, 2, "once more, when the first adapter on an embedding came");
    await decoder.close();
  }
});

test("an embedding's first values are PEFT's: A zero, B normal", () => {
  const module = { path: "e", isEmbedding: true, rank: 8, alpha: 8, scale: 1, inFeatures: 500, outFeatures: 400 } as const;
  for (const initLoraWeights of [true, "gaussian", false] as const) {
    const { loraA, loraB } = initAdapter([module], { initLoraWeights }, 1).get("e")!;
    const deviation = (values: Float32Array) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    assert.ok(Math.abs(deviation(loraB) - 1) < 0.05);
    assert.ok(Math.abs(deviation(loraA) - (initLoraWeights === false ? 1 : 0)) < 0.05);
  }
});

test(
  "trained beside linear layers, with the frozen weights in the file where PEFT writes them; merging names the tied weight",
  slow,
  async () => {
    const base = at("models/embedded");
    const data = at("test/fixtures/tiny-e2e/train.jsonl");
    const output = `${place}/tied`;
    const options = {
      base,
      data,
      output,
      targetModules: ["embed_tokens", "q_proj"],
      rank: 4,
      steps: 2,
      batchSize: 2,
      threads: 1,
    };
    for await (const _ of finetune(options));
    const { tensors } = await readHeader(nodeFiles, `${output}/adapter_model.safetensors`);
    assert.ok(tensors.has("base_model.model.model.embed_tokens.base_layer.weight"));
    assert.ok(tensors.has("base_model.model.model.embed_tokens.lora_embedding_A"));
    const { frozen, tensors: trained } = await readAdapter(nodeFiles, output);
    assert.deepEqual([...frozen!.keys()], ["model.embed_tokens.weight"]);
    assert.ok(trained.get("model.embed_tokens")!.loraA.some((value) => value !== 0));
    const more = { base, data, adapter: output, output: `${place}/more`, steps: 1, batchSize: 2, threads: 1 };
    for await (const _ of finetune(more));
    assert.deepEqual((await readAdapter(nodeFiles, more.output)).frozen, frozen);
    await assert.rejects(mergeAdapter(nodeFiles, { base, adapter: output, output: `${place}/merged` }), { code: "merge/tied" });
    const untied = caseFolder("lora-embed");
    await mergeAdapter(nodeFiles, { base: `${untied}/base`, adapter: `${untied}/adapter`, output: `${place}/merged` });
  },
);
