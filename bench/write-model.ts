// node scripts/run.mjs bench/write-model.ts FOLDER --shape 1b [--layers N]: a checkpoint in the shape of a known model, with random weights.
// Written as it is made, a few megabytes in memory. Deviations follow GPT-2 (Radford et al. 2019, 2.3): outputs to the residual stream
// are smaller by sqrt(2 · layers), so that activations stay of order 1 at any depth.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { isProgram } from "../scripts/compile.mjs";
import { encodeIndex, splitIntoShards } from "../src/adapters/merge.ts";
import { INDEX_NAME } from "../src/formats/checkpoint.ts";
import { bytesOf } from "../src/formats/dtypes.ts";
import { float32ToBfloat16 } from "../src/formats/float.ts";
import { writeSafetensors } from "../src/formats/safetensors.ts";
import { nodesOf } from "../src/graph/graph.ts";
import { forwardGraph, modelConfig } from "../src/models/registry.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { normal, purpose } from "../src/random.ts";
import { sizeOf } from "../src/tensor.ts";
import { bytes, grouped } from "../src/units.ts";
import { isShape, type ShapeName, shapes } from "./shapes.ts";

const MAX_SHARD_BYTES = 4_000_000_000;
const BYTES = 2; // of a bfloat16

/** Random numbers that all weights are read from, each weight from another place on. A prime: rows repeat in no column. */
const POOL = 1_048_573;

interface Weight {
  name: string;
  shape: number[];
  /** In bytes. */
  length: number;
}

/** Every weight of the model, in the order of the forward pass. */
function weightsOf(config: Record<string, unknown>): Weight[] {
  const weights = nodesOf(forwardGraph(modelConfig(config))).filter(({ op }) => op === "weight");
  return weights.map(({ attributes }) => {
    const [name, shape] = [String(attributes["name"]), attributes["shape"] as number[]];
    return { name, shape, length: BYTES * sizeOf(shape) };
  });
}

/**
 * Standard deviation of a matrix [out, in]. The embedding's (a tied one is the output layer too) gives logits of deviation 0.5: a loss
 * near ln(vocabulary).
 */
function deviationOf(name: string, columns: number, layers: number): number {
  const usual = 1 / Math.sqrt(columns);
  if (/(embed_tokens|lm_head)\.weight$/.test(name)) return 0.5 * usual;
  return /\.(o_proj|down_proj)\.weight$/.test(name) ? usual / Math.sqrt(2 * layers) : usual;
}

/** Gives the bytes of the model's weights; memory is one pool for each deviation. */
function weightBytes(layers: number, seed: number) {
  const standard = normal(seed, [purpose.weights], POOL);
  const pools = new Map<number, Uint8Array>();
  const poolOf = (deviation: number): Uint8Array => {
    const pool = pools.get(deviation) ?? bytesOf(float32ToBfloat16(standard.map((value) => value * deviation)));
    pools.set(deviation, pool);
    return pool;
  };
  return async function* ({ name, shape, length }: Weight, index: number): AsyncGenerator<Uint8Array> {
    const [columns] = shape.slice(-1);
    if (shape.length === 1) {
      yield bytesOf(float32ToBfloat16(new Float32Array(columns!).fill(name.endsWith(".bias") ? 0 : 1)));
      return;
    }
    const pool = poolOf(deviationOf(name, columns!, layers));
    // 7919 · 131 is far from the pool's length: neighbours in the list begin far apart
    for (let done = 0, at = ((index * 7919 * 131) % POOL) * BYTES; done < length; at = 0) {
      const part = pool.subarray(at, Math.min(pool.length, at + length - done));
      yield part;
      done += part.length;
    }
  };
}

/** The tokenizer of the embedded model, whose vocabulary is smaller than any of the shapes'. */
function writeTokenizer(folder: string, positions: number): void {
  const embedded = fileURLToPath(new URL("../models/embedded", import.meta.url));
  writeFileSync(`${folder}/tokenizer.json`, readFileSync(`${embedded}/tokenizer.json`));
  const config = { ...JSON.parse(readFileSync(`${embedded}/tokenizer_config.json`, "utf8")), model_max_length: positions };
  writeFileSync(`${folder}/tokenizer_config.json`, `${JSON.stringify(config, null, 1)}\n`);
}

/** Writes the model into `folder`, which is made; returns its parameters and bytes. `seed` decides all weights. */
export async function writeModel(
  folder: string,
  shape: ShapeName,
  { layers = shapes[shape].num_hidden_layers, seed = 0, maxShardBytes = MAX_SHARD_BYTES } = {},
): Promise<{ parameters: number; bytes: number }> {
  const config = { ...shapes[shape], num_hidden_layers: layers, torch_dtype: "bfloat16", use_cache: true };
  const weights = weightsOf(config);
  const byName = new Map(weights.map((weight, index) => [weight.name, { ...weight, index }]));
  const total = weights.reduce((sum, { length }) => sum + length, 0);
  const data = weightBytes(layers, seed);
  mkdirSync(folder, { recursive: true });
  writeTokenizer(folder, config.max_position_embeddings);
  const shards = splitIntoShards(byName, maxShardBytes);
  for (const { file, names } of shards) {
    const tensors = names.map((name) => {
      const { index, ...weight } = byName.get(name)!;
      return { name, dtype: "bfloat16" as const, shape: weight.shape, data: () => data(weight, index) };
    });
    await writeSafetensors(nodeFiles, `${folder}/${file}`, tensors, { format: "pt" });
  }
  if (shards.length > 1) writeFileSync(`${folder}/${INDEX_NAME}`, encodeIndex(byName, shards, total));
  writeFileSync(`${folder}/config.json`, `${JSON.stringify(config, null, 1)}\n`); // the last: a folder that has it is complete
  return { parameters: total / BYTES, bytes: total };
}

if (isProgram(import.meta.url)) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { shape: { type: "string", default: "1b" }, layers: { type: "string" }, seed: { type: "string", default: "0" } },
  });
  const [folder] = positionals;
  if (!folder || !isShape(values.shape)) {
    console.error(`bench/write-model.ts FOLDER --shape ${Object.keys(shapes).join("|")} [--layers N] [--seed N]`);
    process.exit(2);
  }
  const began = performance.now();
  const layers = values.layers === undefined ? undefined : Number(values.layers);
  const written = await writeModel(folder, values.shape, { layers, seed: Number(values.seed) });
  const seconds = (performance.now() - began) / 1000;
  const speed = `${bytes(written.bytes)} in ${seconds.toFixed(1)} s, ${bytes(written.bytes / seconds)}/s`;
  const peak = bytes(1024 * process.resourceUsage().maxRSS);
  console.log(`${folder}: ${grouped(written.parameters)} parameters, ${speed}; peak memory ${peak}`);
}
