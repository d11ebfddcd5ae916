// finetune on the tiny checkpoint: what it writes, that it resumes to the same bits, and what it refuses before the engine starts.
// slow
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { finetune as finetuneOn } from "../../src/commands/train/finetune.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { readHeader } from "../../src/formats/safetensors.ts";
import { evaluate, type FinetuneEvent, type FinetuneOptions, finetune, loadAdapter } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { readPromptFormat } from "../../src/train/run-file.ts";
import { readMetrics } from "../../src/train/run-log.ts";
import { collect, only, refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const data = `${fixtures}/tiny-e2e/train.jsonl`;
const evalData = `${fixtures}/tiny-e2e/eval.jsonl`;
const root = temporaryFolder();

const threads = 1;
const bytesAt = (file: string): Buffer => readFileSync(path.join(root, file));
const hashes = (folder: string): string[] =>
  readdirSync(folder).map((name) =>
    createHash("sha256")
      .update(readFileSync(`${folder}/${name}`))
      .digest("hex"),
  );

const events = (options: FinetuneOptions): Promise<FinetuneEvent[]> => collect(finetune(options));

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describe("a batch of more tokens than are computed at once", () => {
  const long = path.join(root, "long.jsonl");
  const text = (i: number) => `name[Place ${i}], food[Italian], area[riverside] `.repeat(10 + (i % 3));
  writeFileSync(long, Array.from({ length: 48 }, (_, i) => `${JSON.stringify({ text: text(i) })}\n`).join(""));
  const common = { base, data: long, learningRate: 5e-3, epochs: 2, groupByLength: false, dropout: 0.1, threads };
  const trained = async (batchSize: number, gradientAccumulation: number) => {
    const output = path.join(root, `long-${batchSize}`);
    return events({ ...common, output, batchSize, gradientAccumulation });
  };

  it("is computed in parts: the same steps, in the memory of one part", async () => {
    const [whole, small] = [await trained(24, 1), await trained(8, 3)];
    const steps = [whole, small].map((run) => only(run, "step"));
    assert.ok(steps[0]![0]!.tokens > 2 * 1024, "one part would do");
    const facts = steps.map((run) => run.map(({ loss, gradNorm, tokens }) => ({ loss, gradNorm, tokens })));
    assert.equal(facts[0]!.length, 4);
    for (const [i, { loss, gradNorm, tokens }] of facts[0]!.entries()) {
      assert.equal(tokens, facts[1]![i]!.tokens);
      assert.ok(Math.abs(loss - facts[1]![i]!.loss) < 1e-5, `${loss} ${facts[1]![i]!.loss}`);
      assert.ok(Math.abs(gradNorm / facts[1]![i]!.gradNorm - 1) < 1e-4, `${gradNorm} ${facts[1]![i]!.gradNorm}`);
    }
    const memory = [whole, small].map((run) => only(run, "prepared")[0]!.memory.activations);
    assert.ok(memory[0]! < 1.3 * memory[1]!, `${memory}`);
  });

  it("stays whole where a gradient is as large as the model", async () => {
    const run = async (batchSize: number) => {
      const output = path.join(root, `full-${batchSize}`);
      const all = await events({ ...common, dropout: undefined, method: "full", epochs: undefined, steps: 1, output, batchSize });
      return only(all, "prepared")[0]!.memory.activations;
    };
    assert.ok((await run(24)) > 2 * (await run(8)));
  });
});

describe("an adapter", async () => {
  const before = hashes(base);
  const output = path.join(root, "adapter");
  const common = { base, data, evalData, output, steps: 24, batchSize: 8, learningRate: 5e-3, threads };
  const all = await events({ ...common, evalEvery: 12, checkpointEvery: 10, baseName: "org/tiny" });

  it("is trained: the loss falls, on rows it has not seen as well", async () => {
    const losses = only(all, "step").map((event) => event.loss);
    assert.equal(losses.length, 24);
    assert.ok(mean(losses.slice(-6)) < mean(losses.slice(0, 6)) - 0.1, losses.join(" "));
    const { base: untrained, adapter } = await evaluate({ base, data: evalData, adapter: output, threads });
    assert.ok(adapter!.loss < untrained.loss - 0.05, `${adapter!.loss} ${untrained.loss}`);
    const [, last] = only(all, "eval");
    assert.ok(Math.abs(last!.loss - adapter!.loss) < 1e-4, "the evaluation in training is another one");
  });

  it("is announced with what will be trained on what", () => {
    const [prepared] = only(all, "prepared");
    // Σ rank·(in + out): q, k, v, o of 64 → 64, 32, 32, 64, and 64 ↔ 128 three times, in 2 layers.
    assert.equal(prepared!.trainable, 2 * 8 * (128 + 96 + 96 + 128 + 3 * 192));
    assert.equal(prepared!.parameters, 106_816);
    assert.equal(prepared!.modules, 14);
    assert.deepEqual([prepared!.train.count, prepared!.eval!.count], [400, 40]);
    const { share, otherwise } = prepared!.padding;
    assert.ok(0 < share && share < otherwise / 2 && otherwise < 0.5, `${share} ${otherwise}`);
  });

  it("is written as PEFT names and shapes it", async () => {
    const config = JSON.parse(readFileSync(`${output}/adapter_config.json`, "utf8"));
    const { peft_type, r, lora_alpha, task_type, base_model_name_or_path, inference_mode } = config;
    assert.deepEqual(
      { peft_type, r, lora_alpha, task_type, base_model_name_or_path, inference_mode },
      {
        peft_type: "LORA",
        r: 8,
        lora_alpha: 16,
        task_type: "CAUSAL_LM",
        base_model_name_or_path: "org/tiny",
        inference_mode: true,
      },
    );
    const { tensors, metadata } = await readHeader(nodeFiles, `${output}/adapter_model.safetensors`);
    assert.equal(tensors.size, 28);
    assert.equal(metadata["format"], "pt");
    const shape = (name: string) => tensors.get(`base_model.model.model.layers.1.mlp.down_proj.${name}.weight`)?.shape;
    assert.deepEqual(
      [shape("lora_A"), shape("lora_B")],
      [
        [8, 128],
        [64, 8],
      ],
    );
    assert.equal((await loadAdapter(output)).modules.length, 14);
  });

  it("leaves the base's files as they were", () => assert.deepEqual(hashes(base), before));

  it("keeps the newest checkpoints, the options of the run and how the model is asked", async () => {
    const names = readdirSync(output).sort();
    assert.deepEqual(names, [
      "SHA256SUMS",
      "adapter_config.json",
      "adapter_model.safetensors",
      "checkpoint-20",
      "checkpoint-24",
      "metrics.jsonl",
      "run.json",
    ]);
    const { options, prompts } = JSON.parse(readFileSync(`${output}/run.json`, "utf8"));
    assert.equal(options.learningRate, 5e-3);
    assert.deepEqual(prompts, { kind: "completion", before: "", after: "\n" });
    assert.deepEqual(await readPromptFormat(nodeFiles, output), prompts);
    assert.deepEqual(await readPromptFormat(nodeFiles, `${output}/checkpoint-24`), prompts);
    assert.equal(await readPromptFormat(nodeFiles, base), null);
  });

  it("is logged with what it is trained by and on", async () => {
    const { runs, steps, evals, end } = (await readMetrics(nodeFiles, output))!;
    const { options } = JSON.parse(readFileSync(`${output}/run.json`, "utf8"));
    assert.deepEqual(runs[0]!.options, options);
    assert.equal(runs[0]!.lowrank, JSON.parse(readFileSync(`${fixtures}/../../package.json`, "utf8")).version);
    const { train, ...prepared } = runs[0]!.prepared;
    assert.deepEqual([prepared.modules, prepared.parameters, train.count, prepared.eval!.count], [14, 106_816, 400, 40]);
    assert.deepEqual(
      steps.map(({ loss }) => loss),
      only(all, "step").map(({ loss }) => loss),
    );
    assert.deepEqual(
      evals.map(({ step }) => step),
      [12, 24],
    );
    assert.equal(end!.type, "done");
  });

  it("can be trained further", async () => {
    const further = await events({
      base,
      data,
      adapter: output,
      output: path.join(root, "further"),
      steps: 1,
      batchSize: 64,
      threads,
    });
    const anew = await events({ base, data, output: path.join(root, "anew"), steps: 1, batchSize: 64, threads });
    assert.ok(only(further, "step")[0]!.loss < only(anew, "step")[0]!.loss - 0.05, "it started from new values");
  });
});

describe("a run that is stopped and resumed", () => {
  const options = {
    base,
    data,
    evalSplit: 0.1,
    batchSize: 2,
    gradientAccumulation: 2,
    dropout: 0.1,
    groupByLength: false,
    steps: 8,
    evalEvery: 3,
    schedule: "cosine" as const,
    warmup: 0.25,
    loraPlusRatio: 4,
    targetModules: ["q_proj", "v_proj"],
    seed: 7,
    threads,
  };

  it("ends with the bits of the undisturbed run, its options read from the output folder", async () => {
    await events({ ...options, output: path.join(root, "whole") });
    const output = path.join(root, "halves");
    const stop = new AbortController();
    for await (const event of finetune({ ...options, output, signal: stop.signal })) {
      if (event.type === "step" && event.step === 3) stop.abort();
    }
    assert.ok(!existsSync(`${output}/adapter_model.safetensors`), "a stopped run has no result yet");
    const rest = await events({ output, resume: true });
    assert.equal(only(rest, "start")[0]!.step, 3);
    const [log, undisturbed] = await Promise.all([output, path.join(root, "whole")].map((run) => readMetrics(nodeFiles, run)));
    assert.deepEqual(
      log!.steps.map(({ step, loss }) => [step, loss]),
      undisturbed!.steps.map(({ step, loss }) => [step, loss]),
    );
    assert.equal(log!.runs.length, 2);
    for (const file of ["adapter_model.safetensors", "adapter_config.json", "checkpoint-8/optimizer.safetensors"]) {
      assert.deepEqual(bytesAt(`halves/${file}`), bytesAt(`whole/${file}`), file);
    }
  });

  it("is refused with options that would give other bits", async () => {
    const output = path.join(root, "halves");
    const again = (change: object) => events({ output, resume: true, ...change });
    await assert.rejects(again({ seed: 8 }), { code: "train/resume-mismatch" });
    await assert.rejects(again({ groupByLength: true }), { code: "train/resume-mismatch" });
    await assert.rejects(again({ targetModules: ["q_proj"] }), { code: "train/resume-mismatch" });
    await assert.rejects(again({ data: evalData }), { code: "train/resume-mismatch" });
    const isRefused = async (change: object, ...texts: RegExp[]) =>
      refused(events({ ...options, output, ...change }), "train/output", { text: texts });
    await isRefused({}, /this very run/, new RegExp(`lowrank train --resume --output ${output}`));
    await isRefused({ rank: 4, date: "2020-02-02" }, /found: +a run with other options: rank 8, here 4\n/, /--resume --output/);
    await assert.rejects(events({ output: path.join(root, "nothing"), resume: true }), { code: "train/no-run" });
  });
});

describe("an output folder", () => {
  const options = { base, data, batchSize: 2, steps: 3, threads };

  it("is locked by one run at a time, and released at the end", async () => {
    const output = path.join(root, "taken-by-one");
    for await (const event of finetune({ ...options, output })) {
      if (event.type === "step") await assert.rejects(events({ ...options, output }), { code: "file/locked" });
    }
    assert.deepEqual(
      readdirSync(output).filter((name) => name.startsWith(".")),
      [],
    );
    await assert.rejects(events({ ...options, output }), { code: "train/output" });
  });

  it("is rid of what a killed run left half-written", async () => {
    const output = path.join(root, "leftovers");
    mkdirSync(`${output}/.checkpoint-2.new`, { recursive: true });
    for (const name of [".lowrank-12345678-9abc-def0-1234-56789abcdef0.tmp", ".lowrank.lock", ".other.tmp"])
      writeFileSync(`${output}/${name}`, "");
    await events({ ...options, output });
    assert.deepEqual(
      readdirSync(output).filter((name) => name.startsWith(".")),
      [".other.tmp"],
    );
  });
});

describe("packing", () => {
  it("gives the loss of the examples one by one", async () => {
    const loss = async (packing: boolean) => {
      const output = path.join(root, `packing-${packing}`);
      const all = await events({ base, data: evalData, output, packing, steps: 1, batchSize: 64, maxLength: 256, threads });
      return only(all, "step")[0]!;
    };
    const [packed, padded] = [await loss(true), await loss(false)];
    assert.equal(packed.tokens, padded.tokens);
    assert.ok(packed.loss > 1 && Math.abs(packed.loss - padded.loss) < 1e-5, `${packed.loss} ${padded.loss}`);
    assert.ok(Math.abs(packed.gradNorm / padded.gradNorm - 1) < 1e-4, `${packed.gradNorm} ${padded.gradNorm}`);
  });
});

describe("the method full", () => {
  it("writes a whole checkpoint that has learnt, in the base's dtype, tied weights once", async () => {
    const output = path.join(root, "full");
    const all = await events({ method: "full", base, data, output, steps: 12, batchSize: 8, learningRate: 2e-3, threads });
    assert.equal(only(all, "prepared")[0]!.trainable, 106_816);
    const { tensors, config } = await openCheckpoint(nodeFiles, output);
    const source = await openCheckpoint(nodeFiles, base);
    assert.deepEqual(config, source.config);
    assert.deepEqual([...tensors.keys()].sort(), [...source.tensors.keys()].sort());
    assert.deepEqual([...new Set([...tensors.values()].map(({ dtype }) => dtype))], ["bfloat16"]);
    const untrained = await evaluate({ base, data: evalData, threads });
    const trained = await evaluate({ base: output, data: evalData, threads });
    assert.ok(trained.base.loss < untrained.base.loss - 0.1, `${trained.base.loss} ${untrained.base.loss}`);
  });
});

describe("before the engine starts", () => {
  /** A copy of the base with another config or tokenizer. */
  const changed = (name: string, file: string, change: (json: Record<string, unknown>) => void): string => {
    const folder = path.join(root, name);
    cpSync(base, folder, { recursive: true });
    const json = JSON.parse(readFileSync(`${folder}/${file}`, "utf8"));
    change(json);
    writeFileSync(`${folder}/${file}`, JSON.stringify(json));
    return folder;
  };
  const file = (name: string, text: string): string => {
    writeFileSync(path.join(root, name), text);
    return path.join(root, name);
  };
  const other = path.join(root, "taken");
  mkdirSync(`${other}/checkpoint-3`, { recursive: true });
  const token = { id: 600, content: "<|new|>", special: true };
  const cases: [string, Record<string, unknown>, string, RegExp][] = [
    ["an option that does not exist", { learnigRate: 1 }, "train/option", /learningRate/],
    ["an option that is missing", { data: undefined }, "train/option", /data/],
    ["a value of the wrong type", { batchSize: "8" }, "train/option", /batchSize/],
    ["steps and epochs", { steps: 1, epochs: 1 }, "train/option", /both/],
    ["samples without an evaluation", { samples: 2 }, "train/option", /samples.*evaluations/],
    ["too many samples", { samples: 17, evalSplit: 0.1 }, "train/option", /samples/],
    ["samples of every weight", { samples: 2, evalSplit: 0.1, method: "full" }, "train/option", /only an adapter/],
    ["patience without an evaluation", { patience: 2 }, "train/option", /patience.*evaluations/],
    ["the best without an evaluation", { loadBest: true }, "train/option", /loadBest.*evaluations/],
    ["adapter options beside an adapter", { adapter: "x", rank: 4 }, "train/option", /rank and adapter/],
    ["no such base", { base: path.join(root, "no") }, "file/missing", /no/],
    ["a target that matches nothing", { targetModules: ["q_porj"] }, "lora/no-match", /q_proj/],
    ["a rank that is none", { rank: 0 }, "lora/config", /rank/],
    ["the base as output", { output: base }, "train/output", /base/],
    ["a folder with another run", { output: other }, "train/output", /another run/],
    ["no such data", { data: path.join(root, "no.jsonl") }, "file/missing", /no\.jsonl/],
    [
      "data without a target",
      { data: file("empty.jsonl", '{"prompt":"a b c","completion":"d"}\n'), maxLength: 2 },
      "data/no-targets",
      /./,
    ],
    ["more positions than the model has", { maxLength: 513 }, "train/option", /512/],
    ["a split that leaves nothing", { data: file("one.jsonl", '{"text":"abc"}\n'), evalSplit: 0.5 }, "train/option", /evalSplit/],
    [
      "a tokenizer larger than the embedding",
      { base: changed("large", "tokenizer.json", (json) => (json["added_tokens"] as unknown[]).push(token)) },
      "train/vocabulary",
      /600/,
    ],
  ];
  for (const [what, change, code, text] of cases) {
    it(`refuses ${what}`, async () => {
      let opened = false;
      const openSession = async () => {
        opened = true;
        throw new Error("not to be opened");
      };
      const options = { base, data, output: path.join(root, "refused"), ...change } as unknown as FinetuneOptions;
      const run = async () => {
        for await (const _ of finetuneOn(options, { files: nodeFiles, openSession }));
      };
      await refused(run, code, text);
      assert.equal(opened, false);
    });
  }
});
