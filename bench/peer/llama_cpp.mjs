// The same generation with llama.cpp: `llama_cpp.mjs FILE.gguf --packages FOLDER [--threads 2]`. FOLDER has the package node-llama-cpp.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { decodeLine, promptIds } from "./decode-line.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    packages: { type: "string", default: "." },
    prompt: { type: "string", default: "64" },
    new: { type: "string", default: "128" },
    threads: { type: "string", default: "2" },
  },
});
const require = createRequire(path.resolve(values.packages, "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const opening = performance.now();
const threads = Number(values.threads);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, maxThreads: threads });
const model = await llama.loadModel({ modelPath: path.resolve(positionals[0] ?? "") });
const context = await model.createContext({ contextSize: 512, threads: { ideal: threads, min: threads } });
const sequence = context.getSequence();
const openSeconds = (performance.now() - opening) / 1000;

const prompt = promptIds(Number(values.prompt));
const fresh = /** @type {number[]} */ ([]);
const times = [performance.now()];
let atFirst = process.cpuUsage();
for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
  times.push(performance.now());
  fresh.push(Number(token));
  if (fresh.length === 1) {
    console.log("first step");
    atFirst = process.cpuUsage();
  }
  if (fresh.length === Number(values.new)) break;
}
const used = process.cpuUsage(atFirst);
console.log(decodeLine("llama.cpp", prompt.length, fresh, times, openSeconds, used));
process.exit(0);
