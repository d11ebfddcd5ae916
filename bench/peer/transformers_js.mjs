// The same generation with transformers.js: `transformers_js.mjs MODEL_DIR --packages FOLDER [--dtype fp32] [--threads 2]`. MODEL_DIR has an ONNX
// export in MODEL_DIR/onnx (`optimum-cli export onnx --model M --task text-generation-with-past`); FOLDER the package @huggingface/transformers.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { decodeLine, promptIds } from "./decode-line.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    packages: { type: "string", default: "." },
    dtype: { type: "string", default: "fp32" },
    prompt: { type: "string", default: "64" },
    new: { type: "string", default: "128" },
    threads: { type: "string", default: "2" },
  },
});
const require = createRequire(path.resolve(values.packages, "package.json"));
const { AutoModelForCausalLM, Tensor, env } = await import(pathToFileURL(require.resolve("@huggingface/transformers")).href);
const folder = path.resolve(positionals[0] ?? ".");
Object.assign(env, { allowRemoteModels: false, localModelPath: path.dirname(folder) });
const opening = performance.now();
const threads = Number(values.threads);
const model = await AutoModelForCausalLM.from_pretrained(path.basename(folder), {
  dtype: values.dtype,
  device: "cpu",
  session_options: { intraOpNumThreads: threads, interOpNumThreads: 1 },
});
const openSeconds = (performance.now() - opening) / 1000;

const ids = promptIds(Number(values.prompt));
const tensor = (/** @type {number[]} */ data) => new Tensor("int64", BigInt64Array.from(data.map(BigInt)), [1, data.length]);
const fresh = /** @type {number[]} */ ([]);
const times = [performance.now()];
let atFirst = process.cpuUsage();
const streamer = {
  /** Called with the prompt first, then with each token. */
  put(/** @type {bigint[][]} */ [given = []]) {
    if (given.length > 1) return;
    times.push(performance.now());
    fresh.push(Number(given[0]));
    if (fresh.length === 1) {
      console.log("first step");
      atFirst = process.cpuUsage();
    }
  },
  end() {},
};
const inputs = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
const count = Number(values.new);
await model.generate({ ...inputs, max_new_tokens: count, min_new_tokens: count, do_sample: false, streamer });
const used = process.cpuUsage(atFirst);
console.log(decodeLine("transformers.js", ids.length, fresh, times, openSeconds, used));
process.exit(0);
