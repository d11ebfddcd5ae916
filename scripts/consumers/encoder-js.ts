// An encoder in transformers.js: encoder-js.ts MODULE FOLDER DTYPE CLASS OUTPUT. Prints JSON: what it was fed, and the output.
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { Encoded } from "./encoders.ts";

const [module, folder, dtype, className, output] = process.argv.slice(2) as [string, string, string, string, string];
const library = await import(pathToFileURL(path.join(module, "dist/transformers.node.mjs")).href);
const { env, AutoTokenizer, Tensor } = library;
env.allowRemoteModels = false;
env.localModelPath = `${path.dirname(path.resolve(folder))}/`;
const name = path.basename(folder);
const model = await library[className].from_pretrained(name, { dtype });
let feeds: Record<string, { dims: number[]; data: ArrayLike<number | bigint> }>;
if (existsSync(`${folder}/tokenizer.json`)) {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  feeds = { ...tokenizer(["a long text of some words", "a short one"], { padding: true }) };
  const { dims, data } = feeds["input_ids"]!;
  feeds["token_type_ids"] ??= new Tensor("int64", new BigInt64Array(data.length), dims);
} else {
  const dims = [2, 3, 16, 16];
  const pixels = Float32Array.from({ length: dims.reduce((a, b) => a * b) }, (_, i) => Math.sin(i));
  feeds = { pixel_values: new Tensor("float32", pixels, dims) };
}
const { dims, data } = (await model(feeds))[output];
const { version } = JSON.parse(readFileSync(path.join(module, "package.json"), "utf8"));
const plain = (tensor: { dims: number[]; data: ArrayLike<number | bigint> }) => ({
  dims: tensor.dims,
  data: Array.from(tensor.data, Number),
});
const answer: Encoded = {
  version: `transformers.js ${version}`,
  feeds: Object.fromEntries(Object.entries(feeds).map(([key, tensor]) => [key, plain(tensor)])),
  output: plain({ dims, data }),
};
console.log(JSON.stringify(answer));
