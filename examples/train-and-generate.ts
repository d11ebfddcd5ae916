import { finetune, generateText, openGenerator } from "lowrank";

const [base = "test/fixtures/tiny-llama", data = "test/fixtures/tiny-e2e/train.jsonl", output = "demo-output/example"] =
  process.argv.slice(2);

for await (const event of finetune({ base, data, output, steps: 50, batchSize: 16, learningRate: 5e-3 })) {
  if (event.type === "step" && event.step % 10 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
}

const generator = await openGenerator(base, { adapter: output });
console.log(await generateText(generator, "name[The Eagle], food[Italian], area[riverside]\n", { maxNewTokens: 50 }));
await generator.close();
