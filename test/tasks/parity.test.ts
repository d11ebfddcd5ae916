// Training of other tasks than language modelling from files, step by step beside PEFT: tokens, padding, images, heads, loss, AdamW (scripts/reference/tasks.py).
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { finetune } from "../../src/index.ts";
import { taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixtures = "test/fixtures";
const reference = JSON.parse(readFileSync(`${fixtures}/tasks/expected.json`, "utf8"));
const { learning_rate: learningRate, weight_decay: weightDecay, max_grad_norm: maxGradNorm, steps } = reference.training;

describe("finetune has the losses of PEFT with Transformers, going on with an adapter of theirs", () => {
  // All 12 records a step, whose order then says nothing; of classifiers also as 5, 5 and 2, which is the mean over the 12.
  for (const [name, data, adapter, batchSize] of [
    ["bert", "texts", "bert-seqcls", 12],
    ["bert", "texts", "bert-seqcls", 5],
    ["vit", "images", "vit-imgcls", 12],
    ["vit", "images", "vit-imgcls", 5],
    ["clip", "pairs", "clip-contrastive", 12],
  ] as const) {
    it(`${name}, ${data} from files, ${batchSize} at once`, async (t) => {
      const folder = temporaryFolder(t);
      const events = finetune({
        base: await taskBase(folder, name),
        data: `${fixtures}/tasks/${data}.jsonl`,
        adapter: `${fixtures}/cases/${adapter}/adapter`,
        output: `${folder}/out`,
        ...{ steps, learningRate, weightDecay, maxGradNorm, schedule: "constant", warmup: 0 },
        batchSize,
        gradientAccumulation: Math.ceil(12 / batchSize),
        threads: 1,
      });
      const losses: number[] = [];
      for await (const event of events) if (event.type === "step") losses.push(event.loss);
      const { losses: expected } = reference[name] as { losses: number[] };
      assert.equal(losses.length, expected.length);
      const apart = losses.map((loss, step) => Math.abs(loss / expected[step]! - 1));
      assert.ok(Math.max(...apart) < 1e-4, `${losses}, expected ${expected}`);
      assert.ok(Math.abs(expected.at(-1)! / expected[0]! - 1) > 0.05, "the losses hardly change");
    });
  }
});
