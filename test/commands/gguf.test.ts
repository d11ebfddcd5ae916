// A GGUF file as a base: it trains, evaluates, generates and merges as a folder with the same weights in float32 does.
// slow
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { before, describe, it } from "node:test";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { copySideFiles } from "../../src/formats/side-files.ts";
import { readRows } from "../../src/formats/stored.ts";
import {
  evaluate,
  finetune,
  generateText,
  inspectBase,
  loadBase,
  mergeAdapter,
  openGenerator,
  plan,
  preview,
  verify,
} from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { collect, near, refused } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const gguf = "test/fixtures/gguf/tiny-llama.gguf";
const data = { train: "test/fixtures/tiny-e2e/train.jsonl", eval: "test/fixtures/tiny-e2e/eval.jsonl" };
const root = temporaryFolder();
const [folder, adapter] = [path.join(root, "float32"), path.join(root, "run")];
const threads = 1;

const lossOf = async (base: string, options = {}) => {
  const result = await evaluate({ base, data: data.eval, threads, ...options });
  return result as unknown as Record<string, { loss: number }>;
};

/** A folder with the same weights, in float32. */
async function unpack(): Promise<void> {
  const { tensors } = await openCheckpoint(nodeFiles, gguf);
  await nodeFiles.makeFolder(folder);
  await copySideFiles(withGguf(nodeFiles), gguf, folder);
  const sources = [...tensors].map(([name, tensor]) => {
    const data = async () => bytesOf(await readRows(nodeFiles, tensor));
    return { name, dtype: "float32" as const, shape: tensor.shape, data };
  });
  await writeSafetensors(nodeFiles, `${folder}/model.safetensors`, sources);
}

describe("a GGUF file as a base", () => {
  before(async () => {
    await unpack();
    for await (const _ of finetune({
      base: gguf,
      data: data.train,
      output: adapter,
      steps: 4,
      rank: 4,
      learningRate: 5e-3,
      threads,
    }));
  });

  it("has the losses of its weights in float32, alone and with the adapter that was trained on it", async () => {
    const [ours, theirs] = [await lossOf(gguf, { adapter }), await lossOf(folder, { adapter, anyBase: true })];
    near(ours["base"]!.loss, theirs["base"]!.loss, 1e-6);
    near(ours["adapter"]!.loss, theirs["adapter"]!.loss, 1e-6);
    assert.ok(ours["adapter"]!.loss < ours["base"]!.loss);
  });

  it("continues a prompt as its weights in float32 do", async () => {
    const texts: string[] = [];
    for (const base of [gguf, folder]) {
      const generator = await openGenerator(base, { threads });
      texts.push(await generateText(generator, "name[The Eagle], food[", { maxNewTokens: 20 }));
      await generator.close();
    }
    assert.equal(texts[0], texts[1]);
  });

  it("is named by its path in the adapter, whose modules have Transformers' names", () => {
    const config = JSON.parse(readFileSync(`${adapter}/adapter_config.json`, "utf8"));
    assert.equal(config.base_model_name_or_path, gguf);
    assert.ok(readFileSync(`${adapter}/adapter_model.safetensors`).includes("model.layers.0.self_attn.q_proj.lora_A.weight"));
  });

  it("is merged into a folder: blocks become bfloat16, the vocabulary tokenizer.json", async () => {
    const output = path.join(root, "merged");
    await mergeAdapter({ base: gguf, adapter, output });
    const { tensors, config } = await openCheckpoint(nodeFiles, output);
    assert.equal(tensors.get("model.layers.0.mlp.up_proj.weight")!.dtype, "bfloat16");
    assert.equal(tensors.get("model.norm.weight")!.dtype, "float32");
    assert.equal(config["torch_dtype"], "bfloat16");
    near((await lossOf(output))["base"]!.loss, (await lossOf(gguf, { adapter }))["adapter"]!.loss, 5e-3);
  });

  it("is trained in full into a folder", async () => {
    const losses: number[] = [];
    for (const base of [gguf, folder]) {
      const output = path.join(root, `full-${losses.length}`);
      const options = { method: "full" as const, steps: 2, learningRate: 1e-4, threads };
      for await (const _ of finetune({ base, data: data.train, output, ...options }));
      losses.push((await lossOf(output))["base"]!.loss);
    }
    const { tensors } = await openCheckpoint(nodeFiles, path.join(root, "full-0"));
    assert.deepEqual([...new Set([...tensors.values()].map(({ dtype }) => dtype))], ["float32", "bfloat16"]);
    near(losses[0]!, losses[1]!, 5e-3);
  });

  it("is inspected, planned, previewed and verified", async () => {
    const { weights } = await inspectBase(gguf);
    assert.deepEqual([weights!.tensors, weights!.dtypes], [20, ["float32", "q8_0"]]);
    assert.deepEqual((await plan(gguf)).modules, (await plan(folder)).modules);
    const [ours, theirs] = [await preview({ base: gguf, data: data.train }), await preview({ base: folder, data: data.train })];
    assert.deepEqual(JSON.stringify(ours).replaceAll(gguf, ""), JSON.stringify(theirs).replaceAll(folder, ""));
    const events = await collect(verify(gguf));
    assert.deepEqual(events.at(-1), {
      type: "done",
      folder: gguf,
      kind: "GGUF file",
      bytes: 127_840,
      ok: 1,
      damaged: 0,
      missing: 0,
      unlisted: 0,
    });
  });

  it("is found in a folder that holds it alone, and asked for where there are several", async () => {
    const alone = path.join(root, "alone");
    await nodeFiles.makeFolder(alone);
    copyFileSync(gguf, `${alone}/model-Q8_0.gguf`);
    writeFileSync(`${alone}/README.md`, "");
    assert.equal((await loadBase(alone)).checkpoint.folder, `${alone}/model-Q8_0.gguf`);
    copyFileSync(gguf, `${alone}/model-Q4_0.gguf`);
    await refused(loadBase(alone), "gguf/several", { next: `Give the file: ${alone}/model-Q4_0.gguf` });
    assert.equal((await loadBase(`${alone}/model-Q4_0.gguf`)).config.vocabSize, 512);
  });
});
