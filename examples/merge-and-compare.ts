// An adapter merged into its base: a model that needs no adapter, and scores as base and adapter did together.
import { rmSync } from "node:fs";
import { evaluate, finetune, mergeAdapter } from "lowrank";

const folder = "example-output/merge";
const [base, data, test] = ["embedded", "models/demo/train.jsonl", "models/demo/test.jsonl"];
rmSync(folder, { recursive: true, force: true });
const output = `${folder}/adapter`;
for await (const event of finetune({ base, data, output, steps: 20, batchSize: 16, learningRate: 3e-3 })) {
  if (event.type === "step" && event.step % 5 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
}

await mergeAdapter({ base, adapter: output, output: `${folder}/merged` });
const before = await evaluate({ base, adapter: output, data: test, batchSize: 16 });
const after = await evaluate({ base: `${folder}/merged`, data: test, batchSize: 16 });
console.log(`held-out loss: base ${before.base.loss.toFixed(4)}, with adapter ${before.adapter!.loss.toFixed(4)}`);
console.log(`               merged ${after.base.loss.toFixed(4)} (its weights are rounded to the base's 16 bits)`);
