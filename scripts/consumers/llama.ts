// llama.cpp through node-llama-cpp: llama.ts MODULE MODEL.gguf ADAPTER.gguf|- REQUEST OUT. REQUEST is JSON: sequences of token ids, and
// how many of the last are asked for; OUT gets the log probabilities of the token behind each, float32 [asked, vocabulary]. Prints JSON.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { Request } from "./cases.ts";

const [folder, modelPath, adapter, request, out] = process.argv.slice(2) as [string, string, string, string, string];
const { getLlama } = await import(pathToFileURL(path.join(folder, "dist/index.js")).href);
const { sequences, texts }: Request = JSON.parse(readFileSync(request, "utf8"));
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  contextSize: 256,
  batchSize: 256,
  flashAttention: false,
  experimentalKvCacheKeyType: "F32",
  experimentalKvCacheValueType: "F32",
  ...(adapter !== "-" && { lora: { adapters: [{ filePath: adapter, scale: 1 }] } }),
});
const sequence = context.getSequence();
const generateNext = { probabilities: true, token: true, options: { temperature: 1, topK: 0, topP: 1, minP: 0 } };
const rows: Map<number, number>[] = [];
for (const { ids, asked } of sequences) {
  await sequence.clearHistory();
  const items = ids.map((id, i) => (i < ids.length - asked ? id : [id, { generateNext }]));
  for (const result of await sequence.controlledEvaluate(items)) if (result) rows.push(result.next.probabilities);
}
const width = Math.max(...rows.map((row) => row.size));
const logs = new Float32Array(rows.length * width).fill(Number.NEGATIVE_INFINITY);
for (const [i, row] of rows.entries()) for (const [token, p] of row) logs[i * width + token] = Math.log(p);
writeFileSync(out, new Uint8Array(logs.buffer));
const { version } = JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8"));
const release = llama.llamaCppRelease.release;
const ids = texts.map((text) => model.tokenize(text, true));
console.log(JSON.stringify({ version: `node-llama-cpp ${version} (llama.cpp ${release})`, ids }));
process.exit(0);
