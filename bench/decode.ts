// Greedy generation here: a line when the first token is there, and one of JSON at the end. `decode.ts MODEL_DIR [--prompt 64] [--new 128] [--threads 2]
// [--base-dtype float32|bfloat16|int8|int4]`.
// Tokens a second are those after the first one, which the prompt's time belongs to; nothing ends the text early.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { openDecoder } from "../src/generate/decoder.ts";
import { generate } from "../src/generate/generate.ts";
import type { BaseDtype } from "../src/graph/pack.ts";
import { loadBase } from "../src/models/base.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { openNodeSession } from "../src/platform/node/session.ts";
import { decodeLine, promptIds } from "./peer/decode-line.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prompt: { type: "string", default: "64" },
    new: { type: "string", default: "128" },
    threads: { type: "string", default: String(availableParallelism()) },
    "base-dtype": { type: "string", default: "float32" },
  },
});
const opening = performance.now();
const base = await loadBase(nodeFiles, positionals[0]!);
const baseDtype = values["base-dtype"] as BaseDtype;
const decoder = await openDecoder({ ...base, openSession: openNodeSession, threads: Number(values.threads), baseDtype });
const openSeconds = (performance.now() - opening) / 1000;

const ids: number[] = [];
const times = [performance.now()];
let atFirst = process.cpuUsage();
const prompt = Int32Array.from(promptIds(Number(values.prompt)));
for await (const event of generate(decoder, await base.tokenizer(), [prompt], { maxNewTokens: Number(values.new), eosIds: [] })) {
  if (event.type !== "token") continue;
  times.push(performance.now());
  ids.push(event.token);
  if (ids.length === 1) {
    console.log("first step");
    atFirst = process.cpuUsage();
  }
}
const used = process.cpuUsage(atFirst);
await decoder.close();
console.log(decodeLine("lowrank", prompt.length, ids, times, openSeconds, used));
