// GGUF files against gguf-py's own (scripts/reference/gguf_files.py): blocks, names, configs, vocabularies.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { findTensor, openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { float16ToFloat32, float32ToFloat16, toFloat32 } from "../../src/formats/float.ts";
import { blockTypes, dequantize, isBlockDType } from "../../src/formats/gguf/blocks.ts";
import { openGguf } from "../../src/formats/gguf/checkpoint.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { readRows, readStoredRows } from "../../src/formats/stored.ts";
import { openBase } from "../../src/models/base.ts";
import { type RopeConfig, ropeFrequencies } from "../../src/models/config/rope-config.ts";
import { modelConfig } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { near, refused } from "../helpers/assert.ts";
import { type GgufParts, ggufFile, MODELS, zeros } from "../helpers/gguf.ts";
import { llama2StyleFiles, llama2StyleVectors } from "../helpers/llama2-style.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";

const files = withGguf(nodeFiles);

describe("quantized blocks", () => {
  const stored: Record<string, { blocks: string; values: string }> = JSON.parse(
    readFileSync(`${fixtures}/gguf/blocks.json`, "utf8"),
  );
  const bytesIn = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"));

  for (const [name, { blocks, values }] of Object.entries(stored)) {
    it(`${name} is what gguf-py makes of it, to the bit`, () => {
      assert.ok(isBlockDType(name));
      const want = new Float32Array(bytesIn(values).buffer);
      assert.deepEqual(bytesOf(dequantize(name, bytesIn(blocks))), bytesOf(want));
    });
  }
  it("has a reference for each type", () => assert.deepEqual(Object.keys(stored).sort(), Object.keys(blockTypes).sort()));
});

/** What a GGUF file does not say: ids of a vocabulary that these files lack, the dtype, names that mean the same. */
const UNSAID = ["dtype", "bosId", "eosIds", "padId"];

describe("a GGUF file is the checkpoint that it was made from", () => {
  for (const [name, folder] of Object.entries(MODELS)) {
    it(name, async () => {
      const original = await openCheckpoint(nodeFiles, `${fixtures}/cases/${folder}/base`);
      const gguf = await openCheckpoint(nodeFiles, `${fixtures}/gguf/${name}.gguf`);
      const said = (config: object) => Object.fromEntries(Object.entries(config).filter(([key]) => !UNSAID.includes(key)));
      const [ours, theirs] = [modelConfig(gguf.config, name), modelConfig(original.config, folder)].map(said);
      // llama.cpp scales Gemma 3's scores by the heads' dimensions, whatever the config says; this one says 10.
      if (name === "gemma3") assert.deepEqual([ours!["scale"], theirs!["scale"]], [12 ** -0.5, 10 ** -0.5]);
      // The factors alone are stored of Llama 3's scaling; this model has it for another length than Llama 3's.
      const isScaled = name === "llama-rope";
      const own = { ...(isScaled && { rope: theirs!["rope"] }), ...(name === "gemma3" && { scale: theirs!["scale"] }) };
      assert.deepEqual({ ...ours, ...own }, theirs);
      const frequencies = (config = {} as Record<string, unknown>) =>
        ropeFrequencies(config["rope"] as RopeConfig, Number(config["headDim"]));
      if (isScaled) near(frequencies(ours), frequencies(theirs), { rtol: 1e-6 });
      const isTied = gguf.config["tie_word_embeddings"] === true;
      const names = [...original.tensors.keys()].filter((one) => !(isTied && one === "lm_head.weight"));
      assert.deepEqual([...gguf.tensors.keys()].sort(), names.sort());
      for (const one of names) {
        const want = toFloat32(await readWeights(nodeFiles, original, one));
        const { shape } = findTensor(original, one);
        const got = await readWeights(nodeFiles, gguf, one);
        assert.deepEqual(got.shape, shape, one);
        // Matrices are float16 in these files, norms float32, of Gemma with 1 added.
        if (shape.length > 1) assert.deepEqual(toFloat32(got), float16ToFloat32(float32ToFloat16(want)), one);
        else near(toFloat32(got), want, name === "gemma3" ? 1e-7 : 0, one);
      }
      await openBase(nodeFiles, `${fixtures}/gguf/${name}.gguf`);
    });
  }

  it("reads any range of rows, of heads and of transposed matrices too", async () => {
    for (const [file, name] of [
      ["llama", "model.layers.0.self_attn.q_proj.weight"],
      ["llama-bias", "model.layers.1.self_attn.k_proj.bias"],
      ["gpt2", "transformer.h.0.attn.c_attn.weight"],
      ["tiny-llama", "model.layers.0.self_attn.k_proj.weight"],
    ] as const) {
      const checkpoint = await openCheckpoint(nodeFiles, `${fixtures}/gguf/${file}.gguf`);
      const tensor = findTensor(checkpoint, name);
      const whole = await readRows(nodeFiles, tensor);
      const columns = whole.length / tensor.shape[0]!;
      for (const [first, count] of [
        [0, 1],
        [3, 2],
        [5, 9],
        [tensor.shape[0]! - 1, 1],
      ] as const) {
        const part = await readRows(nodeFiles, tensor, first, count);
        assert.deepEqual(part, whole.slice(first * columns, (first + count) * columns), `${name} ${first}`);
      }
    }
  });

  it("gives quantized blocks in the model's order of rows", async () => {
    const checkpoint = await openCheckpoint(nodeFiles, `${fixtures}/gguf/tiny-llama.gguf`);
    const tensor = findTensor(checkpoint, "model.layers.1.self_attn.q_proj.weight");
    assert.equal(tensor.dtype, "q8_0");
    const bytes = await readStoredRows(nodeFiles, tensor, 2, 7);
    assert.deepEqual(dequantize("q8_0", bytes), await readRows(nodeFiles, tensor, 2, 7));
  });
});

describe("the files that a GGUF file is shown with", () => {
  const gguf = `${fixtures}/gguf/tiny-llama.gguf`;

  it("are those of a checkpoint's folder", async () => {
    assert.deepEqual((await files.list(gguf)).sort(), [
      "config.json",
      "generation_config.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    assert.equal(await files.exists(`${gguf}/modules.json`), false);
    assert.equal(await files.isFolder(gguf), false);
    assert.deepEqual(await files.list(`${fixtures}/tiny-llama`), await nodeFiles.list(`${fixtures}/tiny-llama`));
    assert.deepEqual(await files.list(`${fixtures}/gguf`), await nodeFiles.list(`${fixtures}/gguf`));
  });

  it("make the tokenizer and the template of the folder", async () => {
    const [ours, theirs] = [await loadTokenizer(files, gguf), await loadTokenizer(files, `${fixtures}/tiny-llama`)];
    for (const text of ["The Punter is a pub. It's 42 …", " two  spaces\n\n", "<|im_start|>user\nhi<|im_end|>", "東京 😀"]) {
      assert.deepEqual(ours.encode(text), theirs.encode(text), text);
      assert.equal(ours.decode(ours.encode(text)), theirs.decode(theirs.encode(text)));
    }
    assert.equal(ours.template?.source, theirs.template?.source);
    assert.deepEqual(
      [ours.bosId, ours.padId, ours.eosId, ours.eosIds],
      [theirs.bosId, theirs.padId, theirs.eosId, theirs.eosIds],
    );
    assert.deepEqual(ours.specialIds, theirs.specialIds);
  });
});

const llama: GgufParts["metadata"] = [
  ["general.architecture", ["string", "llama"]],
  ["llama.context_length", ["uint32", 64]],
  ["llama.embedding_length", ["uint32", 32]],
  ["llama.block_count", ["uint32", 1]],
  ["llama.feed_forward_length", ["uint32", 64]],
  ["llama.attention.head_count", ["uint32", 4]],
  ["llama.attention.layer_norm_rms_epsilon", ["float32", 1e-5]],
];

const opened = (parts: GgufParts) => openGguf(memoryFiles({ "m.gguf": ggufFile(parts) }), "m.gguf");

it("Llama 3's scaling is found in the factors that are stored of it", async () => {
  const [theta, scaling] = [500_000, { factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 }];
  const plain = ropeFrequencies({ type: "default", theta }, 64);
  const scaled = ropeFrequencies({ type: "llama3", theta, ...scaling }, 64);
  const factors = { ...zeros("rope_freqs.weight", 32), data: bytesOf(Float32Array.from(plain, (one, i) => one / scaled[i]!)) };
  const metadata: GgufParts["metadata"] = [
    ...llama!,
    ["llama.rope.freq_base", ["float32", theta]],
    ["llama.attention.key_length", ["uint32", 64]],
  ];
  const { config } = await opened({ metadata, tensors: [zeros("token_embd.weight", 32, 4), factors] });
  assert.deepEqual(config["rope_scaling"], {
    rope_type: "llama3",
    factor: 32,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  });
});

describe("vocabularies", () => {
  it("of SentencePiece encode as Hugging Face's tokenizers do", async () => {
    const { model, added_tokens: added } = JSON.parse(llama2StyleFiles()["base/tokenizer.json"].toString());
    const tokens = Object.entries<number>(model.vocab)
      .sort(([, a], [, b]) => a - b)
      .map(([token]) => token);
    const rank = new Map<string, number>(model.merges.map(([a, b]: [string, string], i: number) => [a + b, i]));
    const special = new Set(added.map(({ id }: { id: number }) => id));
    const gguf = ggufFile({
      metadata: [
        ...llama!,
        ["tokenizer.ggml.model", ["string", "llama"]],
        ["tokenizer.ggml.tokens", ["strings", tokens]],
        ["tokenizer.ggml.scores", ["float32s", tokens.map((token) => -(rank.get(token) ?? 1e6))]],
        [
          "tokenizer.ggml.token_type",
          ["int32s", tokens.map((token, id) => (special.has(id) ? 3 : /^<0x..>$/.test(token) ? 6 : 1))],
        ],
      ],
      tensors: [zeros("token_embd.weight", 32, tokens.length)],
    });
    const tokenizer = await loadTokenizer(withGguf(memoryFiles({ "m.gguf": gguf })), "m.gguf");
    for (const { text, ids, plain, decoded } of llama2StyleVectors()) {
      assert.deepEqual([...tokenizer.encode(text)], ids, text);
      assert.deepEqual([...tokenizer.encode(text, { addSpecialTokens: false })], plain, text);
      assert.equal(tokenizer.decode(ids, { skipSpecialTokens: true }), decoded, text);
    }
  });

  it("that cut words in a way which is not known are refused by name", async () => {
    const metadata: GgufParts["metadata"] = [
      ...llama!,
      ["tokenizer.ggml.model", ["string", "gpt2"]],
      ["tokenizer.ggml.pre", ["string", "poro-chat"]],
      ["tokenizer.ggml.tokens", ["strings", ["a"]]],
    ];
    const facts = { got: '"poro-chat"', expected: /smollm.*qwen2/ };
    await refused(opened({ metadata, tensors: [zeros("token_embd.weight", 32, 4)] }), "gguf/tokenizer", facts);
  });
});

describe("what can't be read of a GGUF file is refused", () => {
  const embedding = zeros("token_embd.weight", 32, 4);
  it("an architecture", async () => {
    await refused(opened({ metadata: [["general.architecture", ["string", "rwkv7"]]] }), "gguf/architecture", { got: '"rwkv7"' });
  });
  it("experts", async () => {
    const metadata: GgufParts["metadata"] = [...llama!, ["llama.expert_count", ["uint32", 8]]];
    await refused(opened({ metadata, tensors: [embedding] }), "gguf/experts", { got: "8 experts" });
  });
  it("a tensor of a variant", async () => {
    const tensors = [embedding, zeros("blk.0.attn_sinks.weight", 4)];
    await refused(opened({ metadata: llama, tensors }), "gguf/tensor", { got: '"blk.0.attn_sinks.weight"' });
  });
  it("a part of a split model", async () => {
    const metadata: GgufParts["metadata"] = [...llama!, ["split.count", ["uint32", 3]]];
    await refused(opened({ metadata, tensors: [embedding] }), "gguf/split", { next: /llama-gguf-split --merge/ });
  });
  it("metadata that is missing or of another kind", async () => {
    await refused(opened({ metadata: llama!.slice(0, -1), tensors: [embedding] }), "gguf/metadata", { got: "none" });
    const metadata: GgufParts["metadata"] = [...llama!.slice(0, -1), [llama!.at(-1)![0], ["string", "x"]]];
    await refused(opened({ metadata, tensors: [embedding] }), "gguf/metadata", { expected: "a number", got: '"x"' });
  });
  it("heads that do not fit", async () => {
    const tensors = [embedding, zeros("blk.0.attn_q.weight", 32, 12)];
    await refused(opened({ metadata: llama, tensors }), "gguf/metadata", { expected: "a multiple of 8 rows" });
  });
});
