// Models as GGUF files: equal to those that gguf-py wrote of the same checkpoints, and read back as the checkpoint that they were made from.
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { convert } from "../../src/commands/convert/convert.ts";
import { readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { dequantize } from "../../src/formats/gguf/blocks.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { type WritableType, writableTypes } from "../../src/formats/gguf/quantize.ts";
import { readGguf } from "../../src/formats/gguf/reader.ts";
import { openBase } from "../../src/models/base.ts";
import { type RopeConfig, ropeFrequencies } from "../../src/models/config/rope-config.ts";
import { initModel } from "../../src/models/init.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { near, refused } from "../helpers/assert.ts";
import { MODELS } from "../helpers/gguf.ts";
import { llama2StyleFiles, llama2StyleVectors } from "../helpers/llama2-style.ts";
import { fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";

const files = withGguf(nodeFiles);
const fresh = freshFolders();

/** A copy of a golden base with some keys of its config changed. */
function changed(name: string, keys: Record<string, unknown>): string {
  const folder = `${fresh()}/base`;
  cpSync(`${fixtures}/cases/${name}/base`, folder, { recursive: true });
  const config = JSON.parse(readFileSync(`${folder}/config.json`, "utf8"));
  writeFileSync(`${folder}/config.json`, JSON.stringify({ ...config, ...keys }));
  return folder;
}
/** llama.cpp scales Gemma 3's scores by the dimensions of a head. */
const baseOf = (name: string): string =>
  name === "gemma3-text" ? changed(name, { query_pre_attn_scalar: 12 }) : `${fixtures}/cases/${name}/base`;

async function converted(input: string, dtype?: WritableType): Promise<string> {
  const output = path.join(fresh(), "model.gguf");
  await convert(files, { input, output, ...(dtype && { dtype }) });
  return output;
}

/** Metadata that gguf-py's file lacks, as the converter of llama.cpp adds them. */
const ADDED =
  /^general\.(type|name|file_type|quantization_version)$|\.(vocab_size|key_length|value_length)$|phi3\.attention\.sliding_window$/;

describe("a model as a GGUF file", slow, () => {
  for (const [name, golden] of Object.entries(MODELS)) {
    it(`${name} is the one of gguf-py, to the bit`, async () => {
      const [ours, theirs] = [await converted(baseOf(golden), "f16"), `${fixtures}/gguf/${name}.gguf`];
      const [got, want] = [await readGguf(nodeFiles, ours), await readGguf(nodeFiles, theirs)];
      const kept = new Map([...got.metadata].filter(([key]) => want.metadata.has(key) || !ADDED.test(key)));
      assert.deepEqual(kept, want.metadata);
      assert.deepEqual([...got.tensors.keys()].sort(), [...want.tensors.keys()].sort());
      for (const [tensor, { dtype, shape, offset, length }] of want.tensors) {
        const own = got.tensors.get(tensor)!;
        // llama.cpp's converter keeps positions in float32.
        if (tensor === "position_embd.weight") {
          assert.deepEqual([own.dtype, own.shape], ["float32", shape]);
          continue;
        }
        assert.deepEqual([own.dtype, own.shape, own.length], [dtype, shape, length], tensor);
        const [a, b] = [await nodeFiles.read(ours, own.offset, length), await nodeFiles.read(theirs, offset, length)];
        if (tensor === "rope_freqs.weight")
          near(new Float32Array(a.slice().buffer), new Float32Array(b.slice().buffer), { rtol: 1e-6 });
        else assert.deepEqual(a, b, tensor);
      }
    });

    it(`${name} is read back as the checkpoint that it was made from`, async () => {
      const folder = baseOf(golden);
      const [original, gguf] = [await openBase(nodeFiles, folder), await openBase(nodeFiles, await converted(folder))];
      const { rope: ownRope, ...own } = gguf.config as typeof gguf.config & { rope?: RopeConfig; headDim: number };
      const { rope, ...config } = original.config as typeof own & { rope?: RopeConfig };
      const unsaid = ["bosId", "eosIds", "padId", "dtype", "uninitializedHead"];
      const said = (one: object) => Object.fromEntries(Object.entries(one).filter(([key]) => !unsaid.includes(key)));
      assert.deepEqual(said(own), said(config));
      if (rope) near(ropeFrequencies(ownRope!, own.headDim), ropeFrequencies(rope, own.headDim), { rtol: 1e-6 });
      assert.deepEqual(gguf.modules, original.modules);
      for (const tensor of original.checkpoint.tensors.keys()) {
        if (tensor === "lm_head.weight" && !gguf.checkpoint.tensors.has(tensor)) continue;
        const [a, b] = [
          await readWeights(nodeFiles, gguf.checkpoint, tensor),
          await readWeights(nodeFiles, original.checkpoint, tensor),
        ];
        near(toFloat32(a), toFloat32(b), name === "gemma3" ? 1e-7 : 0, tensor);
      }
    });
  }

  it("keeps a checkpoint's bfloat16", async () => {
    const { tensors } = await readGguf(nodeFiles, await converted(`${fixtures}/cases/llama-bf16-sharded/base`));
    assert.deepEqual([...new Set([...tensors.values()].map(({ dtype }) => dtype))].sort(), ["bfloat16", "float32"]);
  });

  it("has a Modelfile beside it", async () => {
    const output = await converted(`${fixtures}/tiny-llama`);
    const text = readFileSync(output.replace(/\.gguf$/, ".Modelfile"), "utf8");
    assert.equal(text, 'FROM ./model.gguf\nPARAMETER stop "<|endoftext|>"\nPARAMETER stop "<|im_end|>"\n');
  });

  const refusals: [name: string, keys: Record<string, unknown>, expected: RegExp][] = [
    ["gemma3-text", {}, /query_pre_attn_scalar/],
    ["mistral-swa", {}, /a sliding window/],
    ["llama-gqa-tied", { hidden_act: "gelu" }, /the activation gelu/],
    ["gpt2-conv1d", { scale_attn_by_inverse_layer_idx: true }, /another scale/],
    ["olmo2", {}, /llama/],
    ["mixtral-attention", {}, /llama/],
  ];
  for (const [name, keys, expected] of refusals) {
    it(`${name} ${JSON.stringify(keys)}: what llama.cpp would not compute is refused`, async () => {
      const output = path.join(fresh(), "model.gguf");
      await refused(convert(files, { input: changed(name, keys), output }), "convert/unsayable", { expected });
      assert.ok(!existsSync(output));
    });
  }
});

describe("blocks", () => {
  const stored: Record<string, { values: string; blocks: Record<string, string> }> = JSON.parse(
    readFileSync(`${fixtures}/gguf/quantized.json`, "utf8"),
  );
  const bytesIn = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"));
  for (const [kind, { values, blocks }] of Object.entries(stored)) {
    for (const [type, bytes] of Object.entries(blocks)) {
      it(`${type} of ${kind} values are gguf-py's, to the bit`, () => {
        const given = new Float32Array(bytesIn(values).slice().buffer);
        assert.deepEqual(writableTypes[type as WritableType].encode(given), bytesIn(bytes));
      });
    }
  }
  it("whose values are not finite, or leave the type's range, are none", () => {
    const row = (value: number) => new Float32Array(32).fill(value);
    for (const type of Object.keys(writableTypes) as WritableType[]) {
      assert.equal(writableTypes[type].encode(row(Number.NaN)), null, type);
      assert.equal(writableTypes[type].encode(row(Number.NEGATIVE_INFINITY)), null, type);
    }
    assert.equal(writableTypes.f16.encode(row(1e5)), null);
    assert.equal(writableTypes.q4_0.encode(row(1e6)), null);
    assert.deepEqual(dequantize("q8_0", writableTypes.q8_0.encode(row(0))!), row(0));
  });
  it("are used where rows are whole blocks, float16 elsewhere", async () => {
    const { tensors } = await readGguf(nodeFiles, await converted(`${fixtures}/tiny-llama`, "q8_0"));
    const dtypeOf = (name: string) => tensors.get(name)!.dtype;
    assert.deepEqual([dtypeOf("blk.0.attn_q.weight"), dtypeOf("blk.0.attn_norm.weight")], ["q8_0", "float32"]);
    const theirs = await readGguf(nodeFiles, `${fixtures}/gguf/tiny-llama.gguf`);
    assert.deepEqual([...tensors.keys()].sort(), [...theirs.tensors.keys()].sort());
    const odd = await readGguf(nodeFiles, await converted(changed("gemma3-text", { query_pre_attn_scalar: 12 }), "q4_0"));
    assert.deepEqual(
      [odd.tensors.get("blk.0.attn_output.weight")!.dtype, odd.tensors.get("blk.0.attn_q.weight")!.dtype],
      ["float16", "q4_0"],
    );
  });
});

describe("the vocabulary of a GGUF file", () => {
  it("of byte-level BPE is gguf-py's, and encodes as the folder's tokenizer", async () => {
    const ours = await converted(`${fixtures}/tiny-llama`);
    const [got, want] = [await readGguf(nodeFiles, ours), await readGguf(nodeFiles, `${fixtures}/gguf/tiny-llama.gguf`)];
    for (const [key, value] of want.metadata)
      if (key.startsWith("tokenizer.")) assert.deepEqual(got.metadata.get(key), value, key);
    const [a, b] = [await loadTokenizer(files, ours), await loadTokenizer(files, `${fixtures}/tiny-llama`)];
    for (const text of ["The Punter is a pub. It's 42 …", " two  spaces\n\n", "<|im_start|>user\nhi<|im_end|>", "東京 😀"]) {
      assert.deepEqual(a.encode(text), b.encode(text), text);
    }
    assert.deepEqual(
      [a.bosId, a.padId, a.eosId, a.eosIds, a.template?.source],
      [b.bosId, b.padId, b.eosId, b.eosIds, b.template?.source],
    );
  });

  /** A tiny untrained Llama with a tokenizer. */
  async function withTokenizer(tokenizer: object | Buffer, config: object | Buffer = {}): Promise<string> {
    const folder = `${fresh()}/base`;
    mkdirSync(folder);
    const tiny = JSON.parse(readFileSync(`${fixtures}/tiny-llama/config.json`, "utf8"));
    await initModel(files, { ...tiny, vocab_size: 700 }, folder);
    const text = (value: object | Buffer) => (Buffer.isBuffer(value) ? value : JSON.stringify(value));
    writeFileSync(`${folder}/tokenizer.json`, text(tokenizer));
    writeFileSync(`${folder}/tokenizer_config.json`, text(config));
    return folder;
  }

  it("of SentencePiece encodes as Hugging Face's tokenizers do", async () => {
    const given = llama2StyleFiles();
    const folder = await withTokenizer(given["base/tokenizer.json"], given["base/tokenizer_config.json"]);
    const tokenizer = await loadTokenizer(files, await converted(folder));
    for (const { text, ids, plain } of llama2StyleVectors()) {
      assert.deepEqual([...tokenizer.encode(text)], ids, text);
      assert.deepEqual([...tokenizer.encode(text, { addSpecialTokens: false })], plain, text);
    }
  });

  it("that llama.cpp has no kind or no name for is refused", async () => {
    const own = JSON.parse(readFileSync(`${fixtures}/tiny-llama/tokenizer.json`, "utf8"));
    const output = `${fresh()}/model.gguf`;
    const cut = { type: "Split", pattern: { Regex: "\\w+" }, behavior: "Isolated", invert: false };
    const refusal = async (tokenizer: object) =>
      refused(convert(files, { input: await withTokenizer(tokenizer), output }), "gguf/tokenizer");
    assert.match((await refusal({ ...own, pre_tokenizer: cut })).message, /cuts text into words/);
    assert.match(
      (await refusal({ ...own, model: { type: "WordPiece", vocab: own.model.vocab, unk_token: "!" } })).message,
      /kind/,
    );
    assert.ok(!existsSync(output));
  });
});
