// npm run demo: trains an adapter on the tiny checkpoint of the tests, generates with and without it, merges it, and compares the numbers.
import { readFileSync, rmSync } from "node:fs";
import { evaluate, finetune, generateText, inspectAdapter, mergeAdapter, openGenerator } from "../src/index.ts";

const base = "test/fixtures/tiny-llama";
const data = "test/fixtures/tiny-e2e/train.jsonl";
const evalData = "test/fixtures/tiny-e2e/eval.jsonl";
const output = "demo-output";
const adapter = `${output}/adapter`;
const merged = `${output}/merged`;
rmSync(output, { recursive: true, force: true });

console.log(`Training an adapter for ${base} on ${data}`);
const began = performance.now();
for await (const event of finetune({ base, data, evalData, output: adapter, epochs: 4, batchSize: 16, learningRate: 5e-3 })) {
  if (event.type === "prepared")
    console.log(`  ${event.trainable} of ${event.parameters} parameters, ${event.train.count} examples`);
  if (event.type === "step" && event.step % 25 === 0) {
    console.log(`  step ${event.step}: loss ${event.loss.toFixed(4)}, ${Math.round(event.tokensPerSecond)} tokens/s`);
  }
}
const { normDelta, modules } = await inspectAdapter(adapter, { base });
const seconds = ((performance.now() - began) / 1000).toFixed(1);
console.log(`  ${modules.length} modules adapted, norm of the update ${normDelta.toFixed(3)}, ${seconds} seconds`);

const [row] = readFileSync(evalData, "utf8").split("\n");
const { prompt, completion } = JSON.parse(row!) as { prompt: string; completion: string };
console.log(`\nPrompt:       ${prompt.trim()}\nReference:    ${completion}`);
const options = { maxNewTokens: 60 };
const generator = await openGenerator(base, { adapter });
const adapted = await generateText(generator, prompt, options);
await generator.useAdapter(null);
console.log(`Base:         ${JSON.stringify(await generateText(generator, prompt, options))}`);
console.log(`With adapter: ${JSON.stringify(adapted)}`);
await generator.close();

await mergeAdapter({ base, adapter, output: merged });
const mergedGenerator = await openGenerator(merged);
console.log(`Merged:       ${JSON.stringify(await generateText(mergedGenerator, prompt, options))}`);
await mergedGenerator.close();

const before = await evaluate({ base, data: evalData, adapter });
const after = await evaluate({ base: merged, data: evalData });
console.log(
  `\nLoss on ${before.data.count} unseen rows: base ${before.base.loss.toFixed(4)}, with adapter ${before.adapter!.loss.toFixed(4)}, merged ${after.base.loss.toFixed(4)}`,
);
console.log(`The adapter is in ${adapter}, the merged model in ${merged}.`);
if (!(before.adapter!.loss < before.base.loss && Math.abs(after.base.loss - before.adapter!.loss) < 0.02)) {
  throw new Error("the adapter did not help, or merging changed it");
}
