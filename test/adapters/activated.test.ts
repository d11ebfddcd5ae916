// What changes how an adapter's model runs: aLoRA's invocations, and layers of the base that are used again. Token by token with a cache
// they give PEFT's numbers too.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { integers, readTensors } from "../../scripts/oracle/golden.ts";
import { attach, mergeTargets } from "../../src/adapters/attach.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { alora } from "../../src/adapters/methods/alora.ts";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { openDecoder } from "../../src/generate/decoder.ts";
import { openGenerator } from "../../src/generate/generator.ts";
import { loadBase, openBase, withLayersOf } from "../../src/models/base.ts";
import { weightsIn } from "../../src/models/module.ts";
import { countParameters, forwardGraph } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { int32 } from "../../src/tensor.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";

const cases = `${fixtures}/cases`;
const openSession = openNodeSession;

/** Of each row of a golden its tokens that are no padding, and its logits after the last of them. */
async function rowsOf(name: string, which: "base" | "adapter") {
  const io = await readTensors(`${cases}/${name}/io.safetensors`);
  const ids = io.get("input_ids")!;
  const [rows, width] = ids.shape as [number, number];
  const mask = integers(io.get("attention_mask")!);
  const logits = toFloat32(io.get(`logits_${which}`)!);
  const vocab = logits.length / (rows * width);
  return Array.from({ length: rows }, (_, row) => {
    const seen = Array.from({ length: width }, (_, i) => i).filter((i) => mask[row * width + i] === 1);
    const last = row * width + seen.at(-1)!;
    // Padding on the left has counted as positions, which begin at 0 here: those rows are left out.
    return {
      ids: seen.map((i) => integers(ids)[row * width + i]!),
      logits: logits.subarray(last * vocab, (last + 1) * vocab),
      isLeft: seen[0] !== 0,
    };
  }).filter(({ isLeft }) => !isLeft);
}

for (const name of ["llama-alora", "lora-layer-replication", "mixtral-all-linear", "mixtral-target-parameters"]) {
  test(`${name}: prompts of a batch and the tokens behind them, with a cache`, async () => {
    const { base, adapter } = await attach(
      await loadBase(nodeFiles, `${cases}/${name}/base`),
      await readAdapter(nodeFiles, `${cases}/${name}/adapter`),
    );
    const decoder = await openDecoder({ ...base, openSession, adapter });
    const rows = await rowsOf(name, "adapter");
    assert.ok(rows.length > 1);
    try {
      for (const behind of [0, 3]) {
        for (const { ids, logits } of rows) {
          const width = ids.length - behind;
          const prompt = Int32Array.from(ids.slice(0, width));
          const positionIds = prompt.map((_, i) => i);
          let got = await decoder.start({ rows: 1, width, ids: prompt, positionIds, attentionMask: positionIds.map(() => 1) });
          for (let i = width; i < ids.length; i++) got = await decoder.step(Int32Array.of(ids[i]!), Int32Array.of(i));
          // An invocation that begins in the prompt and ends behind it is none: the last tokens of that row are left out.
          const { aloraInvocationTokens: invocation } = adapter.config;
          const isWhole = !invocation || behind === 0 || lastPlace(ids, invocation) + invocation.length <= width;
          if (isWhole) near(got, logits, 3e-5, `${behind} behind ${prompt}`);
          await decoder.end();
        }
      }
    } finally {
      await decoder.close();
    }
  });
}

const lastPlace = (ids: readonly number[], invocation: readonly number[]): number =>
  ids.findLastIndex((_, at) => invocation.every((id, i) => ids[at + i] === id));

test("the gate opens at the last invocation of each row, and of each segment of a packed one", () => {
  const gate = (rows: number[][], tokens: number[], segments?: number[][]) => {
    const shape = [rows.length, rows[0]!.length];
    const batch = { inputIds: int32(shape, rows.flat()), ...(segments && { segmentIds: int32(shape, segments.flat()) }) };
    return [...alora.gate({ aloraInvocationTokens: tokens }, batch)].join("");
  };
  assert.equal(gate([[5, 1, 2, 6, 1, 2, 7]], [1, 2]), "0000111");
  assert.equal(
    gate(
      [
        [5, 1, 2],
        [2, 1, 1],
        [0, 0, 1],
      ],
      [1, 2],
    ),
    "011000000",
  );
  assert.equal(
    gate(
      [
        [0, 1],
        [2, 0],
      ],
      [1, 2],
    ),
    "0000",
    "an invocation does not go over the end of a row",
  );
  assert.equal(gate([[1, 9, 9, 9, 1, 9]], [1], [[0, 0, 1, 1, 1, 2]]), "110010");
  assert.equal(gate([[1, 1, 2, 2]], [1, 2], [[0, 0, 1, 1]]), "0000", "nor of a segment");
});

test("aLoRA adapts layers before the output layer of language models, and is not merged", async () => {
  const { modules } = await openBase(nodeFiles, `${cases}/llama-alora/base`);
  const adapter = await readAdapter(nodeFiles, `${cases}/llama-alora/adapter`);
  const fields = { aloraInvocationTokens: [1] };
  const match = (targets: string[]) => () => matchModules(modules, loraConfig({ ...fields, targetModules: targets }), "llama");
  assert.throws(match(["lm_head"]), { code: "lora/unsupported", subject: "lm_head" });
  assert.throws(match(["embed_tokens"]), { code: "lora/unsupported" });
  assert.throws(() => loraConfig({ ...fields, taskType: "SEQ_CLS" }), { code: "lora/unsupported", subject: "taskType" });
  assert.throws(() => loraConfig({ ...fields, useDora: true }), { code: "lora/unsupported" });
  assert.throws(() => mergeTargets(adapter, modules), { code: "merge/method" });
});

test("layers that are used again share their weights, and ranges that are none are refused", async () => {
  const base = await openBase(nodeFiles, `${cases}/lora-layer-replication/base`);
  const replicated = withLayersOf(base, [
    [0, 2],
    [1, 2],
  ]);
  assert.equal(replicated.modules.length - base.modules.length, 7);
  assert.deepEqual(weightsIn(forwardGraph(replicated.config)), weightsIn(forwardGraph(base.config)));
  assert.equal(countParameters(replicated.config), countParameters(base.config));
  assert.equal(
    withLayersOf(replicated, [
      [0, 2],
      [1, 2],
    ]),
    replicated,
  );
  assert.deepEqual(withLayersOf(replicated, null).config, base.config);
  assert.equal(await replicated.fingerprint(), await base.fingerprint());
  for (const ranges of [[[0, 3]], [[1, 1]], []] as [number, number][][])
    assert.throws(() => withLayersOf(base, ranges), { code: "model/layers" });
  const gpt2 = await openBase(nodeFiles, `${cases}/gpt2-conv1d/base`);
  assert.throws(() => withLayersOf(gpt2, [[0, 1]]), { code: "model/layers", subject: "layerReplication" });
  const adapter = await readAdapter(nodeFiles, `${cases}/lora-layer-replication/adapter`);
  assert.throws(() => mergeTargets(adapter, replicated.modules), { code: "merge/shared-layers" });
});

test("a generator that is open has the layers of its first adapter, and refuses one for others", async () => {
  const folder = `${cases}/lora-layer-replication`;
  const base = { ...(await loadBase(nodeFiles, `${folder}/base`)), tokenizer: async () => ({}) as never };
  const adapter = await readAdapter(nodeFiles, `${folder}/adapter`);
  const own = { ...adapter, config: { ...adapter.config, layerReplication: null } };
  const onOwnLayers = { ...own, modules: own.modules.filter(({ path }) => !path.includes("layers.2")) };
  const generator = await openGenerator(base, { openSession, adapter });
  try {
    await generator.useAdapter(null);
    await generator.useAdapter(adapter);
    await assert.rejects(generator.useAdapter(onOwnLayers), { code: "adapter/layers" });
  } finally {
    await generator.close();
  }
});
