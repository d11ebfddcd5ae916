// Preference training from files to adapters and models: it learns, its reference is the base, it resumes bit for bit, its refusals.
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it, test } from "node:test";
import { planTraining } from "../../src/commands/plan/plan.ts";
import type { Collator } from "../../src/data/collate.ts";
import { evaluate, type FinetuneEvent, type FinetuneOptions, finetune, loadAdapter } from "../../src/index.ts";
import { nodePlatform } from "../../src/node.ts";
import { preference } from "../../src/tasks/preference/index.ts";
import type { Start } from "../../src/tasks/task.ts";
import { collect, near, only, refused } from "../helpers/assert.ts";
import { printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { jsonl } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const root = temporaryFolder();
const threads = 1;

const answers = ["Paris is big.", "Rome is old.", "It rains.", "The sun is hot."];
const pairs = Array.from({ length: 16 }, (_, i) => ({
  prompt: `Question ${i}: ${["France", "Italy", "rain", "sun"][i % 4]}\nAnswer:`,
  chosen: ` ${answers[i % 4]}`,
  rejected: ` ${[...answers[(i + 1) % 4]!].reverse().join("")}`,
}));
const data = await jsonl(root, "pairs.jsonl", pairs);
const evalData = await jsonl(root, "held.jsonl", pairs.slice(0, 6));

let folders = 0;
const common = () => ({ base, data, task: "preference" as const, output: `${root}/run-${folders++}`, threads });
const run = (options: FinetuneOptions): Promise<FinetuneEvent[]> => collect(finetune(options));
const weightsOf = (folder: string): Buffer => readFileSync(`${folder}/adapter_model.safetensors`);
const preferred = async (options: object) => {
  const found = await evaluate({ base, data, threads, task: "preference", ...options });
  return { base: found.base!, adapter: found.adapter! };
};

describe("a run on pairs", async () => {
  const options = { ...common(), evalData, steps: 12, batchSize: 8, learningRate: 3e-3, evalEvery: 6, samples: 1 };
  const events = await run(options);

  it("begins at log 2, with no reward of either answer, and learns what is preferred", async () => {
    const losses = only(events, "step").map(({ loss }) => loss);
    near(losses[0]!, Math.LN2, 1e-6);
    assert.ok(losses.at(-1)! < 0.3, losses.join(" "));
    const { base: before, adapter } = await preferred({ adapter: options.output, data: evalData });
    near([before.loss, before.accuracy, before.margin, before.chosenReward], [Math.LN2, 0, 0, 0], 1e-6);
    assert.equal(adapter.accuracy, 1);
    near(adapter.margin, adapter.chosenReward - adapter.rejectedReward, 1e-5);
    near(adapter.chosenReward, 0.1 * (adapter.chosenLogp - before.chosenLogp), 1e-4);
    near(adapter.rejectedReward, 0.1 * (adapter.rejectedLogp - before.rejectedLogp), 1e-4);
    const last = only(events, "eval").at(-1)!;
    near(last.loss, adapter.loss, 1e-5);
    const { margin, accuracy } = last as unknown as typeof adapter;
    near([margin, accuracy], [adapter.margin, 1], 1e-4);
  });

  it("shows what is written after the prompt, beside the chosen answer", () => {
    const { samples } = only(events, "samples").at(-1)!;
    assert.deepEqual([samples[0]!.prompt, samples[0]!.expected], [pairs[0]!.prompt, pairs[0]!.chosen]);
  });

  it("is written as an adapter of a language model", async () => {
    const { config } = await loadAdapter(options.output);
    assert.equal(config.taskType, "CAUSAL_LM");
  });

  it("goes on with its adapter against the base without it", async () => {
    const before = await preferred({ adapter: options.output });
    const more = await run({ ...common(), adapter: options.output, steps: 1, batchSize: 16 });
    near(only(more, "step")[0]!.loss, before.adapter.loss, 1e-5);
    assert.ok(before.adapter.loss < 0.5);
  });
});

test("a run that is stopped and resumed ends with the bits of one that is not; another loss is another run", async () => {
  const options = { ...common(), epochs: 3, batchSize: 3, dropout: 0.2, checkpointEvery: 4, beta: 0.2, labelSmoothing: 0.1 };
  await run(options);
  const stopped = { ...options, output: `${root}/run-${folders++}` };
  const controller = new AbortController();
  for await (const event of finetune({ ...stopped, signal: controller.signal }))
    if (event.type === "step" && event.step === 7) controller.abort();
  const other = await refused(run({ output: stopped.output, resume: true, beta: 0.3 }));
  assert.equal(other.code, "train/resume-mismatch");
  const rest = await run({ output: stopped.output, resume: true });
  assert.ok(only(rest, "step")[0]!.step > 7);
  assert.deepEqual(weightsOf(stopped.output), weightsOf(options.output));
});

test("the reference is computed before the first step, once, however long the run is", async (t) => {
  const prepare = preference.prepare!;
  let seen = 0;
  t.mock.method(preference as Required<typeof preference>, "prepare", (collator: Collator, start: Start) => {
    const counted: Start["run"] = async function* (batches) {
      for await (const results of start.run(batches)) {
        seen += results["logps"]!.data.length / 2;
        yield results;
      }
    };
    return prepare(collator, { ...start, run: counted });
  });
  await run({ ...common(), evalData, steps: 9, batchSize: 4, evalEvery: 3 });
  assert.equal(seen, 16 + 6);
});

test("every weight can be trained, against the first values", async () => {
  const options = { ...common(), method: "full" as const, steps: 6, batchSize: 16, learningRate: 1e-3 };
  const losses = only(await run(options), "step").map(({ loss }) => loss);
  near(losses[0]!, Math.LN2, 1e-6);
  assert.ok(losses.at(-1)! < 0.4, losses.join(" "));
});

test("IPO holds the margin at 1 / 2β", async () => {
  const options = { ...common(), steps: 1, batchSize: 16, preferenceLoss: "ipo" as const, beta: 0.5 };
  near(only(await run(options), "step")[0]!.loss, 1, 1e-6);
});

test("a plan counts two rows a pair", async () => {
  const config = JSON.parse(readFileSync(`${base}/config.json`, "utf8"));
  const planned = (task: "preference" | "causal-lm", batchSize: number) =>
    planTraining(config, { task, batchSize, maxLength: 64, examples: 100 }, nodePlatform);
  const [pairwise, alone] = [await planned("preference", 2), await planned("causal-lm", 4)];
  assert.equal(pairwise.memory.weights, alone.memory.weights);
  near(pairwise.memory.activations, alone.memory.activations, { rtol: 0.02 });
  near(pairwise.time.flopsPerStep, alone.time.flopsPerStep, { rtol: 0.02 });
});

test("options out of range, and those of other tasks, are refused before anything is read", async () => {
  const refuses = async (change: object, subject: string) => {
    const error = await refused(run({ ...common(), steps: 1, ...change }));
    assert.deepEqual([error.code, error.subject], ["train/option", subject], error.describe());
  };
  await refuses({ beta: -1 }, "beta");
  await refuses({ labelSmoothing: 0.7 }, "labelSmoothing");
  await refuses({ preferenceLoss: "ipo", labelSmoothing: 0.1 }, "labelSmoothing");
  await refuses({ packing: true }, "packing");
  await refuses({ trainOn: "all" }, "trainOn");
  const error = await refused(run({ ...common(), task: "causal-lm", chosenColumn: "good", steps: 1 }));
  assert.deepEqual([error.code, error.subject], ["data/columns", "chosenColumn"]);
});

test("columns that were named in training are those of an evaluation; the command line prints every measure", async () => {
  const named = await jsonl(
    root,
    "named.jsonl",
    pairs.map(({ prompt, chosen, rejected }) => ({ ask: prompt, good: chosen, bad: rejected })),
  );
  const columns = { promptColumn: "ask", chosenColumn: "good", rejectedColumn: "bad" };
  const options = { ...common(), data: named, steps: 2, ...columns };
  await run(options);
  const from = ["--base", base, "--data", named, "--adapter", options.output, "--task", "preference", "--threads", "1"];
  const { status, stdout, stderr } = await printed("eval", ...from);
  assert.equal(status, 0, stderr);
  assert.match(stdout, /loss +accuracy +margin +chosen reward +rejected reward +chosen log p +rejected log p/);
  assert.match(stdout, /base +0\.6931 +0\.0 % +0\.0000 +0\.0000 +0\.0000 /);
});
