// Two adapters, one base in memory: trained one after another, then swapped between two answers without opening the base again.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { finetune, generateText, loadAdapter, openGenerator } from "lowrank";

const folder = "example-output/swap";
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const places = ["The Blue Door", "The Punter", "Green Man", "Cotto", "The Mill", "Zizzi", "The Vaults", "Strada"];
const styles: Record<string, (place: string) => string> = {
  polite: (place) => `Thank you for asking. I would recommend ${place}.`,
  brief: (place) => `${place}.`,
};

const base = "embedded";
for (const [style, say] of Object.entries(styles)) {
  const lines = places.map((place) => ({
    messages: [
      { role: "user", content: `Where should I eat near ${place}?` },
      { role: "assistant", content: say(place) },
    ],
  }));
  const data = `${folder}/${style}.jsonl`;
  writeFileSync(data, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const options = { base, data, output: `${folder}/${style}`, steps: 40, batchSize: 8, learningRate: 4e-3 };
  for await (const event of finetune(options)) if (event.type === "done") console.log(`${style}: trained in ${event.folder}`);
}

const generator = await openGenerator(base);
const question = [{ role: "user", content: "Where should I eat near The Waterman?" }];
for (const style of [null, ...Object.keys(styles)]) {
  await generator.useAdapter(style === null ? null : await loadAdapter(`${folder}/${style}`));
  console.log(`${style ?? "base"}: ${await generateText(generator, question, { maxNewTokens: 30 })}`);
}
await generator.close();
