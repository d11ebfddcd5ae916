// Models of the benchmark: shards that load, weights that differ, activations that stay of order 1.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { shapes } from "../../bench/shapes.ts";
import { writeModel } from "../../bench/write-model.ts";
import { readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { finetune } from "../../src/index.ts";
import { loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { slow } from "../helpers/slow.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const folder = temporaryFolder();
const written = await writeModel(folder, "tiny", { maxShardBytes: 100_000 });

test("the shards hold the model, each within its limit, and no two layers are equal", async () => {
  const shards = readdirSync(folder).filter((name) => name.endsWith(".safetensors"));
  assert.ok(shards.length > 2, shards.join());
  const { checkpoint, config } = await loadBase(nodeFiles, folder);
  assert.equal(config.layers, shapes.tiny.num_hidden_layers);
  const stored = [...checkpoint.tensors.values()].reduce((sum, { length }) => sum + length, 0);
  assert.equal(stored, written.bytes);
  const weights = async (name: string) => toFloat32(await readWeights(nodeFiles, checkpoint, name));
  const [first, second] = [
    await weights("model.layers.0.mlp.up_proj.weight"),
    await weights("model.layers.1.mlp.up_proj.weight"),
  ];
  assert.notDeepEqual(first, second);
  const deviation = Math.sqrt(first.reduce((sum, value) => sum + value * value, 0) / first.length);
  assert.ok(Math.abs(deviation * Math.sqrt(64) - 1) < 0.05, String(deviation));
  assert.deepEqual([...new Set(await weights("model.norm.weight"))], [1]);
});

test("it trains from a loss near ln(vocabulary), at any depth", slow, async () => {
  const deep = temporaryFolder();
  await writeModel(deep, "tiny", { layers: 12 });
  const data = "models/demo/train.jsonl";
  for (const base of [folder, deep]) {
    const run = finetune({ base, data, output: `${base}/out`, steps: 1, batchSize: 2, maxLength: 64 });
    for await (const event of run) {
      if (event.type !== "step") continue;
      assert.ok(Math.abs(event.loss - Math.log(shapes.tiny.vocab_size)) < 0.5, String(event.loss));
      assert.ok(event.gradNorm > 0.001 && event.gradNorm < 100, String(event.gradNorm));
    }
  }
});

test("the same seed writes the same model, another one another", async () => {
  const embedding = async (seed: number) => {
    const other = temporaryFolder();
    await writeModel(other, "tiny", { seed });
    const { checkpoint } = await loadBase(nodeFiles, other);
    return toFloat32(await readWeights(nodeFiles, checkpoint, "model.embed_tokens.weight"));
  };
  const [zero, again, one] = [await embedding(0), await embedding(0), await embedding(1)];
  assert.deepEqual(zero, again);
  assert.notDeepEqual(zero, one);
});
