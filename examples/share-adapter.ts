// An adapter that is shared: as llama.cpp and Ollama read it, and as MLX does, back without a loss, and what would go to the hub.
import { rmSync } from "node:fs";
import { convert, finetune, generateText, openGenerator, push } from "lowrank";

const folder = "example-output/share";
const [base, data] = ["embedded", "models/demo/train.jsonl"];
rmSync(folder, { recursive: true, force: true });
const output = `${folder}/adapter`;
for await (const event of finetune({ base, data, output, steps: 20, batchSize: 16, learningRate: 5e-3 })) {
  if (event.type === "step" && event.step % 5 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
}

const forms = { gguf: `${folder}/adapter.gguf`, mlx: `${folder}/mlx` } as const;
for (const [to, file] of Object.entries(forms)) {
  await convert({ input: output, output: file, to: to as keyof typeof forms, base });
  await convert({ input: file, output: `${folder}/back-${to}`, to: "peft", base });
}

const question = [
  { role: "user" as const, content: "Extract the facts as JSON: The Mill is a cheap pub that serves Indian food." },
];
for (const adapter of [output, `${folder}/back-gguf`, `${folder}/back-mlx`]) {
  const generator = await openGenerator(base, { adapter });
  console.log(`${adapter}: ${await generateText(generator, question, { maxNewTokens: 40 })}`);
  await generator.close();
}

// Nothing is sent: what would be, under the name of the base on the hub.
const { files, card } = await push({ folder: output, to: "me/facts", baseModel: "me/embedded", license: "mit", dryRun: true });
console.log(`would push ${files.join(", ")}\n\n${card}`);
