// Two adapters, one base in memory: trained one after another, swapped between two answers without opening the base again, and used
// at once, in two rows of one batch.
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

// Both at once: each row of a batch has the adapter that its weights name.
const [polite, brief] = [await loadAdapter(`${folder}/polite`), await loadAdapter(`${folder}/brief`)];
await generator.useAdapters({ polite, brief });
const options = { maxNewTokens: 30, adapterWeights: [{ polite: 1 }, { brief: 1 }] };
for await (const event of generator.generate([question, question], options)) {
  if (event.type === "done") console.log(`row ${event.row}: ${event.text}`);
}
await generator.close();
