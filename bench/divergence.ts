// How far the next token's probabilities move when the base is kept in fewer bits: the mean divergence from float32 (KL, in nats) over the
// first tokens of texts. `divergence.ts MODEL_DIR [--base-dtype int8] [--data FILE] [--texts 20] [--tokens 32]`.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { logSoftmax } from "../src/commands/certify/behaviour.ts";
import { openDecoder } from "../src/generate/decoder.ts";
import type { BaseDtype } from "../src/graph/pack.ts";
import { loadBase } from "../src/models/base.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { openNodeSession } from "../src/platform/node/session.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    "base-dtype": { type: "string", default: "int8" },
    data: { type: "string", default: "models/demo/test.jsonl" },
    texts: { type: "string", default: "20" },
    tokens: { type: "string", default: "32" },
  },
});
const base = await loadBase(nodeFiles, positionals[0]!);
const tokenizer = await base.tokenizer();
const count = Number(values.tokens);
const records = readFileSync(values.data, "utf8").trim().split("\n").slice(0, Number(values.texts));
const prompts = records.map((line) => {
  const { messages } = JSON.parse(line) as { messages: { content: string }[] };
  return Int32Array.from(tokenizer.encode(messages[0]!.content).slice(0, count));
});

/** The logarithms of the next token's probabilities behind each prompt. */
async function logProbabilities(baseDtype: BaseDtype): Promise<Float64Array[]> {
  const decoder = await openDecoder({ ...base, openSession: openNodeSession, baseDtype });
  const found: Float64Array[] = [];
  for (const ids of prompts) {
    const [width, positionIds] = [ids.length, Int32Array.from(ids.keys())];
    const logits = await decoder.start({ rows: 1, width, ids, positionIds, attentionMask: new Int32Array(width).fill(1) });
    await decoder.end();
    found.push(logSoftmax(logits));
  }
  await decoder.close();
  return found;
}

const exact = await logProbabilities("float32");
const rounded = await logProbabilities(values["base-dtype"] as BaseDtype);
const divergences = exact.map((p, i) => p.reduce((sum, log, word) => sum + Math.exp(log) * (log - rounded[i]![word]!), 0));
const [mean, most] = [divergences.reduce((a, b) => a + b, 0) / divergences.length, Math.max(...divergences)];
console.log(JSON.stringify({ baseDtype: values["base-dtype"], texts: prompts.length, mean, most }));
