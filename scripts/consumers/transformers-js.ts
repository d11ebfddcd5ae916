// transformers.js: transformers-js.ts MODULE FOLDER DTYPE REQUEST OUT. REQUEST and OUT are those of llama.ts; greedy texts are compared too.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { logSoftmax, type Request } from "./cases.ts";

const [module, folder, dtype, request, out] = process.argv.slice(2) as [string, string, string, string, string];
const { env, AutoTokenizer, AutoModelForCausalLM, Tensor } = await import(
  pathToFileURL(path.join(module, "dist/transformers.node.mjs")).href
);
env.allowRemoteModels = false;
env.localModelPath = `${path.dirname(path.resolve(folder))}/`;
const name = path.basename(folder);
const { sequences, texts }: Request = JSON.parse(readFileSync(request, "utf8"));
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForCausalLM.from_pretrained(name, { dtype });
const feeds = (ids: number[]) => {
  const row = (values: number[]) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
  return { input_ids: row(ids), attention_mask: row(ids.map(() => 1)) };
};
const rows: Float32Array[] = [];
let greedy = 0;
for (const { ids, asked } of sequences) {
  const { logits } = await model(feeds(ids));
  const width = logits.dims[2];
  for (let i = ids.length - asked; i < ids.length; i++) rows.push(logSoftmax(logits.data.slice(i * width, (i + 1) * width)));
  const made = await model.generate({
    ...feeds(ids.slice(0, ids.length - asked + 1)),
    max_new_tokens: asked - 1,
    do_sample: false,
    eos_token_id: -1,
  });
  if (Array.from(made.data, Number).join() === ids.join()) greedy++;
}
const logs = new Float32Array(rows.length * rows[0]!.length);
for (const [i, row] of rows.entries()) logs.set(row, i * row.length);
writeFileSync(out, new Uint8Array(logs.buffer));
const { version } = JSON.parse(readFileSync(path.join(module, "package.json"), "utf8"));
const ids = texts.map((text) => tokenizer.encode(text));
console.log(JSON.stringify({ version: `transformers.js ${version}`, ids, greedy: `${greedy} of ${sequences.length} texts` }));
