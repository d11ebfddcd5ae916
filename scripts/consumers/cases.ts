// What consumers are asked about: bases with an adapter of each architecture that GGUF files are written for, and our own numbers.
import { cpSync, mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { attach } from "../../src/adapters/attach.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { matchModules, resolveConfig } from "../../src/adapters/match.ts";
import { readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { readHeader, type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { openDecoder } from "../../src/generate/decoder.ts";
import { leftPad } from "../../src/generate/generate.ts";
import { loadBase, openBase } from "../../src/models/base.ts";
import { initModel } from "../../src/models/init.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { normal, purpose } from "../../src/random.ts";

export const files = withGguf(nodeFiles);

export interface Case {
  name: string;
  base: string;
  adapter: string;
  /** How far llama.cpp's log probabilities may be: it looks GELU up in a table of float16. */
  llamaBound: number;
}

const BOUND = 1e-3;
const BOUND_WITH_GELU = 1e-2;

/** Sequences of tokens, of which the last `asked` have a next token that consumers are asked for. */
export interface Request {
  sequences: { ids: number[]; asked: number }[];
  texts: string[];
}

/** Small untrained models: their weights are large enough that each next token has a clear winner. */
const shared = {
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  max_position_embeddings: 256,
  initializer_range: 0.12,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 0,
};
const architectures: Record<string, Record<string, unknown>> = {
  llama: { model_type: "llama", architectures: ["LlamaForCausalLM"], tie_word_embeddings: false },
  "llama, scaled as Llama 3": {
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    tie_word_embeddings: true,
    rope_theta: 500_000,
    rope_scaling: {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    },
  },
  qwen2: { model_type: "qwen2", architectures: ["Qwen2ForCausalLM"], tie_word_embeddings: false },
  qwen3: { model_type: "qwen3", architectures: ["Qwen3ForCausalLM"], tie_word_embeddings: false },
  gemma3: {
    model_type: "gemma3_text",
    architectures: ["Gemma3ForCausalLM"],
    query_pre_attn_scalar: 16,
    sliding_window: 8,
    sliding_window_pattern: 6,
    num_hidden_layers: 6,
    hidden_activation: "gelu_pytorch_tanh",
  },
  phi3: { model_type: "phi3", architectures: ["Phi3ForCausalLM"], tie_word_embeddings: false, num_key_value_heads: 4 },
  gpt2: {
    model_type: "gpt2",
    architectures: ["GPT2LMHeadModel"],
    n_embd: 64,
    n_layer: 2,
    n_head: 4,
    n_positions: 256,
    n_ctx: 256,
    layer_norm_epsilon: 1e-5,
    activation_function: "gelu_new",
  },
};

/** Writes the bases and adapters into `folder`; `base` and `adapter` are those of the first case, drawn if there is no adapter. */
export async function makeCases(folder: string, base: string, adapter: string | undefined): Promise<Case[]> {
  const own = adapter ?? `${folder}/adapter`;
  if (adapter === undefined) await drawAdapter(base, own, {});
  const vocabulary = JSON.parse(readFileSync("models/embedded/config.json", "utf8")).vocab_size as number;
  const cases: Case[] = [{ name: path.basename(path.resolve(base)), base, adapter: own, llamaBound: BOUND }];
  for (const [name, config] of Object.entries(architectures)) {
    const place = `${folder}/${name.replace(/\W+/g, "-")}`;
    mkdirSync(place, { recursive: true });
    await initModel(files, { ...shared, vocab_size: vocabulary, ...config }, `${place}/base`);
    if (config["model_type"] === "gpt2") await withBareNames(`${place}/base/model.safetensors`);
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(`models/embedded/${file}`, `${place}/base/${file}`);
    const isUntied = config["tie_word_embeddings"] === false;
    await drawAdapter(`${place}/base`, `${place}/adapter`, { useRslora: true, everything: isUntied });
    const llamaBound = /gelu/.test(JSON.stringify(config)) ? BOUND_WITH_GELU : BOUND;
    cases.push({ name: `untrained ${name}`, base: `${place}/base`, adapter: `${place}/adapter`, llamaBound });
  }
  return cases;
}

/** mlx-lm reads GPT-2 under the names that the hub has it under, those of the bare model. */
async function withBareNames(file: string): Promise<void> {
  const { tensors, metadata } = await readHeader(files, file);
  const sources: TensorSource[] = [];
  for (const [name, entry] of tensors) {
    const data = await files.read(file, entry.offset, entry.length);
    sources.push({ name: name.replace(/^transformer\./, ""), dtype: entry.dtype, shape: entry.shape, data: () => data });
  }
  await writeSafetensors(files, file, sources, metadata);
}

/** An adapter of normal factors with two ranks and two scales; `everything` adapts the embedding and the output layer too. */
async function drawAdapter(base: string, output: string, { useRslora = false, everything = false }): Promise<void> {
  const { modules, config: model } = await openBase(files, base);
  const linear = modules
    .filter(({ kind, isOutputEmbedding }) => (kind === "linear" || kind === "conv1d") && !isOutputEmbedding)
    .map((one) => one.path);
  const outer = modules.filter(({ path, isOutputEmbedding }) => isOutputEmbedding || path.endsWith("embed_tokens"));
  const targetModules = [...linear, ...(everything ? outer.map((one) => one.path) : [])];
  const last = linear.at(-1)!;
  const patterns = { rankPattern: { [last]: 3 }, alphaPattern: { [linear[0]!]: 5 } };
  const config = loraConfig({ rank: 4, alpha: 8, useRslora, targetModules, taskType: "CAUSAL_LM", ...patterns });
  const matched = matchModules(modules, config, model.modelType);
  const tensors = new Map(
    matched.map(({ path, rank, inFeatures, outFeatures }, i) => {
      const draw = (size: number, scale: number, which: number) =>
        normal(7, [purpose.init, i, which], size).map((value) => value * scale);
      const loraA = draw(rank * inFeatures, 1 / Math.sqrt(inFeatures), 0);
      return [path, { loraA, loraB: draw(outFeatures * rank, 0.15, 1) }];
    }),
  );
  await writeAdapter(files, output, {
    config: resolveConfig(config, modules, matched, model.modelType),
    modules: matched,
    tensors,
  });
}

const TEXTS = ["The capital of France is", "A restaurant near the river with", "Once upon a time"];
/** Tokens that are generated of each text. */
const TOKENS = 16;

/** Opens a base, under an adapter or none. */
async function opened(folder: string, adapterFolder: string | null, baseDtype?: "int8" | "int4") {
  const alone = await loadBase(files, folder);
  const adapter = adapterFolder === null ? null : await readAdapter(files, adapterFolder);
  const { base } = adapter ? await attach(alone, adapter, { anyBase: true }) : { base: alone };
  return { base, decoder: await openDecoder({ ...base, openSession: openNodeSession, adapter, baseDtype }) };
}

/** Greedy continuations of the texts. */
export async function requestOf({ base: folder, adapter }: Case): Promise<Request> {
  const { base, decoder } = await opened(folder, adapter);
  const tokenizer = await base.tokenizer();
  const sequences: Request["sequences"] = [];
  for (const text of TEXTS) {
    const ids = [...tokenizer.encode(text)];
    let logits = await decoder.start(leftPad([Int32Array.from(ids)], 0));
    for (let i = 1; i < TOKENS; i++) {
      ids.push(logits.reduce((best, value, token) => (value > logits[best]! ? token : best), 0));
      logits = await decoder.step(Int32Array.of(ids.at(-1)!), Int32Array.of(ids.length - 1));
    }
    await decoder.end();
    sequences.push({ ids, asked: TOKENS });
  }
  await decoder.close();
  return { sequences, texts: TEXTS };
}

/** Our log probabilities of the tokens behind those that are asked for: [asked, vocabulary]. */
export async function ownLogs(
  folder: string,
  adapter: string | null,
  sequences: Request["sequences"],
  baseDtype?: "int8" | "int4",
): Promise<Float32Array> {
  const { decoder } = await opened(folder, adapter, baseDtype);
  const rows: Float32Array[] = [];
  for (const { ids, asked } of sequences) {
    const prompt = ids.length - asked + 1;
    rows.push(logSoftmax(await decoder.start(leftPad([Int32Array.from(ids.slice(0, prompt))], 0))));
    for (let i = prompt; i < ids.length; i++) rows.push(logSoftmax(await decoder.step(Int32Array.of(ids[i]!), Int32Array.of(i))));
    await decoder.end();
  }
  await decoder.close();
  const logs = new Float32Array(rows.length * rows[0]!.length);
  for (const [i, row] of rows.entries()) logs.set(row, i * row.length);
  return logs;
}

export function logSoftmax(logits: Float32Array): Float32Array {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const total = Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0)) + most;
  return logits.map((value) => value - total);
}
