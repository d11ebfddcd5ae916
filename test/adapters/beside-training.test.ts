// What is trained beside the factors, by the options of a run: counted, trained, evaluated, continued, planned.
// slow
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { readHeader } from "../../src/formats/safetensors.ts";
import { evaluate, type FinetuneOptions, finetune, loadAdapter, plan } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { collect, only } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const [base, data, evalData] = [`${fixtures}/tiny-llama`, `${fixtures}/tiny-e2e/train.jsonl`, `${fixtures}/tiny-e2e/eval.jsonl`];
const root = temporaryFolder();
const targetModules = ["q_proj", "v_proj"];
/** Of rank 4 on queries and values of two layers. */
const FACTORS = 2 * 4 * (128 + 96);
const [vocab, hidden, inner] = [512, 64, 128];

const runs: Record<string, { options: Partial<FinetuneOptions>; beside: number; keys: RegExp }> = {
  norms: { options: { modulesToSave: ["norm"] }, beside: 5 * hidden, keys: /model\.norm\.weight$/ },
  "output layer": { options: { modulesToSave: ["lm_head"] }, beside: vocab * hidden, keys: /model\.lm_head\.weight$/ },
  tied: {
    options: { modulesToSave: ["embed_tokens"], ensureWeightTying: true },
    beside: vocab * hidden,
    keys: /(lm_head|embed_tokens)\.weight$/,
  },
  groups: {
    options: { modulesToSave: ["layers.1.mlp"] },
    beside: 3 * hidden * inner,
    keys: /model\.layers\.1\.mlp\.up_proj\.weight$/,
  },
  tokens: { options: { trainableTokenIndices: [7, 9] }, beside: 2 * hidden, keys: /embed_tokens\.token_adapter\.\w+$/ },
  "bias of B": { options: { loraBias: true }, beside: 2 * (64 + 32), keys: /lora_B\.bias$/ },
};

for (const [name, { options, beside, keys }] of Object.entries(runs)) {
  test(`${name}: trained, evaluated, continued, planned`, async () => {
    const output = path.join(root, name);
    const own = { rank: 4, targetModules, ...options };
    const common = { base, data, evalData, batchSize: 4, threads: 1 };
    const events = await collect(finetune({ ...common, ...own, output, steps: 12, learningRate: 2e-3, evalEvery: 12 }));
    const [prepared] = only(events, "prepared");
    assert.equal(prepared!.trainable, FACTORS + beside);
    const { trainableParameters } = await plan(base, own);
    assert.equal(trainableParameters, prepared!.trainable);
    const { tensors } = await readHeader(nodeFiles, `${output}/adapter_model.safetensors`);
    assert.ok([...tensors.keys()].some((key) => keys.test(key)));
    const [last] = only(events, "eval").slice(-1);
    const scores = await evaluate({ base, data: evalData, adapter: output, threads: 1 });
    assert.ok(Math.abs(last!.loss - scores.adapter!.loss) < 1e-4, `${last!.loss} ${scores.adapter!.loss}`);
    assert.ok(scores.adapter!.loss < scores.base!.loss);

    const further = path.join(root, `${name} further`);
    const more = await collect(
      finetune({ ...common, adapter: output, output: further, steps: 2, learningRate: 1e-5, evalEvery: 1 }),
    );
    const [begun] = only(more, "eval");
    assert.ok(Math.abs(begun!.loss - scores.adapter!.loss) < 1e-2, "it goes on from where it was");
    const [before, after] = [await loadAdapter(output), await loadAdapter(further)];
    const changed = [...(before.saved ?? [])].filter(([key, { data }]) =>
      data.some((value, i) => value !== after.saved!.get(key)!.data[i]),
    );
    assert.equal(changed.length, before.saved?.size ?? 0, "all of it is trained");
  });
}
