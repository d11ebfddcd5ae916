// Two adapters made one that does both tasks, and that one cut to the ranks it needs.
import { rmSync } from "node:fs";
import { combineAdapters, evaluate, finetune, inspectAdapter, resizeAdapter } from "lowrank";

const folder = "example-output/combine";
rmSync(folder, { recursive: true, force: true });
const base = "embedded";
const tasks = {
  facts: { data: "models/demo/train.jsonl", test: "models/demo/test.jsonl" },
  shop: { data: "examples/shop.csv", test: "examples/shop-test.csv" },
};
for (const [name, { data }] of Object.entries(tasks)) {
  const options = { base, data, output: `${folder}/${name}`, steps: 40, batchSize: 12, learningRate: 3e-3 };
  for await (const event of finetune(options)) if (event.type === "done") console.log(`${name}: trained in ${event.folder}`);
}

const adapters = Object.keys(tasks).map((name) => `${folder}/${name}`);
const [both, small] = [`${folder}/both`, `${folder}/small`];
await combineAdapters({ adapters, combinationType: "cat", output: both });
const { error } = await resizeAdapter({ adapter: both, energy: 0.99, output: small });
console.log(`resized at a relative error of ${error.toFixed(3)}`);

for (const adapter of [...adapters, both, small]) {
  const { parameters } = await inspectAdapter(adapter);
  const losses = [];
  for (const { test } of Object.values(tasks)) {
    const { base: before, adapter: after } = await evaluate({ base, adapter, data: test, batchSize: 12 });
    losses.push(`${before.loss.toFixed(2)} → ${after!.loss.toFixed(2)}`);
  }
  console.log(`${adapter}: ${parameters} parameters, held-out losses ${losses.join(", ")}`);
}
