// A CSV of your own: look at it, train on it, and count how many held-out answers are exactly right.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { answers, finetune, preview } from "lowrank";

const folder = "example-output/own-csv";
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

/** Messages to a shop, and where each belongs: made from a few words here, so that the example needs no download. */
const orders = ["blue lamp", "oak table", "wool rug", "desk fan", "glass vase", "iron shelf", "green chair", "silk curtain"];
const kinds: Record<string, (thing: string) => string[]> = {
  refund: (thing) => [`I want my money back for the ${thing}.`, `Please refund the ${thing}, it is not for me.`],
  delivery: (thing) => [`Where is my ${thing}? It should be here.`, `The ${thing} has not arrived yet.`],
  broken: (thing) => [`The ${thing} came with a crack in it.`, `My ${thing} stopped working after a day.`],
};
const rows = orders.flatMap((thing) =>
  Object.entries(kinds).flatMap(([label, say]) => say(thing).map((text) => ({ thing, line: `"Sort this: ${text}","${label}"` }))),
);
const held = new Set(orders.slice(-2));
const file = (name: string, test: boolean) => {
  const lines = rows.filter(({ thing }) => held.has(thing) === test).map(({ line }) => line);
  writeFileSync(`${folder}/${name}.csv`, ["prompt,completion", ...lines, ""].join("\n"));
  return `${folder}/${name}.csv`;
};
const [data, test] = [file("train", false), file("test", true)];

const base = "embedded";
const { train, warnings } = await preview({ base, data, evalData: test });
console.log(`${train.records} records, longest ${train.lengths?.longest} tokens, ${warnings.length} warnings`);

const output = `${folder}/adapter`;
const options = { base, data, output, steps: 60, batchSize: 12, learningRate: 4e-3 };
for await (const event of finetune(options)) {
  if (event.type === "step" && event.step % 20 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
}
for await (const event of answers({ base, adapter: output, data: test, batchSize: 12 })) {
  if (event.type === "answer") console.log(`${event.expected}  |  ${event.base.trim().slice(0, 30)}  |  ${event.adapter}`);
  else console.log(`exactly right: ${event.base} of ${event.count} before, ${event.adapter} after`);
}
