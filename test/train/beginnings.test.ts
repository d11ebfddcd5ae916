// Runs that begin in other ways than with B zero, and by other optimizers than AdamW: what they write, and that they resume to the bit.
// slow
import assert from "node:assert/strict";
import { cp, readFile, rm } from "node:fs/promises";
import { test } from "node:test";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { evaluate, finetune } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { completeOptions, type FinetuneOptions } from "../../src/train/options.ts";
import { collect, near, only, refusedSync } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixture = (name: string) => `${fixtures}/${name}`;
const base = fixture("tiny-llama");
const data = fixture("tiny-e2e/train.jsonl");
const evalData = fixture("tiny-e2e/eval.jsonl");

const run = (options: Partial<FinetuneOptions> & { output: string }) =>
  collect(
    finetune({
      base,
      data,
      rank: 4,
      alpha: 8,
      steps: 4,
      batchSize: 2,
      learningRate: 3e-3,
      maxLength: 64,
      ...options,
    } as FinetuneOptions),
  );

for (const init of ["pissa", "pissa_niter_4", "olora", "orthogonal"] as const) {
  test(`${init}: the result is a plain adapter of the base, which a resumed run makes to the bit`, async (t) => {
    const folder = temporaryFolder(t);
    const output = `${folder}/out`;
    const how = { init, dropout: 0.1, evalData, checkpointEvery: 2, keepCheckpoints: 9 };
    const events = await run({ output, ...how });
    const plain = await run({ output: `${folder}/plain`, ...how, init: true, steps: 1 });
    // It begins as the base: the first loss is that of a plain run, but for what dropout takes of B·A.
    const [loss, usual] = [only(events, "step")[0]!.loss, only(plain, "step")[0]!.loss];
    if (init === "orthogonal") near(loss, usual, 1e-2);
    else assert.notEqual(loss, usual);

    const { config, modules, tensors } = await readAdapter(nodeFiles, output);
    const factor = init === "orthogonal" ? 1 : 2;
    assert.deepEqual([config.initLoraWeights, config.rank, config.alpha], [factor === 2 ? true : init, 4 * factor, 8 * factor]);
    assert.equal(tensors.get(modules[0]!.path)!.loraA.length, 4 * factor * modules[0]!.inFeatures);
    const evals = only(events, "eval");
    const again = await evaluate({ base, data: evalData, adapter: output, maxLength: 64 });
    near(again.adapter!.loss, evals.at(-1)!.loss, 1e-4, "evaluation of what was written");

    // From the checkpoint of step 2 it goes on to the same file.
    const resumed = `${folder}/resumed`;
    await cp(output, resumed, { recursive: true });
    for (const name of ["checkpoint-4", "adapter_model.safetensors", "SHA256SUMS"])
      await rm(`${resumed}/${name}`, { recursive: true });
    await collect(finetune({ output: resumed, resume: true } as FinetuneOptions));
    const [ours, theirs] = [resumed, output].map((place) => readFile(`${place}/adapter_model.safetensors`));
    assert.deepEqual(await ours, await theirs);
  });
}

test("without dropout a run that takes first factors off begins with the base's loss", async (t) => {
  const folder = temporaryFolder(t);
  const losses: number[] = [];
  for (const init of [true, "pissa", "olora"] as const)
    losses.push(only(await run({ output: `${folder}/${init}`, init, steps: 1 }), "step")[0]!.loss);
  near(losses[1]!, losses[0]!, 1e-4, "pissa");
  near(losses[2]!, losses[0]!, 1e-4, "olora");
  const dora = await run({ output: `${folder}/dora`, init: "pissa", useDora: true, steps: 1 });
  near(only(dora, "step")[0]!.loss, losses[0]!, 1e-4, "pissa with DoRA");
});

test("first factors are taken off in each way of execution", async (t) => {
  const folder = temporaryFolder(t);
  const ways = [
    { memory: "keep" },
    { memory: "products" },
    { memory: "recompute" },
    { memory: "stream" },
    { optimizer: "lorafa", memory: "stream" },
  ] as const;
  const [kept, ...others] = await Promise.all(
    ways.map(async (way, i) =>
      only(await run({ output: `${folder}/${i}`, init: "olora", learningRate: 3e-4, ...way }), "step").map(({ loss }) => loss),
    ),
  );
  for (const [i, losses] of others.entries()) {
    if (i < 3)
      for (const [step, loss] of losses.entries()) near(loss, kept![step]!, 1e-3, `${ways[i + 1]!.memory}, step ${step}`);
    else near(losses[0]!, kept![0]!, 1e-4, "LoRA-FA");
  }
});

test("LoRA-FA trains B alone, the file has both, and a resumed run ends with the same", async (t) => {
  const output = `${temporaryFolder(t)}/out`;
  const events = await run({ output, optimizer: "lorafa", checkpointEvery: 2, keepCheckpoints: 9 });
  const losses = only(events, "step").map(({ loss }) => loss);
  assert.ok(losses.at(-1)! < losses[0]!, String(losses));
  const [trained, first] = [await readAdapter(nodeFiles, output), await readAdapter(nodeFiles, `${output}/checkpoint-0`)];
  const sizeOfB = trained.modules.reduce((sum, { outFeatures, rank }) => sum + outFeatures * rank, 0);
  assert.equal(only(events, "prepared")[0]!.trainable, sizeOfB);
  for (const { path } of trained.modules) {
    assert.deepEqual(trained.tensors.get(path)!.loraA, first.tensors.get(path)!.loraA);
    assert.ok(
      trained.tensors.get(path)!.loraB.some((value) => value !== 0),
      path,
    );
  }
  const bytes = await readFile(`${output}/adapter_model.safetensors`);
  for (const name of ["checkpoint-4", "adapter_model.safetensors", "SHA256SUMS"])
    await rm(`${output}/${name}`, { recursive: true });
  await collect(finetune({ output, resume: true } as FinetuneOptions));
  assert.deepEqual(await readFile(`${output}/adapter_model.safetensors`), bytes);
});

test("options that contradict an optimizer or name no initialization are refused", () => {
  const given = { base: "b", data: "d", output: "o" };
  assert.equal(
    refusedSync(() => completeOptions({ ...given, optimizer: "lorafa", method: "full" }), "train/option").subject,
    "method",
  );
  assert.equal(
    refusedSync(() => completeOptions({ ...given, optimizer: "lorafa", loraPlusRatio: 4 }), "train/option").subject,
    "loraPlusRatio",
  );
  for (const init of ["loftq", "pissa_niter_", "pissa_niter_x", "constructor", ""])
    assert.equal(refusedSync(() => completeOptions({ ...given, init }), "train/option").subject, "init");
  assert.equal(completeOptions({ ...given, init: "Gaussian" }).init, "gaussian");
  for (const evaConfig of [{ rho: 0.5 }, { rh: 2 }, { label_mask_value: 0 }])
    assert.match(refusedSync(() => completeOptions({ ...given, init: "eva", evaConfig }), "train/option").subject!, /^evaConfig/);
  assert.equal(refusedSync(() => completeOptions({ ...given, evaConfig: {} }), "train/option").subject, "evaConfig");
});
