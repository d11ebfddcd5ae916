import { finetune, generateText, openGenerator } from "lowrank";

const [base = "embedded", data = "models/demo/train.jsonl", output = "example-output/facts"] = process.argv.slice(2);

for await (const event of finetune({ base, data, output, steps: 60, batchSize: 16, learningRate: 5e-3 })) {
  if (event.type === "step" && event.step % 10 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
}

const generator = await openGenerator(base, { adapter: output });
const question = "Extract the facts as JSON: The Wrestlers is a cheap pub by the river that serves Indian food.";
console.log(await generateText(generator, [{ role: "user", content: question }], { maxNewTokens: 80 }));
await generator.close();
