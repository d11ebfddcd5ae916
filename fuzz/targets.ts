// What is fuzzed: each reader of files with good files for it. A run damages one of them and reads.
import { readAdapter } from "../src/adapters/peft-files.ts";
import { compilePattern, matchBudget } from "../src/adapters/regex.ts";
import { readConfigFile } from "../src/commands/config-file.ts";
import { verifyFolder } from "../src/commands/verify/verify.ts";
import { readRecords } from "../src/data/readers.ts";
import type { Files } from "../src/files.ts";
import { openCheckpoint, readWeights } from "../src/formats/checkpoint.ts";
import { damagedFile, readSums } from "../src/formats/checksums.ts";
import { bytesOf } from "../src/formats/dtypes.ts";
import { withGguf } from "../src/formats/gguf/files.ts";
import { readJsonObject, readText } from "../src/formats/json.ts";
import { readHeader, readTensor, writeSafetensors } from "../src/formats/safetensors.ts";
import { readRows } from "../src/formats/stored.ts";
import { readSamplingDefaults } from "../src/generate/sampling-defaults.ts";
import { readImage } from "../src/images/image.ts";
import { loadImageProcessor } from "../src/images/processor.ts";
import * as adapterFormats from "../src/interop/adapters/index.ts";
import { openBase } from "../src/models/base.ts";
import { countParameters, forwardGraph, modelConfig, modulesOf } from "../src/models/registry.ts";
import { describeOptions } from "../src/options.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { digest } from "../src/platform/node/host.ts";
import { decodeImage } from "../src/platform/node/images.ts";
import { latestCheckpoint, loadCheckpoint, resumable, type SaveWeights, saveCheckpoint } from "../src/train/checkpoint.ts";
import { runOptions } from "../src/train/options.ts";
import { readOptions, readPromptFormat, readWeightRecords } from "../src/train/run-file.ts";
import { openRunLog, readMetrics } from "../src/train/run-log.ts";
import { type GgufParts, type GgufTensorInfo, ggufFile, zeros } from "../test/helpers/gguf.ts";
import { memoryFiles } from "../test/helpers/memory-files.ts";
import { hubTargets } from "./hub-targets.ts";
import { bytesIn, fixture, folder } from "./inputs.ts";
import { conversation, tokenizerTargets } from "./tokenizer-targets.ts";

export type Contents = Record<string, Uint8Array>;

export interface Target {
  name: string;
  /** Good inputs: folders of files, each read whole by `read`. */
  inputs: Contents[];
  read(files: Files): Promise<unknown>;
}

async function tensors(...rows: [name: string, shape: number[]][]): Promise<Uint8Array> {
  const files = memoryFiles();
  const sources = rows.map(([name, shape]) => {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5);
    return { name, dtype: "float32" as const, shape, data: () => bytesOf(data) };
  });
  await writeSafetensors(files, "f", sources, { format: "pt" });
  return files.contents.get("f")!;
}

const adapterWeights = await tensors(
  ["base_model.model.x.q.lora_A.weight", [2, 3]],
  ["base_model.model.x.q.lora_B.weight", [4, 2]],
);
const shards: Contents = {
  "m/config.json": bytesIn({ model_type: "llama" }),
  "m/model.safetensors.index.json": bytesIn({ metadata: {}, weight_map: { a: "s1.safetensors", b: "s2.safetensors" } }),
  "m/s1.safetensors": await tensors(["a", [2, 2]]),
  "m/s2.safetensors": await tensors(["b", [3]]),
};

/** GGUF files of both kinds of vocabulary, and of each way that tensors are changed. */
const ggufOf = (architecture: string, metadata: GgufParts["metadata"] = [], ...tensors: GgufTensorInfo[]): Contents => {
  const number = (key: string, value: number): [string, ["uint32", number]] => [`${architecture}.${key}`, ["uint32", value]];
  const sizes = Object.entries({ embedding_length: 32, block_count: 1, feed_forward_length: 64, context_length: 64 });
  return {
    "m.gguf": ggufFile({
      metadata: [
        ["general.architecture", ["string", architecture]],
        ...sizes.map(([key, value]) => number(key, value)),
        number("attention.head_count", 4),
        [`${architecture}.attention.layer_norm_${architecture === "gpt2" ? "" : "rms_"}epsilon`, ["float32", 1e-5]],
        ...metadata!,
      ],
      tensors: [zeros("token_embd.weight", 32, 4), ...tensors],
    }),
  };
};
const tokens: [string, ["strings", string[]]] = ["tokenizer.ggml.tokens", ["strings", ["<s>", "a", "b", "ab"]]];
const ggufs = [
  ggufOf(
    "llama",
    [
      ["tokenizer.ggml.model", ["string", "gpt2"]],
      ["tokenizer.ggml.pre", ["string", "smollm"]],
      tokens,
      ["tokenizer.ggml.token_type", ["int32s", [3, 1, 1, 1]]],
      ["tokenizer.ggml.merges", ["strings", ["a b"]]],
      ["tokenizer.ggml.eos_token_id", ["uint32", 0]],
    ],
    { name: "blk.0.attn_q.weight", dims: [32, 8], type: 2, data: new Uint8Array(8 * 18).fill(7) },
    { ...zeros("rope_freqs.weight", 4), data: bytesOf(Float32Array.of(1, 1, 4, 8)) },
  ),
  ggufOf(
    "gemma3",
    [["tokenizer.ggml.model", ["string", "llama"]], tokens, ["tokenizer.ggml.scores", ["float32s", [0, 0, 0, -1]]]],
    zeros("output_norm.weight", 32),
    { name: "blk.0.ffn_up.weight", dims: [256, 1], type: 14, data: new Uint8Array(210).fill(9) },
  ),
  ggufOf("gpt2", [], zeros("blk.0.attn_qkv.weight", 32, 96)),
];

/** A log with rows of every kind. */
const logged = memoryFiles();
const runLog = await openRunLog(logged, "run");
const examples = { count: 3, tokens: 30, targets: 20 };
const prepared = { modules: 2, trainable: 100, parameters: 1000, train: examples, eval: examples };
await runLog.add({ type: "run", lowrank: "1.0.0", options: { base: "b", rankPattern: { q: 2 } }, prepared });
await runLog.add({ type: "start", step: 0, steps: 2 });
const rates = { learningRate: 0.1, gradNorm: 1, tokens: 10, tokensPerSecond: 100, seconds: 0.1, memoryBytes: null };
for (const step of [1, 2]) await runLog.add({ type: "step", step, loss: 3 / step, ...rates });
await runLog.add({ type: "eval", step: 2, loss: 2, perplexity: 7 });
await runLog.add({ type: "samples", step: 2, samples: [{ prompt: "p", expected: "e", text: "t" }] });
await runLog.add({ type: "checkpoint", step: 2 });
await runLog.add({ type: "done", step: 2, stopped: false, early: false, result: 2, seconds: 1 });
await runLog.add({ type: "error", code: "a/b", message: "m" });
await runLog.flush();

const trained = memoryFiles();
const state = { theta: new Float32Array(4), m: new Float32Array(4), v: new Float32Array(4), step: 3 };
const evals = { best: { step: 2, loss: 0.5 }, toBeat: 0.5, without: 0 };
const saveAdapter: SaveWeights = (to, place) => to.write(`${place}/adapter_model.safetensors`, adapterWeights);
await saveCheckpoint(trained, "run", { ...state, evals }, { seed: 1 }, saveAdapter, digest);

/** Its record as version 1 had it. */
const STATE = "run/checkpoint-3/trainer_state.json";
const firstState = bytesIn({
  ...JSON.parse(new TextDecoder().decode(trained.contents.get(STATE))),
  version: 1,
  evals: [{ step: 2, loss: 0.5 }],
  bestEval: { step: 2, loss: 0.5 },
  log: [1, 2, 3].map((step) => ({ step, loss: 1, learningRate: 0.1, gradNorm: 1 })),
});

const lines = (rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const readAll = (path: string) => async (files: Files) => {
  let count = 0;
  for await (const _ of readRecords(files, path)) count++;
  return count;
};

const modelConfigs: Contents[] = (
  JSON.parse(Buffer.from(fixture("configs/model-configs.json")).toString()) as { config: object }[]
)
  .filter((_, i) => i % 4 === 0)
  .map(({ config }) => ({ "config.json": bytesIn(config) }));

const fixturePath = (path: string): string => new URL(`../test/fixtures/${path}`, import.meta.url).pathname;
/** An adapter in the formats of other programs, and the bases that they are read for. */
const [decoder, towers] = [
  await openBase(nodeFiles, fixturePath("cases/lora-qv-default/base")),
  await openBase(nodeFiles, fixturePath("cases/clip-contrastive/base")),
];
const goldenFolder = fixturePath("cases/lora-qv-default/adapter");
const golden = await readAdapter(nodeFiles, goldenFolder);
const foreign = memoryFiles();
await adapterFormats.gguf.write!.run(foreign, "a.gguf", golden, decoder, goldenFolder);
await adapterFormats.mlx.write!.run(foreign, "mlx", golden, decoder, goldenFolder);
await adapterFormats.onnx.write!.run(foreign, "o.onnx_adapter", golden, decoder, goldenFolder);
const tower = towers.modules.find(({ path }) => path.startsWith("text_model.") && path.endsWith("q_proj"))!;
const [into, out] = [tower.inFeatures, tower.outFeatures];
const ofTower = (prefix: string, path: string, [a, b]: [string, string]) =>
  tensors([`${prefix}${path}.${a}`, [2, into]], [`${prefix}${path}.${b}`, [out, 2]]);

export const targets: Target[] = [
  {
    name: "safetensors",
    inputs: [{ f: await tensors(["a", [2, 3]], ["b", []], ["c.d", [0, 4]]) }, { f: adapterWeights }],
    read: async (files) => {
      const { tensors: found } = await readHeader(files, "f");
      for (const entry of found.values()) await readTensor(files, "f", entry);
    },
  },
  {
    name: "gguf",
    inputs: ggufs,
    read: async (files) => {
      const shown = withGguf(files);
      const checkpoint = await openCheckpoint(shown, "m.gguf");
      modelConfig(checkpoint.config, "m.gguf");
      for (const tensor of checkpoint.tensors.values()) await readRows(shown, tensor);
      for (const name of await shown.list("m.gguf")) await readText(shown, `m.gguf/${name}`);
    },
  },
  {
    name: "checkpoint",
    inputs: [shards],
    read: async (files) => {
      const checkpoint = await openCheckpoint(files, "m");
      for (const name of checkpoint.tensors.keys()) await readWeights(files, checkpoint, name);
    },
  },
  {
    name: "config",
    inputs: modelConfigs,
    read: async (files) => {
      const config = modelConfig(await readJsonObject(files, "config.json"), "config.json");
      return [countParameters(config), modulesOf(forwardGraph(config))];
    },
  },
  {
    name: "adapter",
    inputs: ["lora-qv-default", "lora-rank-alpha-pattern", "lora-regex-target"]
      .map((name) => folder(`cases/${name}/adapter`, "a"))
      .concat({
        "a/adapter_config.json": bytesIn({ peft_type: "LORA", r: 2, lora_alpha: 4, target_modules: ["q"] }),
        "a/adapter_model.safetensors": adapterWeights,
      }),
    read: (files) => readAdapter(files, "a"),
  },
  {
    name: "adapter-formats",
    inputs: [
      { "a.gguf": foreign.contents.get("a.gguf")! },
      Object.fromEntries([...foreign.contents].filter(([name]) => name.startsWith("mlx/"))),
      { "o.onnx_adapter": foreign.contents.get("o.onnx_adapter")! },
      { "k.safetensors": await ofTower("lora_te_", tower.path.replaceAll(".", "_"), ["lora_down.weight", "lora_up.weight"]) },
      { "d.safetensors": await ofTower("text_encoder.", tower.path, ["lora_A.weight", "lora_B.weight"]) },
    ],
    read: async (files) => {
      for (const path of ["a.gguf", "mlx", "o.onnx_adapter", "k.safetensors", "d.safetensors"]) {
        for (const { isAt, read } of Object.values(adapterFormats)) {
          if (!(await isAt(files, path))) continue;
          await read(files, path, /^[kd]/.test(path) ? towers : decoder);
          break; // as lowrank convert does
        }
      }
    },
  },
  ...tokenizerTargets,
  {
    name: "sampling",
    inputs: [
      {
        "m/generation_config.json": bytesIn({
          do_sample: true,
          temperature: 0.6,
          top_k: 20,
          top_p: 0.9,
          repetition_penalty: 1.1,
        }),
      },
    ],
    read: (files) => readSamplingDefaults(files, "m"),
  },
  {
    name: "jsonl",
    inputs: [
      {
        "d.jsonl": bytesIn(
          lines([
            { prompt: "a", completion: "b" },
            { prompt: "é", completion: "" },
          ]),
        ),
      },
      {
        "d.jsonl": bytesIn(
          lines([{ messages: conversation }, { messages: [{ role: "system", content: "b" }, ...conversation] }]),
        ),
      },
      { "d.jsonl": bytesIn(lines([{ text: "a\nb" }, { text: "c" }])) },
    ],
    read: readAll("d.jsonl"),
  },
  {
    name: "csv",
    inputs: [
      { "d.csv": bytesIn('prompt,completion\r\na,"b ""q"" c"\r\n"d\ne",f\r\n') },
      { "d.csv": bytesIn("text,id\nabc,1\n,2\n") },
    ],
    read: readAll("d.csv"),
  },
  {
    name: "tsv",
    inputs: [
      { "d.tsv": bytesIn('question\tanswer\r\na\t"b\t""q"" c"\r\n') },
      { "d.tsv": bytesIn("instruction;input;output\na;;b\n") },
    ],
    read: readAll("d.tsv"),
  },
  {
    name: "json",
    inputs: [
      {
        "d.json": bytesIn([
          { instruction: "a", input: null, output: "b" },
          { instruction: "é", output: "", more: [{}, "]"] },
        ]),
      },
      {
        "d.json": bytesIn([
          {
            conversations: [
              { from: "human", value: "ab" },
              { from: "gpt", value: "a b" },
            ],
            system: "s",
          },
        ]),
      },
      { "d.json": bytesIn(lines([{ input: "a", output: "b" }])) },
    ],
    read: readAll("d.json"),
  },
  {
    name: "text",
    inputs: [{ "d.txt": bytesIn(`# A\r\n\r\n${"word ".repeat(900)}\n\n  b\nc\n`) }],
    read: readAll("d.txt"),
  },
  {
    name: "parquet",
    inputs: ["alpaca", "messages", "sharegpt-v2", "text", "text-delta", "text-lz4"].map((name) => ({
      "d.parquet": fixture(`parquet/${name}.parquet`),
    })),
    read: readAll("d.parquet"),
  },
  {
    name: "image",
    inputs: ["cmyk.jpg", "gray-alpha.png", "palette-transparent.png", "lossy.webp", "alpha.webp", "animated.webp"]
      .map((name) => ({ i: fixture(`images/formats/${name}`) }))
      .concat(["5.png", "7.webp", "8.jpg"].map((name) => ({ i: fixture(`images/turned/${name}`) }))),
    read: (files) => readImage(files, decodeImage, "i"),
  },
  {
    name: "image-processor",
    inputs: ["clip", "idefics3-split", "llava-square", "vit"].map((name) => ({
      "m/preprocessor_config.json": fixture(`images/processors/${name}/preprocessor_config.json`),
    })),
    read: async (files) => {
      const { process } = await loadImageProcessor(files, "m");
      process({ name: "i", width: 5, height: 3, channels: 3, data: new Uint8Array(45) });
    },
  },
  {
    name: "run",
    inputs: [
      {
        "run/run.json": bytesIn({
          version: 1,
          options: { base: "b", data: "d.jsonl", rank: 4, targetModules: ["q_proj"], rankPattern: { q: 2 }, steps: 5 },
          prompts: { kind: "text" },
          weights: { "model.safetensors": { stamp: "9 1 1 1 1", sha256: "0a".repeat(32) } },
        }),
      },
    ],
    read: async (files) => {
      await readWeightRecords(files, "run");
      await readOptions(files, { output: "run", resume: true });
      await readPromptFormat(files, "run");
    },
  },
  {
    name: "metrics",
    inputs: [Object.fromEntries(logged.contents)],
    read: async (files) => {
      await readMetrics(files, "run");
      // As of a longer file, in pieces.
      await readMetrics(files, "run", 400);
    },
  },
  {
    name: "checksums",
    inputs: [
      Object.fromEntries(trained.contents),
      {
        "run/checkpoint-3/SHA256SUMS": bytesIn(`# made by hand\n${"a".repeat(64)} *./b\r\n\\${"B".repeat(64)}  c\\nd/e\n`),
      },
    ],
    read: async (files) => {
      await readSums(files, "run/checkpoint-3");
      await damagedFile(files, "run/checkpoint-3", digest);
    },
  },
  {
    name: "trainer-state",
    inputs: [Object.fromEntries(trained.contents), { ...Object.fromEntries(trained.contents), [STATE]: firstState }],
    read: async (files) => {
      const latest = await latestCheckpoint(files, "run");
      if (latest) await resumable(files, "run", true, digest);
      await loadCheckpoint(files, latest?.folder ?? "run/checkpoint-3", { seed: 1 }, 4);
    },
  },
  {
    name: "verify",
    inputs: [
      Object.fromEntries([...trained.contents].map(([name, bytes]) => [name.replace("run/checkpoint-3", "f"), bytes])),
      {
        ...Object.fromEntries(trained.contents),
        ...Object.fromEntries(logged.contents),
        "run/run.json": bytesIn({ version: 1 }),
      },
      Object.fromEntries(Object.entries(shards).map(([name, bytes]) => [name.replace("m/", "f/"), bytes])),
    ],
    async read(files) {
      for (const place of ["run", "f"]) {
        if (!(await files.isFolder(place))) continue;
        for await (const event of verifyFolder(place, { files, digest })) if (event.type === "file" && !event.state) throw event;
      }
    },
  },
  {
    name: "config-file",
    inputs: [
      {
        "c.json": bytesIn({
          base: "b",
          data: "d",
          output: "o",
          "learning-rate": 1e-4,
          targetModules: ["q_proj"],
          rankPattern: {},
          init: "gaussian",
          packing: true,
          schedule: "cosine",
        }),
      },
    ],
    read: (files) => readConfigFile(files, "c.json", describeOptions(runOptions)),
  },
  {
    name: "regex",
    inputs: [
      "(.*\\.)?(q|v)_proj",
      "model\\.layers\\.(?:[0-9]|1\\d)\\..*(?<!k)_proj$",
      "(?i:Q_PROJ|[^a-y]{2,3}?)|(?=x)\\w+\\b",
    ].map((source) => ({ p: bytesIn(source) })),
    read: async (files) => {
      const pattern = compilePattern(await readText(files, "p"), "target_modules", matchBudget());
      for (const path of ["model.layers.0.self_attn.q_proj", "a".repeat(500), ""])
        [pattern.fullmatch(path), pattern.matchesEnd(path)];
    },
  },
  ...hubTargets,
];
