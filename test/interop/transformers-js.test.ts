// Models in transformers.js' folder: run by onnxruntime-node as transformers.js feeds them, they give our logits, with a cache too.
// slow
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, it } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-node";
import { type ConvertOptions, convert } from "../../src/commands/convert/convert.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { readHeader, readTensor } from "../../src/formats/safetensors.ts";
import { type ModelDecoder, openDecoder } from "../../src/generate/decoder.ts";
import { leftPad } from "../../src/generate/generate.ts";
import type { BaseDtype } from "../../src/graph/pack.ts";
import { loadBase, onBase, openBase } from "../../src/models/base.ts";
import { modelOutputs } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { ModelProtoSchema } from "../../src/onnx/proto/onnx_pb.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openGraph } from "../../src/runtime/open-graph.ts";
import { int32 } from "../../src/tensor.ts";
import { greatestDifference, near, refused } from "../helpers/assert.ts";
import { caseFolder } from "../helpers/golden-rows.ts";
import { repository } from "../helpers/repository.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";

const files = withGguf(nodeFiles);
const fresh = freshFolders();
const EMBEDDED = `${repository}models/embedded`;
const baseOf = (name: string): string => `${caseFolder(name)}/base`;

async function exported(input: string, options: Partial<ConvertOptions> = {}): Promise<string> {
  const output = `${fresh()}/model`;
  await convert(files, { input, output, to: "transformers.js", ...options }, { openSession: openNodeSession });
  return output;
}

const jsonOf = (folder: string, name: string) => JSON.parse(readFileSync(`${folder}/${name}`, "utf8"));
const int64 = (dims: readonly number[], values: ArrayLike<number>) =>
  new OrtTensor("int64", BigInt64Array.from(Array.from(values, (value) => BigInt(value))), dims);

/** A decoder's last logits of each row, fed as transformers.js does: positions from the mask, 1 where it is 0, and a cache by its names. */
async function startExported(path: string) {
  const session = await InferenceSession.create(path, { logSeverityLevel: 3 });
  let cache: Record<string, OrtTensor> = {};
  let mask: number[][] = [];
  return {
    inputs: session.inputNames,
    /** With `kept` 0 there are logits of each token, and with 1 of the last. */
    async append(ids: number[][], seen: number[][], kept = 0): Promise<Float32Array> {
      const [rows, seq] = [ids.length, ids[0]!.length];
      if (mask.length === 0) {
        mask = seen;
        const empty = session.inputMetadata.flatMap((given): [string, OrtTensor][] => {
          if (!given.isTensor || !given.name.startsWith("past_key_values.")) return [];
          const shape = given.shape.map((dim) => (dim === "batch_size" ? rows : typeof dim === "number" ? dim : 0));
          return [[given.name, new OrtTensor("float32", new Float32Array(), shape)]];
        });
        cache = Object.fromEntries(empty);
      } else mask = mask.map((row, i) => [...row, ...seen[i]!]);
      const positions = mask.map((row) => {
        let next = 0;
        return row.map((one) => (one === 1 ? next++ : 1)).slice(-seq);
      });
      const feeds: Record<string, OrtTensor> = {
        input_ids: int64([rows, seq], ids.flat()),
        attention_mask: int64([rows, mask[0]!.length], mask.flat()),
        num_logits_to_keep: int64([], [kept]),
        ...(session.inputNames.includes("position_ids") && { position_ids: int64([rows, seq], positions.flat()) }),
        ...cache,
      };
      const { logits, ...present } = await session.run(feeds);
      cache = Object.fromEntries(
        Object.entries(present).map(([name, value]) => [name.replace("present", "past_key_values"), value]),
      );
      const vocab = logits!.dims[2]!;
      const places = kept || seq;
      assert.deepEqual(logits!.dims, [rows, places, vocab]);
      const last = new Float32Array(rows * vocab);
      for (let row = 0; row < rows; row++) {
        const from = ((row + 1) * places - 1) * vocab;
        last.set((logits!.data as Float32Array).subarray(from, from + vocab), row * vocab);
      }
      return last;
    },
    close: () => session.release(),
  };
}

const PROMPTS = [Int32Array.of(5, 9, 2, 11, 7), Int32Array.of(3, 8, 4)];
/** A prompt's logits and those of two tokens after it, of each row. */
async function ownSteps(decoder: ModelDecoder): Promise<Float32Array[]> {
  const steps = [
    await decoder.start(leftPad(PROMPTS, 0)),
    await decoder.step(Int32Array.of(6, 10), Int32Array.of(5, 3)),
    await decoder.step(Int32Array.of(12, 1), Int32Array.of(6, 4)),
  ];
  await decoder.close();
  return steps;
}
async function exportedSteps(path: string, kept = 0): Promise<Float32Array[]> {
  const model = await startExported(path);
  const { ids, attentionMask, width } = leftPad(PROMPTS, 0);
  const rows = (all: Int32Array) => PROMPTS.map((_, row) => [...all.subarray(row * width, (row + 1) * width)]);
  const steps = [
    await model.append(rows(ids), rows(attentionMask), kept),
    await model.append([[6], [10]], [[1], [1]], kept),
    await model.append([[12], [1]], [[1], [1]]),
  ];
  await model.close();
  return steps;
}
const open = async (folder: string, baseDtype?: BaseDtype): Promise<ModelDecoder> =>
  openDecoder({ ...(await loadBase(files, folder)), openSession: openNodeSession, baseDtype });

const DECODERS = [
  "bloom-alibi",
  "gemma",
  "gemma2",
  "gemma3-text",
  "gpt-neox-parallel",
  "gpt2-conv1d",
  "llama-gqa-tied",
  "llama-bf16-sharded",
  "mistral-swa",
  "olmo2",
  "phi3-fused",
  "qwen2-bias",
  "qwen2moe-shared",
  "qwen3-qknorm",
  "smollm3",
];

describe("a language model in transformers.js' folder", () => {
  for (const name of DECODERS) {
    it(`${name}: a padded batch and two steps with its cache give our logits`, async () => {
      const folder = await exported(baseOf(name));
      const [got, want] = [await exportedSteps(`${folder}/onnx/model.onnx`), await ownSteps(await open(baseOf(name)))];
      for (const [i, step] of want.entries()) near(got[i]!, step, { atol: 2e-5, rtol: 1e-5 }, `step ${i}`);
    });
  }

  it("has logits of the last token alone where that is asked for, as transformers.js does", async () => {
    const folder = await exported(baseOf("llama-gqa-tied"));
    const path = `${folder}/onnx/model.onnx`;
    const all = await exportedSteps(path);
    const last = await exportedSteps(path, 1);
    for (const [i, step] of all.entries()) near(last[i]!, step, 1e-6);
  });

  it("in 16, 8 and 4 bits it computes what the base does in these, and is as much smaller", async () => {
    const folder = await exported(EMBEDDED, { dtype: "f32,f16,q8,q4" });
    const exact = await ownSteps(await open(EMBEDDED));
    const rows: [file: string, own: BaseDtype | null, share: number, far: number][] = [
      ["model.onnx", null, 1, 1e-4],
      ["model_fp16.onnx", null, 0.51, 1e-4], // the embedded base is stored in float16
      ["model_quantized.onnx", "int8", 0.37, 0.5],
      ["model_q4.onnx", "int4", 0.27, 3],
    ];
    const whole = statSync(`${folder}/onnx/model.onnx`).size;
    for (const [file, dtype, share, far] of rows) {
      const path = `${folder}/onnx/${file}`;
      assert.ok(statSync(path).size < whole * share + 1, `${file} has ${statSync(path).size} of ${whole} bytes`);
      const got = await exportedSteps(path);
      const own = dtype && (await ownSteps(await open(EMBEDDED, dtype)));
      for (const [i, step] of exact.entries()) {
        assert.ok(greatestDifference(got[i]!, step) < far, `${file}: ${greatestDifference(got[i]!, step)}`);
        if (own) near(got[i]!, own[i]!, 0.1, `${file} beside ${dtype}`);
      }
    }
    assert.deepEqual(readdirSync(`${folder}/onnx`).sort(), rows.map(([file]) => file).sort());
  });

  it("GPT-2's matrices are in blocks, although they are stored the other way round", async () => {
    const base = baseOf("gpt2-conv1d");
    const folder = await exported(base, { dtype: "q8" });
    const path = `${folder}/onnx/model_quantized.onnx`;
    const { graph } = fromBinary(ModelProtoSchema, readFileSync(path));
    const products = graph!.node.filter(({ opType }) => opType === "MatMulNBits");
    assert.equal(products.length, 4 * jsonOf(base, "config.json").n_layer + 1);
    const [got, want] = [await exportedSteps(path), await ownSteps(await open(base))];
    for (const [i, step] of want.entries()) near(got[i]!, step, 0.3, `step ${i}`);
    assert.equal(jsonOf(folder, "config.json")["transformers.js_config"].dtype, "q8");
  });

  it("weights too large for a file lie beside it, as config.json says", async () => {
    const maxFileBytes = 40_000;
    const folder = await exported(baseOf("llama-gqa-tied"), { maxFileBytes });
    const data = readdirSync(`${folder}/onnx`).filter((name) => name !== "model.onnx");
    assert.deepEqual(jsonOf(folder, "config.json")["transformers.js_config"].use_external_data_format, {
      "model.onnx": data.length,
    });
    assert.deepEqual(
      data.sort(),
      Array.from(data, (_, i) => `model.onnx_data${i === 0 ? "" : `_${i}`}`),
    );
    assert.ok(data.length > 1);
    for (const name of data) assert.ok(statSync(`${folder}/onnx/${name}`).size <= maxFileBytes);
    const [got, want] = [await exportedSteps(`${folder}/onnx/model.onnx`), await ownSteps(await open(baseOf("llama-gqa-tied")))];
    for (const [i, step] of want.entries()) near(got[i]!, step, 2e-5);
  });

  it("the folder has the tokenizer's files, its chat template where transformers.js looks, and no code", async () => {
    const base = `${fresh()}/base`;
    cpSync(EMBEDDED, base, { recursive: true });
    const { chat_template: _, ...tokenizer } = jsonOf(base, "tokenizer_config.json");
    writeFileSync(`${base}/tokenizer_config.json`, JSON.stringify(tokenizer));
    writeFileSync(`${base}/chat_template.jinja`, "{{ messages[0].content }}");
    writeFileSync(`${base}/modeling_own.py`, "");
    writeFileSync(
      `${base}/config.json`,
      JSON.stringify({ ...jsonOf(base, "config.json"), "transformers.js_config": { dtype: "q4" } }),
    );
    const folder = await exported(base);
    assert.equal(jsonOf(folder, "tokenizer_config.json").chat_template, "{{ messages[0].content }}");
    assert.deepEqual(jsonOf(folder, "config.json")["transformers.js_config"], { dtype: "fp32" });
    for (const name of ["tokenizer.json", "generation_config.json"]) assert.ok(existsSync(`${folder}/${name}`), name);
    assert.ok(!existsSync(`${folder}/modeling_own.py`));
  });
});

describe("an encoder in transformers.js' folder", () => {
  /** What a golden case was fed and gave, and what the exported base gives. */
  async function golden(name: string, inputs: Record<string, string>, output: string, options: Partial<ConvertOptions> = {}) {
    const io = `${caseFolder(name)}/io.safetensors`;
    const { tensors } = await readHeader(nodeFiles, io);
    const read = (key: string) => readTensor(nodeFiles, io, tensors.get(key)!);
    const folder = await exported(baseOf(name), options);
    const [file] = readdirSync(`${folder}/onnx`);
    const session = await InferenceSession.create(`${folder}/onnx/${file}`, { logSeverityLevel: 3 });
    const feeds: Record<string, OrtTensor> = {};
    for (const [to, from] of Object.entries(inputs)) {
      const tensor = tensors.has(from) ? await read(from) : null;
      const shape = tensor?.shape ?? (await read(inputs["input_ids"]!)).shape;
      const isFloat = tensor?.dtype === "float32";
      const zeros = new Array(shape.reduce((a, b) => a * b)).fill(0);
      feeds[to] = isFloat
        ? new OrtTensor("float32", tensor.data as Float32Array, shape)
        : int64(shape, tensor ? Array.from(tensor.data as BigInt64Array, Number) : zeros);
    }
    assert.deepEqual([...session.inputNames].sort(), Object.keys(inputs).sort());
    const got = (await session.run(feeds))[output]!;
    await session.release();
    return { got, read, feeds };
  }
  const text = { input_ids: "input_ids", attention_mask: "attention_mask", token_type_ids: "token_type_ids" };

  for (const name of ["bert-seqcls", "bert-tokencls", "bert-multilabel", "bert-regression"]) {
    it(`${name}: the logits are Transformers'`, async () => {
      const { got, read } = await golden(name, text, "logits");
      const want = await read("logits_base");
      assert.deepEqual(got.dims, want.shape);
      near(got.data as Float32Array, want, 2e-5);
    });
  }

  it("an image classifier's logits are Transformers'", async () => {
    const { got, read } = await golden("vit-imgcls", { pixel_values: "pixel_values" }, "logits");
    near(got.data as Float32Array, await read("logits_base"), 2e-5);
  });

  for (const dtype of ["f32", "f16", "q8", "q4"]) {
    it(`features of a text in ${dtype} are our hidden states`, async () => {
      const names = { input_ids: "anchor_input_ids", attention_mask: "anchor_attention_mask", token_type_ids: "none" };
      const { got, feeds } = await golden("bert-embedding", names, "last_hidden_state", { dtype });
      const base = onBase(await openBase(files, baseOf("bert-embedding")), { head: "embedding" });
      const session = await openGraph(
        { outputs: { hidden: modelOutputs(base.config)["hidden"]! } },
        weightFiles(base.checkpoint),
        {
          openSession: openNodeSession,
        },
      );
      const own = (name: string) => int32(feeds[name]!.dims as number[], Array.from(feeds[name]!.data as BigInt64Array, Number));
      const { hidden } = await session.run({
        inputIds: own("input_ids"),
        attentionMask: own("attention_mask"),
        tokenTypeIds: own("token_type_ids"),
      });
      await session.close();
      assert.deepEqual(got.dims, [...feeds["input_ids"]!.dims, base.config.hiddenSize]);
      const far = { f32: 2e-5, f16: 5e-3, q8: 0.1, q4: 1 }[dtype]!;
      near(got.data as Float32Array, hidden!, far);
    });
  }
});

describe("what transformers.js' folder cannot be made of is refused", () => {
  it("a model that transformers.js has no class for", async () => {
    for (const name of ["mixtral-attention", "llava"])
      await refused(exported(baseOf(name)), "convert/unsayable", { got: /mixtral|llava/, expected: /llama/ });
  });
  it("a dtype that it does not have", async () => {
    for (const dtype of ["bf16", "f32,", "q8_0"]) await refused(exported(EMBEDDED, { dtype }), "convert/option", { got: dtype });
    await refused(convert(files, { input: EMBEDDED, output: `${fresh()}/m.gguf`, dtype: "f32,f16" }), "convert/option", {
      expected: /one of/,
    });
  });
  it("a folder that has something in it, which stays as it is", async () => {
    const output = fresh();
    writeFileSync(`${output}/own`, "");
    await refused(convert(files, { input: EMBEDDED, output, to: "transformers.js" }), "folder/not-empty");
    assert.deepEqual(readdirSync(output), ["own"]);
  });
  it("values that float16 does not hold, and nothing is left", async () => {
    const base = `${fresh()}/base`;
    cpSync(baseOf("llama-gqa-tied"), base, { recursive: true });
    const { tensors } = await readHeader(nodeFiles, `${base}/model.safetensors`);
    const { offset } = tensors.get("model.embed_tokens.weight")!;
    const bytes = readFileSync(`${base}/model.safetensors`);
    bytes.writeFloatLE(1e6, offset);
    writeFileSync(`${base}/model.safetensors`, bytes);
    const around = fresh();
    const run = convert(files, { input: base, output: `${around}/out`, to: "transformers.js", dtype: "f16" });
    await refused(run, "convert/not-finite", { subject: "model.embed_tokens.weight" });
    assert.deepEqual(readdirSync(around), []);
  });
  it("a checkpoint whose weights have other shapes than its config says", async () => {
    const base = `${fresh()}/base`;
    cpSync(baseOf("llama-gqa-tied"), base, { recursive: true });
    const config = jsonOf(base, "config.json");
    writeFileSync(`${base}/config.json`, JSON.stringify({ ...config, vocab_size: config.vocab_size + 1 }));
    await refused(exported(base), "checkpoint/shape");
  });
});
