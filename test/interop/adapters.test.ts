// Adapters through each format and back: PEFT's goldens keep every update; what a format cannot say is refused by name.
// slow
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { type Adapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { convert } from "../../src/commands/convert/convert.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { readGguf } from "../../src/formats/gguf/reader.ts";
import { readOnnxAdapter } from "../../src/formats/onnx-adapter.ts";
import { readHeader, type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { embeddingFiles } from "../../src/models/heads/sentence-transformers.ts";
import { modelConfig } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { refused } from "../helpers/assert.ts";
import { type GgufParts, ggufFile, zeros } from "../helpers/gguf.ts";
import { fixtures } from "../helpers/repository.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";

const CASES = `${fixtures}/cases`;
const files = withGguf(nodeFiles);
const fresh = freshFolders();
const baseOf = (name: string) => `${CASES}/${name}/base`;

/** The update scale · B·A of each module, [out, in]. */
function updates({ modules, tensors }: Adapter): Map<string, Float64Array> {
  return new Map(
    modules.map(({ path: module, rank, scale, inFeatures, outFeatures }) => {
      const { loraA, loraB } = tensors.get(module)!;
      const update = new Float64Array(outFeatures * inFeatures);
      for (let out = 0; out < outFeatures; out++)
        for (let r = 0; r < rank; r++)
          for (let i = 0; i < inFeatures; i++)
            update[out * inFeatures + i]! += scale * loraB[out * rank + r]! * loraA[r * inFeatures + i]!;
      return [module, update];
    }),
  );
}

const norm = (values: Float64Array): number => Math.hypot(...values);

/** Asserts that two adapters have the same updates, each within 1e-6 of its own size. */
function sameUpdates(got: Adapter, want: Adapter): void {
  const [ours, theirs] = [updates(got), updates(want)];
  assert.deepEqual([...ours.keys()].sort(), [...theirs.keys()].sort());
  for (const [module, update] of theirs) {
    assert.ok(norm(update) > 0, module);
    const difference = update.map((value, i) => value - ours.get(module)![i]!);
    assert.ok(norm(difference) <= 1e-6 * norm(update), `${module}: ${norm(difference) / norm(update)}`);
  }
}

/** PEFT → `format` → PEFT, with the golden's base; the adapter before and after, and what was written between. */
async function roundTrip(name: string, to: string) {
  const folder = fresh();
  const between = path.join(folder, `adapter${{ gguf: ".gguf", onnx: ".onnx_adapter" }[to] ?? ""}`);
  const again = path.join(folder, "again");
  const base = baseOf(name);
  await convert(files, { input: `${CASES}/${name}/adapter`, output: between, to, base });
  await convert(files, { input: between, output: again, to: "peft", base });
  return {
    before: await readAdapter(nodeFiles, `${CASES}/${name}/adapter`),
    after: await readAdapter(nodeFiles, again),
    between,
  };
}

/** One scale, rsLoRA, patterns of ranks and alphas, layers, expressions, biases, grouped heads, Conv1D, fused projections, embeddings. */
const EVERYWHERE = [
  "lora-qv-default",
  "lora-rslora",
  "lora-rank-alpha-pattern",
  "lora-layers-to-transform",
  "lora-regex-target",
  "lora-embed",
  "llama-attnbias-mlpbias",
  "llama-gqa-tied",
  "llama-bf16-sharded",
  "mistral-swa",
  "gpt2-conv1d",
  "phi3-fused",
  "qwen2-bias",
  "qwen3-qknorm",
  "gemma3-text",
];
/** Models that only mlx-lm's names are known of, and the magnitudes of DoRA. */
const MLX_ONLY = ["gemma", "gemma2", "olmo2", "smollm3", "lora-dora", "lora-dora-rslora", "lora-dora-conv1d"];

/** Models whose modules other formats have no names for. */
const WITH_PLAIN_NAMES = ["gemma", "gemma2", "olmo2", "smollm3", "bloom-alibi", "gpt-neox-parallel", "lora-tied-embed"];

describe("a GGUF adapter keeps every update", () => {
  for (const name of EVERYWHERE) {
    it(name, async () => {
      const { before, after } = await roundTrip(name, "gguf");
      sameUpdates(after, before);
      assert.equal(after.config.fanInFanOut, before.config.fanInFanOut);
    });
  }

  it("with the names, shapes and order of rows of convert_lora_to_gguf.py", async () => {
    const { before, between } = await roundTrip("llama-gqa-tied", "gguf");
    const { metadata, tensors } = await readGguf(nodeFiles, between);
    assert.deepEqual(Object.fromEntries(metadata), {
      "general.architecture": "llama",
      "general.type": "adapter",
      "adapter.type": "lora",
      "adapter.lora.alpha": 8,
    });
    assert.equal(tensors.size, 2 * before.modules.length);
    const key = tensors.get("blk.1.attn_k.weight.lora_b")!;
    assert.deepEqual([tensors.get("blk.1.attn_k.weight.lora_a")!.shape, key.shape, key.dtype], [[4, 32], [16, 4], "float32"]);
    const bytes = await nodeFiles.read(between, key.offset, key.length);
    const stored = new Float32Array(bytes.slice().buffer);
    // Two heads of 8 rows: rows 0, 4, 1, 5, 2, 6, 3, 7 of each.
    const b = before.tensors.get("model.layers.1.self_attn.k_proj")!.loraB;
    const order = [0, 4, 1, 5, 2, 6, 3, 7].flatMap((row) => [...b.slice(4 * row, 4 * row + 4)]);
    assert.deepEqual([...stored.slice(0, 32)], order);
  });

  it("of rsLoRA in alpha alone: B is as it was", async () => {
    const { before, after } = await roundTrip("lora-rslora", "gguf");
    for (const [module, { loraA, loraB }] of before.tensors) assert.deepEqual(after.tensors.get(module), { loraA, loraB });
  });
});

describe("an MLX adapter keeps every update", () => {
  for (const name of [...EVERYWHERE, ...MLX_ONLY]) {
    it(name, async () => {
      const { before, after } = await roundTrip(name, "mlx");
      sameUpdates(after, before);
      for (const [module, { magnitude }] of before.tensors) assert.deepEqual(after.tensors.get(module)!["magnitude"], magnitude);
    });
  }

  it("with mlx-lm's keys, shapes and configuration", async () => {
    const { between } = await roundTrip("lora-rank-alpha-pattern", "mlx");
    const config = JSON.parse(readFileSync(`${between}/adapter_config.json`, "utf8"));
    assert.deepEqual(config.lora_parameters.keys, ["mlp.down_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"]);
    assert.deepEqual([config.fine_tune_type, config.num_layers, config.lora_parameters.rank], ["lora", 2, 6]);
    const { tensors } = await readHeader(nodeFiles, `${between}/adapters.safetensors`);
    assert.deepEqual(tensors.get("model.layers.0.self_attn.q_proj.lora_a")!.shape, [32, 6]);
    assert.deepEqual(tensors.get("model.layers.0.mlp.down_proj.lora_b")!.shape, [6, 32]);
  });
});

describe("an ONNX Runtime adapter keeps every update", () => {
  for (const name of [...EVERYWHERE, ...WITH_PLAIN_NAMES]) {
    it(name, async () => {
      const { before, after } = await roundTrip(name, "onnx");
      sameUpdates(after, before);
      assert.equal(after.config.fanInFanOut, before.config.fanInFanOut);
    });
  }

  it("with PEFT's names, and the scale in B", async () => {
    const { before, between } = await roundTrip("lora-rank-alpha-pattern", "onnx");
    const stored = await readOnnxAdapter(nodeFiles, between);
    assert.equal(stored.size, 2 * before.modules.length);
    for (const { path: module, rank, scale, inFeatures, outFeatures } of before.modules) {
      const [a, b] = ["A", "B"].map((side) => stored.get(`${module}.lora_${side}.weight`)!.read());
      assert.deepEqual(
        [a!.shape, b!.shape],
        [
          [rank, inFeatures],
          [outFeatures, rank],
        ],
      );
      const { loraA, loraB } = before.tensors.get(module)!;
      assert.deepEqual(a!.data, loraA);
      assert.deepEqual(
        b!.data,
        loraB.map((value) => value * scale),
      );
    }
  });
});

describe("what a format cannot say is refused by name", () => {
  const cases: [name: string, to: string, what: RegExp][] = [
    ["lora-dora", "onnx", /no place for .*useDora|DoRA/],
    ["bert-seqcls", "onnx", /modules_to_save/],
    ["lora-dora", "gguf", /no place for .*useDora|DoRA/],
    ["lora-tied-embed", "gguf", /an embedding that is tied to the output layer/],
    ["lora-tied-embed", "mlx", /an embedding that is tied to the output layer/],
    ["lora-dora-embed", "mlx", /a magnitude of an embedding/],
    ["bert-seqcls", "gguf", /modules_to_save/],
    ["bert-embedding", "gguf", /models of type bert/],
    ["mixtral-attention", "gguf", /models of type mixtral/],
    ["qwen2moe-shared", "mlx", /models of type qwen2_moe/],
  ];
  for (const [name, to, message] of cases) {
    it(`${name} to ${to}`, async () => {
      const output = path.join(fresh(), `adapter${{ gguf: ".gguf", onnx: ".onnx_adapter" }[to] ?? ""}`);
      const input = `${CASES}/${name}/adapter`;
      await refused(convert(files, { input, output, to, base: baseOf(name) }), "convert/unsayable", { message });
      assert.ok(!existsSync(output));
    });
  }

  it("an adapter without its base, or for another one", async () => {
    const [input, output] = [`${CASES}/lora-qv-default/adapter`, path.join(fresh(), "adapter.gguf")];
    await refused(convert(files, { input, output }), "convert/base", { next: /--base/ });
    await refused(convert(files, { input, output, base: baseOf("qwen3-qknorm") }), /^adapter\//);
  });

  it("options that do nothing, and names that say another format", async () => {
    const [input, base, folder] = [`${CASES}/lora-qv-default/adapter`, baseOf("lora-qv-default"), fresh()];
    await refused(convert(files, { input, output: `${folder}/a`, to: "gguf", base }), "convert/option", { expected: /\.gguf/ });
    await refused(convert(files, { input, output: `${folder}/a.gguf`, base, dtype: "f16" }), "convert/option", {
      subject: "dtype",
    });
    await refused(convert(files, { input: folder, output: `${folder}/b` }), "convert/unknown", { expected: /PEFT/ });
    writeFileSync(`${folder}/there.gguf`, "x");
    await refused(convert(files, { input, output: `${folder}/there.gguf`, base }), "file/exists");
  });
});

describe("from PEFT to PEFT", () => {
  it("an adapter of sentence embeddings keeps the files of its head and its tokenizer", async () => {
    const [input, output] = [path.join(fresh(), "adapter"), path.join(fresh(), "again")];
    cpSync(`${CASES}/bert-embedding/adapter`, input, { recursive: true });
    cpSync(`${fixtures}/tokenizers/bert-style`, input, { recursive: true });
    const own = modelConfig({ model_type: "bert", hidden_size: 32, num_attention_heads: 4, num_hidden_layers: 2 });
    const head = embeddingFiles({ ...own, pooling: "cls", prompts: { query: "query: " }, promptName: "query" });
    mkdirSync(path.join(input, "1_Pooling"));
    for (const [name, text] of Object.entries(head)) writeFileSync(path.join(input, name), text);
    await convert(files, { input, output });
    for (const name of [...Object.keys(head), "tokenizer.json"])
      assert.equal(readFileSync(path.join(output, name), "utf8"), readFileSync(path.join(input, name), "utf8"));
    const [before, after] = [await readAdapter(nodeFiles, input), await readAdapter(nodeFiles, output)];
    assert.deepEqual([after.head, after.head!.pooling], [before.head, "cls"]);
  });
});

describe("GGUF adapters of strangers", () => {
  const base = baseOf("lora-qv-default");
  const metadata: GgufParts["metadata"] = [
    ["general.architecture", ["string", "llama"]],
    ["general.type", ["string", "adapter"]],
    ["adapter.type", ["string", "lora"]],
    ["adapter.lora.alpha", ["float32", 0]],
  ];
  const pair = (rank: number, name = "blk.0.attn_v.weight") => [
    { ...zeros(`${name}.lora_a`, 32, rank), data: new Uint8Array(bytesOf(new Float32Array(32 * rank).fill(1))) },
    { ...zeros(`${name}.lora_b`, rank, 16), data: new Uint8Array(bytesOf(new Float32Array(16 * rank).fill(1))) },
  ];
  const read = async (parts: GgufParts, limits?: { maxRank?: number; maxModules?: number }) => {
    const folder = fresh();
    writeFileSync(`${folder}/a.gguf`, ggufFile({ metadata, ...parts }));
    await convert(files, { input: `${folder}/a.gguf`, output: `${folder}/a`, base }, { adapterLimits: limits });
    return readAdapter(nodeFiles, `${folder}/a`);
  };

  it("an alpha of 0 is a scale of 1", async () => {
    const { modules } = await read({ tensors: pair(2) });
    assert.deepEqual(
      modules.map(({ path: module, rank, scale }) => [module, rank, scale]),
      [["model.layers.0.self_attn.v_proj", 2, 1]],
    );
  });
  it("are refused where they are not whole, not LoRA, or too large", async () => {
    await refused(read({ tensors: pair(2).slice(1) }), "convert/file", { message: /a factor .* is missing/ });
    await refused(read({ tensors: [] }), "convert/file");
    await refused(read({ tensors: [...pair(2), zeros("blk.0.attn_norm.weight", 32)] }), "convert/file", { got: /attn_norm/ });
    await refused(read({ tensors: pair(2, "blk.7.attn_v.weight") }), "convert/file", { got: /blk\.7/ });
    await refused(read({ tensors: pair(2, "blk.0.attn_q.weight") }), "convert/file", { expected: /\[32, 2\]/ });
    const [a, b] = pair(2);
    const nan = { ...b!, data: new Uint8Array(bytesOf(new Float32Array(32).fill(Number.NaN))) };
    await refused(read({ tensors: [a!, nan] }), "convert/file", { message: /not finite/ });
    await refused(read({ tensors: pair(9) }, { maxRank: 8 }), "convert/limit", { got: "rank 9" });
    const other: GgufParts["metadata"] = [["general.architecture", ["string", "qwen2"]], ...metadata!.slice(1)];
    await refused(read({ metadata: other, tensors: pair(2) }), "convert/file", { expected: "llama", got: "qwen2" });
  });
});

describe("adapters of text encoders", () => {
  const base = baseOf("clip-contrastive");
  /** The golden's adapter of the text tower as another program would store it. */
  async function stored(
    spell: (module: string) => string,
    [down, up]: [string, string],
    alpha: ((module: string) => TensorSource[]) | null,
    more: { metadata?: Record<string, string>; tensors?: TensorSource[] } = {},
  ) {
    const adapter = await readAdapter(nodeFiles, `${CASES}/clip-contrastive/adapter`);
    const own = adapter.modules.filter(({ path: module }) => module.startsWith("text_model."));
    const tensors = own.flatMap(({ path: module, rank, inFeatures, outFeatures }): TensorSource[] => {
      const { loraA, loraB } = adapter.tensors.get(module)!;
      const name = spell(module);
      const tensor = (end: string, shape: number[], data: Float32Array): TensorSource => {
        return { name: `${name}.${end}`, dtype: "float32", shape, data: () => bytesOf(data) };
      };
      return [tensor(down, [rank, inFeatures], loraA), tensor(up, [outFeatures, rank], loraB), ...(alpha?.(name) ?? [])];
    });
    const folder = fresh();
    await writeSafetensors(nodeFiles, `${folder}/a.safetensors`, [...tensors, ...(more.tensors ?? [])], more.metadata);
    const text = { ...adapter, modules: own };
    const read = async () => {
      await convert(files, { input: `${folder}/a.safetensors`, output: `${folder}/a`, base });
      return readAdapter(nodeFiles, `${folder}/a`);
    };
    return { text, read };
  }
  const alphaOf =
    (value: number) =>
    (name: string): TensorSource[] => [
      { name: `${name}.alpha`, dtype: "float32", shape: [], data: () => bytesOf(Float32Array.of(value)) },
    ];
  const kohya = (module: string) => `lora_te_${module.replaceAll(".", "_")}`;

  it("kohya's, with an alpha of each module", async () => {
    const { text, read } = await stored(kohya, ["lora_down.weight", "lora_up.weight"], alphaOf(6));
    sameUpdates(await read(), text);
  });
  it("diffusers' older keys, of a scale of 1", async () => {
    const ends: [string, string] = ["lora_linear_layer.down.weight", "lora_linear_layer.up.weight"];
    const { text, read } = await stored((module) => `text_encoder.${module}`, ends, null);
    sameUpdates(await read(), { ...text, modules: text.modules.map((module) => ({ ...module, scale: 1 })) });
  });
  it("diffusers' keys with PEFT's configuration in the metadata", async () => {
    const said = { "text_encoder.r": 3, "text_encoder.lora_alpha": 6, "unet.r": 8, "unet.lora_alpha": 8 };
    const metadata = { lora_adapter_metadata: JSON.stringify(said) };
    const ends: [string, string] = ["lora_A.weight", "lora_B.weight"];
    const { text, read } = await stored((module) => `text_encoder.${module}`, ends, null, { metadata });
    sameUpdates(await read(), text);
  });
  it("modules of the UNet, convolutions and other kinds are refused by their keys", async () => {
    const ends: [string, string] = ["lora_down.weight", "lora_up.weight"];
    const tensor = (name: string, shape: number[]): TensorSource => {
      return { name, dtype: "float32", shape, data: () => bytesOf(new Float32Array(shape.reduce((a, b) => a * b, 1))) };
    };
    const refusals: [TensorSource, string, RegExp][] = [
      [
        tensor("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", [4, 8]),
        "convert/unsupported",
        /modules of the unet/,
      ],
      [tensor("lora_te_text_model_x.hada_w1_a", [4, 8]), "convert/unsupported", /no factor of LoRA/],
      [tensor("lora_te2_text_model_x.lora_down.weight", [4, 8]), "convert/unsupported", /several text encoders/],
      [tensor("lora_te_text_model_x.lora_down.weight", [4, 8]), "convert/file", /does not have/],
    ];
    for (const [more, code, message] of refusals) {
      const { read } = await stored(kohya, ends, alphaOf(6), { tensors: [more] });
      await refused(read(), code, { message });
    }
  });
});

it("an MLX adapter that is damaged is refused", async () => {
  const { between } = await roundTrip("lora-qv-default", "mlx");
  const broken = async (change: (config: Record<string, unknown>) => void) => {
    const folder = fresh();
    cpSync(between, `${folder}/mlx`, { recursive: true });
    mkdirSync(`${folder}/out`);
    const file = `${folder}/mlx/adapter_config.json`;
    const config = JSON.parse(readFileSync(file, "utf8"));
    change(config);
    writeFileSync(file, JSON.stringify(config));
    return convert(files, { input: `${folder}/mlx`, output: `${folder}/out`, base: baseOf("lora-qv-default") });
  };
  await refused(
    broken((config) => Object.assign(config, { lora_parameters: { alpha: 8 } })),
    "convert/file",
    { subject: /lora_parameters\.scale/ },
  );
  await refused(
    broken((config) => Object.assign(config, { fine_tune_type: "full" })),
    "convert/file",
    { got: "full" },
  );
});
