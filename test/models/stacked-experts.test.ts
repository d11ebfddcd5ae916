// Mixtures of experts as Transformers 5 holds them in memory and writes with save_original_format=False: the experts of a layer in
// two tensors. They give what a tensor for each expert gives, to the bit, and an adapter is merged into them as they are.
// slow
import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { test } from "node:test";
import { batchOf, readTensors } from "../../scripts/oracle/golden.ts";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { whole } from "../../src/graph/stages.ts";
import { loadBase } from "../../src/models/base.ts";
import { forwardGraph } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { lower } from "../../src/onnx/lower.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { fixtures } from "../helpers/repository.ts";
import { stacked, type Tensors, write } from "../helpers/stacked-experts.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
/** Names of an expert's gate, up and down. */
const families = { "mixtral-attention": ["w1", "w3", "w2"], "qwen2moe-shared": ["gate_proj", "up_proj", "down_proj"] };

async function logits(folder: string, io: Tensors): Promise<Float32Array> {
  const { checkpoint, config } = await loadBase(nodeFiles, folder);
  const files = weightFiles(checkpoint);
  const session = await openNodeSession(whole(forwardGraph(config)), { weights: files });
  const { lossRows: _, lossLabels: _labels, ...feeds } = batchOf(io, "", config).feeds;
  const results = await session.run(feeds);
  await session.close();
  return results["logits"]!.data as Float32Array;
}

for (const [name, parts] of Object.entries(families)) {
  test(`${name}: experts in two tensors a layer, read in place and merged as they are`, async (t) => {
    const folder = temporaryFolder(t);
    const golden = `${cases}/${name}`;
    const io = await readTensors(`${golden}/io.safetensors`);
    const before = await readTensors(`${golden}/base/model.safetensors`);
    const after = stacked(before, parts);
    assert.ok(after.size < before.size);
    await cp(`${golden}/base/config.json`, `${folder}/base/config.json`);
    await write(`${folder}/base/model.safetensors`, after);

    assert.deepEqual(await logits(`${folder}/base`, io), await logits(`${golden}/base`, io));

    await mergeAdapter(nodeFiles, { base: `${folder}/base`, adapter: `${golden}/adapter`, output: `${folder}/merged` });
    await mergeAdapter(nodeFiles, { base: `${golden}/base`, adapter: `${golden}/adapter`, output: `${folder}/usual` });
    const expected = stacked(await readTensors(`${folder}/usual/model.safetensors`), parts);
    assert.deepEqual(await readTensors(`${folder}/merged/model.safetensors`), expected);
  });
}

test("experts that do not fit into the tensor are missed by name", async (t) => {
  const folder = temporaryFolder(t);
  const golden = `${cases}/qwen2moe-shared`;
  const tensors = stacked(await readTensors(`${golden}/base/model.safetensors`), families["qwen2moe-shared"]);
  const name = [...tensors.keys()].find((one) => one.endsWith("gate_up_proj"))!;
  const { shape, data } = tensors.get(name)!;
  const [count, rows, columns] = shape as [number, number, number];
  await cp(`${golden}/base/config.json`, `${folder}/config.json`);
  const fewer = (data as Float32Array).subarray(0, (count - 1) * rows * columns);
  await write(
    `${folder}/model.safetensors`,
    tensors.set(name, { dtype: "float32", shape: [count - 1, rows, columns], data: fewer }),
  );
  const { checkpoint, config } = await loadBase(nodeFiles, folder);
  const missing = new RegExp(`experts\\.${count - 1}\\.gate_proj\\.weight`);
  assert.throws(() => lower(forwardGraph(config), weightFiles(checkpoint).locate), {
    code: "checkpoint/missing-tensor",
    subject: missing,
  });
  const plain = await openCheckpoint(nodeFiles, folder);
  assert.equal(
    (await readWeights(nodeFiles, checkpoint, name.replace("gate_up_proj", "0.up_proj.weight"))).data.length,
    data.length / count / 2,
  );
  await assert.rejects(readWeights(nodeFiles, plain, name.replace("gate_up_proj", "0.up_proj.weight")), {
    code: "checkpoint/no-tensor",
  });
});
