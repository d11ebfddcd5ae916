// lowrank plan: numbers of PEFT from config.json alone, the memory that finetune estimates, and what it refuses.
// slow
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { planTraining } from "../../src/commands/plan/plan.ts";
import { finetune } from "../../src/commands/train/finetune.ts";
import type { LowrankError, Plan } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { collect, only } from "../helpers/assert.ts";
import { printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const tiny = `${fixtures}/tiny-llama`;
const root = temporaryFolder();

const planned = async (...args: string[]): Promise<Plan> => {
  const { status, stdout, stderr } = await printed("plan", ...args, "--json");
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout);
};

interface Row {
  name: string;
  config: { model_type: string };
  r: number;
  target_modules: string[] | string | null;
  base_parameters: number;
  adapted_modules: number;
  trainable_parameters: number;
}

/** Types whose parameters do not depend on how long a text can be: rotary positions. */
const ROTARY = /^(llama|mistral|mixtral|qwen|gemma|phi3|gpt_neox|idefics)/;

// test/models/parameter-counts.test.ts compares the counts of every row; here, those that the command prints for one model of each type.
describe("lowrank plan CONFIG.json --rank R --target-modules T --json", () => {
  const rows: Row[] = JSON.parse(readFileSync(`${fixtures}/parameter-counts.json`, "utf8"));
  const firsts = new Map(rows.toReversed().map((row) => [row.config.model_type, row]));
  for (const { name, config, ...row } of firsts.values()) {
    it(`has PEFT's counts of ${name}, rank ${row.r}, ${row.target_modules ?? "default targets"}`, async () => {
      const file = path.join(root, `${config.model_type}.json`);
      // Short texts, and one way to execute it: the counts are the same in all, of which each takes seconds to estimate.
      const short = ROTARY.test(config.model_type) && { max_position_embeddings: 128 };
      writeFileSync(file, JSON.stringify({ ...config, ...short }));
      const names = row.target_modules === null ? "default" : [row.target_modules].flat().join(",");
      const adapter = ["--rank", `${row.r}`, "--target-modules", names];
      const plan = await planned(file, ...adapter, "--memory", "keep", "--base-dtype", "float32");
      assert.deepEqual(
        [plan.modules, plan.trainableParameters, plan.baseParameters],
        [row.adapted_modules, row.trainable_parameters, row.base_parameters],
      );
    });
  }
});

describe("a plan", () => {
  it("takes a folder, and the options of a run", async () => {
    const options = ["--rank-pattern", '{"layers.0.self_attn.q_proj": 4}', "--batch-size", "2", "--max-length", "64"];
    const plan = await planned(tiny, "--target-modules", ".*[qv]_proj", "--exclude-modules", "v_proj", ...options);
    assert.deepEqual(
      plan.groups.map(({ name, rank, count, parameters }) => [name, rank, count, parameters]),
      [
        ["model.layers.*.self_attn.q_proj", 4, 1, 512],
        ["model.layers.*.self_attn.q_proj", 8, 1, 1024],
      ],
    );
    assert.equal(plan.trainableParameters, 1536);
    assert.deepEqual([plan.batchSize, plan.maxLength, plan.gradientAccumulation], [2, 64, 1]);
    const at = plan.memoryAt.find(({ batchSize, maxLength }) => batchSize === 2 && maxLength === 64);
    assert.equal(at?.total, plan.memory.total);
  });

  it("estimates the sizes that the run then reports and writes", async () => {
    const [data, output] = [path.join(root, "data.jsonl"), path.join(root, "output")];
    writeFileSync(data, `${JSON.stringify({ text: "name[The Eagle], food[Italian] ".repeat(40) })}\n`.repeat(4));
    const sizes = { batchSize: 2, maxLength: 96, keepCheckpoints: 1, steps: 2, rank: 4, dropout: 0.1 };
    const { steps, ...options } = sizes;
    const json = JSON.parse(readFileSync(`${tiny}/config.json`, "utf8"));
    const plan = await planTraining(json, options, { files: nodeFiles, openSession: openNodeSession });
    for await (const event of finetune(
      { base: tiny, data, output, ...sizes },
      { files: nodeFiles, openSession: openNodeSession },
    )) {
      if (event.type !== "prepared") continue;
      assert.deepEqual(plan.memory, event.memory);
      assert.equal(plan.outputBytes, event.disk);
      assert.deepEqual(
        [plan.modules, plan.trainableParameters, plan.baseParameters],
        [event.modules, event.trainable, event.parameters],
      );
    }
    assert.equal(plan.resultBytes, readFileSync(`${output}/adapter_model.safetensors`).length);
  });

  it("counts what is computed at once of a batch: a larger one takes longer, and no more memory", async () => {
    const [four, many] = [await planned(tiny, "--batch-size", "4"), await planned(tiny, "--batch-size", "64")];
    assert.ok(4 * four.maxLength >= 1024, `${four.maxLength}`);
    assert.equal(many.memory.total, four.memory.total, `${many.memory.total} ${four.memory.total}`);
    assert.equal(many.time.flopsPerStep, 16 * four.time.flopsPerStep);
    const full = await planned(tiny, "--batch-size", "64", "--method", "full");
    assert.ok(full.memory.activations > 8 * four.memory.activations, `${full.memory.activations} ${four.memory.activations}`);
  });

  for (const own of [{ init: "pissa" }, { optimizer: "lorafa" }, { init: "olora", optimizer: "lorafa" }] as const) {
    it(`knows ${Object.values(own).join(" with ")}: what it keeps, trains and writes`, async () => {
      const [data, output] = [path.join(root, "short.jsonl"), path.join(root, Object.values(own).join())];
      writeFileSync(data, `${JSON.stringify({ text: "name[The Eagle], food[Italian] ".repeat(40) })}\n`.repeat(4));
      const options = { ...own, batchSize: 2, maxLength: 96, keepCheckpoints: 1, rank: 4 };
      const json = JSON.parse(readFileSync(`${tiny}/config.json`, "utf8"));
      const host = { files: nodeFiles, openSession: openNodeSession };
      const plan = await planTraining(json, options, host);
      const [prepared] = only(await collect(finetune({ base: tiny, data, output, ...options, steps: 1 }, host)), "prepared");
      assert.deepEqual([plan.memory, plan.outputBytes], [prepared!.memory, prepared!.disk]);
      assert.equal(plan.trainableParameters, prepared!.trainable);
      assert.equal(
        plan.groups.reduce((sum, { parameters }) => sum + parameters, 0),
        prepared!.trainable,
      );
      assert.equal(plan.resultBytes, readFileSync(`${output}/adapter_model.safetensors`).length);
      const without = await planTraining(json, { ...options, init: true, optimizer: "adamw" }, host);
      assert.equal(plan.trainableParameters < without.trainableParameters, "optimizer" in own);
      assert.equal(plan.memory.trained > without.memory.trained, "init" in own);
    });
  }

  it("of all weights has the model's file for its result", async () => {
    const plan = await planned(tiny, "--method", "full");
    assert.equal(plan.modules, null);
    assert.equal(plan.trainableParameters, plan.baseParameters);
    assert.equal(plan.resultBytes, 2 * plan.baseParameters); // bfloat16
    assert.ok(plan.memory.weights === 0 && plan.memory.trained > 16 * plan.baseParameters, JSON.stringify(plan.memory));
  });

  it("grows with the batch, the length, the rank and dropout", async () => {
    const total = async (...args: string[]) =>
      (await planned(tiny, "--batch-size", "2", "--max-length", "64", ...args)).memory.total;
    const small = await total();
    for (const more of ["--batch-size 4", "--max-length 128", "--rank 64", "--dropout 0.1"]) {
      assert.ok((await total(...more.split(" "))) > small, more);
    }
  });

  it("estimates how long a run takes", async () => {
    const { time } = await planned(
      tiny,
      "--examples",
      "100",
      "--epochs",
      "2",
      "--batch-size",
      "8",
      "--gradient-accumulation",
      "2",
    );
    assert.equal(time.steps, 14); // 13 micro-batches, 7 steps, twice
    assert.ok(time.secondsPerStep > 0 && Math.abs(time.seconds! - 14 * time.secondsPerStep) < 1e-9);
    assert.ok(time.flopsPerSecond > 1e8, `${time.flopsPerSecond}`);
    assert.equal((await planned(tiny)).time.seconds, null);
  });

  it("warns where the machine has too little memory", async () => {
    const json = JSON.parse(readFileSync(`${tiny}/config.json`, "utf8"));
    const memoryLimits = () => ({ available: 1e8, total: 1e8 });
    const { warnings, machine } = await planTraining(json, {}, { files: nodeFiles, openSession: openNodeSession, memoryLimits });
    assert.match(warnings.join(), /memory may not suffice/);
    assert.deepEqual(machine, memoryLimits());
  });

  it("is readable", async () => {
    const { stdout } = await printed("plan", tiny, "--examples", "50");
    assert.match(stdout, /106,816 parameters/);
    assert.match(stdout, /16,384 parameters, 15%, in 14 modules/);
    assert.match(stdout, /model\.layers\.\*\.mlp\.down_proj +128 +64 +8 +2 +3,072/);
    assert.match(stdout, /peak memory, batch 4 × 512 tokens.*: about \d+ MB/);
    assert.match(stdout, /tokens +batch 1 +batch 4 +batch 16/);
    assert.match(stdout, /39 steps in at most/);
  });
});

describe("a plan of several processes", () => {
  const args = [tiny, "--batch-size", "8", "--gradient-accumulation", "2", "--max-length", "64"];
  it("shares out the rows of a step, and has the gradient cross the network", async () => {
    assert.equal((await planned(...args)).cluster, null);
    const network = ["--network", "1Gbit", "--latency", "0.1ms"];
    const { cluster, trainableParameters } = await planned(...args, "--processes", "6", "--per-machine", "2", ...network);
    assert.ok(cluster);
    const { processes, perMachine, machines, rows, bytesPerStep } = cluster;
    assert.deepEqual({ processes, perMachine, machines, rows }, { processes: 6, perMachine: 2, machines: 3, rows: 3 });
    assert.deepEqual(cluster.network, { bitsPerSecond: 1e9, latency: 1e-4 });
    assert.equal(bytesPerStep, (10 / 6) * 4 * trainableParameters);
    assert.ok(cluster.exchangeSeconds > bytesPerStep / 125e6);
    assert.equal(cluster.secondsPerStep, cluster.computeSeconds + cluster.exchangeSeconds + cluster.updateSeconds);
  });

  it("needs no network on one machine, and as much memory as its processes", async () => {
    const { cluster, memory } = await planned(...args, "--processes", "2", "--per-machine", "4");
    assert.equal(cluster?.machines, 1);
    assert.equal(cluster?.bytesPerStep, 0);
    assert.ok(Math.abs(cluster!.memoryPerMachine / (2 * memory.total) - 1) < 0.05);
  });

  it("is readable, and warns of processes without a row", async () => {
    const { stdout } = await printed("plan", ...args, "--processes", "20", "--examples", "160");
    assert.match(stdout, /20 processes, 1 on each of 20 machines like this one \(10 Gbit\/s, 0\.05 ms\)/);
    assert.match(stdout, /rows of a process +at most 1 a step/);
    assert.match(stdout, /efficiency +\d+\.\d % of 20 times one machine/);
    assert.match(stdout, /4 processes have no row in a step/);
  });
});

describe("a plan is refused", () => {
  const pasted = path.join(root, "pasted.json");
  writeFileSync(pasted, "{model_type: llama}");
  const cases: [string, string[], string, RegExp][] = [
    ["for a target that matches nothing", [tiny, "--target-modules", "q_proj,k_porj"], "lora/no-match", /k_proj[\s\S]*k_porj/],
    ["for more positions than there are", [tiny, "--max-length", "513"], "train/option", /512/],
    ["for an optimizer that trains factors alone", [tiny, "--method", "full", "--optimizer", "lorafa"], "train/option", /lorafa/],
    ["for a rank that it can't begin with", [tiny, "--init", "pissa", "--rank", "65"], "lora/config", /rank 65/],
    ["for half a row", [tiny, "--batch-size", "1.5"], "train/option", /batchSize[\s\S]*1\.5/],
    ["for half a process", [tiny, "--processes", "1.5"], "train/option", /processes[\s\S]*1\.5/],
    ["for a network without a rate", [tiny, "--processes", "2", "--network", "fast"], "cli/value", /1Gbit/],
    ["for a length without a target", [tiny, "--max-length", "1"], "train/option", /maxLength/],
    ["for an option that makes no difference", [tiny, "--learning-rate", "1"], "cli/usage", /learning-rate/],
    ["for a file that is missing", [path.join(root, "model", "config.json")], "file/missing", /config\.json/],
    ["for a file that is no JSON", [pasted], "json/syntax", /pasted\.json/],
    [
      "for a model on the hub that isn't here",
      ["nobody-here/no-model"],
      "plan/not-here",
      /nobody-here\/no-model[\s\S]*config\.json/,
    ],
    ["for no model", [], "cli/usage", /model/],
  ];
  for (const [what, args, code, text] of cases) {
    it(what, async () => {
      const { status, stdout, stderr } = await printed("plan", ...args, "--json");
      assert.equal(status, 2, stdout);
      const error = JSON.parse(stderr) as LowrankError & { error: string };
      assert.equal(error.error, code, stderr);
      assert.match(JSON.stringify(error), text);
      assert.ok(error.next, "no next step");
    });
  }
});

describe("a plan of a model of another task", () => {
  const cases = `${fixtures}/cases`;
  it("counts the classifier that is trained beside the adapter, and says where one is added", async () => {
    const own = await planned(`${cases}/bert-seqcls/base`, "--target-modules", "query,key,value", "--rank", "4");
    assert.equal(
      own.trainableParameters,
      JSON.parse(readFileSync(`${cases}/bert-seqcls/meta.json`, "utf8")).trainable_parameters,
    );
    assert.deepEqual(own.warnings, []);
    const file = path.join(root, "masked.json");
    const config = JSON.parse(readFileSync(`${cases}/bert-seqcls/base/config.json`, "utf8"));
    writeFileSync(file, JSON.stringify({ ...config, architectures: ["BertForMaskedLM"] }));
    const added = await planned(file, "--target-modules", "query,key,value", "--rank", "4");
    assert.equal(added.trainableParameters, own.trainableParameters - 99);
    assert.match(added.warnings[0]!, /classifier.* 99 parameters/);
  });

  it("takes an image as the tokens that it is cut into", async () => {
    const plan = await planned(`${cases}/vit-imgcls/base`);
    assert.equal(plan.maxLength, 5);
    assert.ok(plan.memoryAt.every(({ maxLength }) => maxLength === 5));
  });
});
