// DoRA at work: decoded and swapped, trained and resumed, evaluated, merged, inspected. Its numbers are PEFT's by its goldens.
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { caseTask, forwardFeeds } from "../../scripts/oracle/case-task.ts";
import { batchPrefixes, readTensors } from "../../scripts/oracle/golden.ts";
import { layoutOf, partOf, thetaOf, trainedBy } from "../../src/adapters/layout.ts";
import { type Adapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { inspectAdapter } from "../../src/commands/inspect/inspect.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { openDecoder } from "../../src/generate/decoder.ts";
import { evaluate, finetune, mergeAdapter } from "../../src/index.ts";
import { openBase } from "../../src/models/base.ts";
import { forwardGraph } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openTaskModel } from "../../src/predict/task-model.ts";
import { openGraph } from "../../src/runtime/open-graph.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { float32, type Tensor } from "../../src/tensor.ts";
import type { FinetuneOptions } from "../../src/train/options.ts";
import { adaptedGraph } from "../../src/train/training-graph.ts";
import { caseFolder, distanceTo, goldenRows } from "../helpers/golden-rows.ts";
import { fixtures } from "../helpers/repository.ts";

const TOLERANCE = 3e-5;
const place = await mkdtemp(path.join(tmpdir(), "lowrank-dora-"));
after(() => rm(place, { recursive: true }));

const base = `${fixtures}/tiny-llama`;
const [data, evalData] = [`${fixtures}/tiny-e2e/train.jsonl`, `${fixtures}/tiny-e2e/eval.jsonl`];
const options: FinetuneOptions = {
  ...{ base, data, evalData, output: `${place}/run`, useDora: true, rank: 4, dropout: 0.1, steps: 6, batchSize: 4, threads: 1 },
  learningRate: 5e-3,
};

/** A session opener that counts. */
function counted(): { openSession: OpenSession; opened: () => number } {
  let count = 0;
  return {
    opened: () => count,
    openSession: (...given) => {
      count++;
      return openNodeSession(...given);
    },
  };
}

for (const name of ["lora-dora", "lora-dora-embed", "lora-dora-rslora", "lora-dora-conv1d"]) {
  test(`${name} decodes as PEFT's, and is swapped with none`, async () => {
    const { base: opened, adapter, rows } = await goldenRows(name);
    const decoder = await openDecoder({ ...opened, openSession: openNodeSession, threads: 1, adapter });
    assert.ok((await distanceTo(decoder, rows, "adapter")) < TOLERANCE);
    await decoder.useAdapter(null);
    assert.ok((await distanceTo(decoder, rows, "base")) < TOLERANCE);
    await decoder.useAdapter(adapter);
    assert.ok((await distanceTo(decoder, rows, "adapter")) < TOLERANCE);
    await decoder.close();
  });
}

test("DoRA and plain LoRA are swapped in one decoder, which opens once more for the other method", async () => {
  const { base: opened, adapter, rows } = await goldenRows("lora-dora");
  const plain = { ...adapter, config: { ...adapter.config, useDora: false } };
  const alone = await openDecoder({ ...opened, openSession: openNodeSession, threads: 1, adapter: plain });
  const expected = await alone.start({ rows: 1, width: 4, ...prompt(rows[0]!.ids.subarray(0, 4)) });
  await alone.close();

  const { openSession, opened: count } = counted();
  const decoder = await openDecoder({ ...opened, openSession, threads: 1 });
  assert.equal(count(), 1);
  for (const round of [1, 2]) {
    await decoder.useAdapter(adapter);
    assert.ok((await distanceTo(decoder, rows, "adapter")) < TOLERANCE, `round ${round}`);
    await decoder.useAdapter(plain);
    const logits = await decoder.start({ rows: 1, width: 4, ...prompt(rows[0]!.ids.subarray(0, 4)) });
    assert.ok(logits.every((value, i) => Math.abs(value - expected[i]!) < TOLERANCE));
    await decoder.end();
    await decoder.useAdapter(null);
    assert.ok((await distanceTo(decoder, rows, "base")) < TOLERANCE);
  }
  assert.equal(count(), 4, "the graph twice, and the norms of the adapter at each of its two turns");
  await decoder.close();
});

const prompt = (ids: Int32Array) => ({
  ids,
  positionIds: Int32Array.from(ids.keys()),
  attentionMask: new Int32Array(ids.length).fill(1),
});

test("a classifier predicts with DoRA as the forward pass computes, and is swapped with plain LoRA and none", async () => {
  const folder = caseFolder("bert-seqcls");
  const opened = await openBase(nodeFiles, `${folder}/base`);
  const given = await readAdapter(nodeFiles, `${folder}/adapter`);
  const io = await readTensors(`${folder}/io.safetensors`);
  const task = caseTask("sequence-class", opened);
  const feeds = forwardFeeds(task, task.batch(io, batchPrefixes(io)[0]!, opened.config));
  const tensors = new Map(
    given.modules.map((module) => [
      module.path,
      { ...given.tensors.get(module.path)!, magnitude: new Float32Array(module.outFeatures).fill(0.6) },
    ]),
  );
  const adapter: Adapter = { ...given, config: { ...given.config, useDora: true }, tensors };
  const { graph } = adaptedGraph(forwardGraph(opened.config), trainedBy(adapter));
  const theta = thetaOf(adapter);
  const own = layoutOf(trainedBy(adapter)).map((entry) => [entry.key, float32(entry.shape, partOf(theta, entry))]);
  const session = await openGraph(graph, weightFiles(opened.checkpoint), { openSession: openNodeSession, threads: 1 });
  const expected = (await session.run({ ...feeds, ...Object.fromEntries(own) }))["logits"]!;
  await session.close();

  const host = { files: nodeFiles, openSession: openNodeSession, threads: 1 };
  const model = await openTaskModel(opened, host);
  const distance = async (want: Tensor) => {
    const data = await model.run("logits", feeds);
    return data.reduce((worst, value, i) => Math.max(worst, Math.abs(value - Number(want.data[i]))), 0);
  };
  assert.ok((await distance(io.get("logits_base")!)) < TOLERANCE);
  for (const round of [1, 2]) {
    await model.useAdapter(adapter);
    assert.ok((await distance(expected)) < TOLERANCE, `round ${round}`);
    assert.ok((await distance(io.get("logits_adapter")!)) > 100 * TOLERANCE);
    await model.useAdapter(given);
    assert.ok((await distance(io.get("logits_adapter")!)) < TOLERANCE, `round ${round}`);
    await model.useAdapter(null);
    assert.ok((await distance(io.get("logits_base")!)) < TOLERANCE);
  }
  await model.close();
});

test("a run that is stopped goes on to the bits of one that is not, with dropout", async () => {
  for await (const _ of finetune(options));
  const output = `${place}/halves`;
  const stop = new AbortController();
  for await (const event of finetune({ ...options, output, signal: stop.signal })) {
    if (event.type === "step" && event.step === 3) stop.abort();
  }
  for await (const _ of finetune({ output, resume: true }));
  const [whole, halves] = [options.output, output].map((folder) => readFileSync(`${folder}/adapter_model.safetensors`));
  assert.ok(whole!.equals(halves!));
  const { config, modules, tensors } = await readAdapter(nodeFiles, output);
  assert.equal(config.useDora, true);
  const checkpoint = await openCheckpoint(nodeFiles, base);
  for (const { path: name, inFeatures } of modules) {
    const weight = toFloat32(await readWeights(nodeFiles, checkpoint, `${name}.weight`));
    const { magnitude } = tensors.get(name)!;
    const norms = magnitude!.map((_, row) => Math.hypot(...weight.subarray(row * inFeatures, (row + 1) * inFeatures)));
    const moved = Math.max(...magnitude!.map((value, row) => Math.abs(value - norms[row]!)));
    assert.ok(moved > 1e-3 && moved < 6.5 * 5e-3, `${name}: six steps of Adam from the norm of each row, ${moved}`);
  }
});

test("evaluated beside the base; merged, the base alone is as good as with the adapter", async () => {
  const both = await evaluate({ base, data: evalData, adapter: options.output, task: "causal-lm", threads: 1 });
  const alone = await evaluate({ base, data: evalData, task: "causal-lm", threads: 1 });
  assert.equal(both.base.loss, alone.base.loss);
  assert.ok(both.adapter!.loss < both.base.loss - 0.01);
  await mergeAdapter({ base, adapter: options.output, output: `${place}/merged` });
  const merged = await evaluate({ base: `${place}/merged`, data: evalData, task: "causal-lm", threads: 1 });
  assert.ok(Math.abs(merged.base.loss - both.adapter!.loss) < 1e-2, `${merged.base.loss}, ${both.adapter!.loss}`);
});

test("inspected: the method by its name, its parameters and the norm of the magnitudes", async () => {
  const found = await inspectAdapter(nodeFiles, options.output, { base });
  assert.equal(found.method, "DoRA");
  const sizes = found.modules.map(({ rank, inFeatures, outFeatures }) => rank * (inFeatures + outFeatures) + outFeatures);
  assert.equal(
    found.parameters,
    sizes.reduce((sum, size) => sum + size, 0),
  );
  assert.ok(found.modules.every(({ norms }) => norms!["magnitude"]! > 0));
  assert.equal(found.madeForBase, true);
});
