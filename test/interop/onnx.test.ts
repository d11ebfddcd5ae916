// A model as ONNX with optional inputs for LoRA: without them it is the base, with those of an .onnx_adapter the base under the adapter.
// slow
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { describe, it } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { convert } from "../../src/commands/convert/convert.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { onnxAdapterBytes, readOnnxAdapter } from "../../src/formats/onnx-adapter.ts";
import { openDecoder } from "../../src/generate/decoder.ts";
import { leftPad } from "../../src/generate/generate.ts";
import { loadBase } from "../../src/models/base.ts";
import { ModelProtoSchema } from "../../src/onnx/proto/onnx_pb.ts";
import { nodeMachine } from "../../src/platform/node/engine/machine.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { float32, type Tensor } from "../../src/tensor.ts";
import { greatestDifference, near, refused } from "../helpers/assert.ts";
import { caseFolder } from "../helpers/golden-rows.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";

const files = withGguf(nodeFiles);
const fresh = freshFolders();

/** The last logits of a prompt, from the file alone, with further inputs. */
async function logitsOf(path: string, ids: readonly number[], more: ReadonlyMap<string, Tensor>): Promise<Float32Array> {
  const model = readFileSync(path);
  const { graph } = fromBinary(ModelProtoSchema, model);
  const optional = new Set(graph!.initializer.map(({ name }) => name));
  const feeds = new Map<string, Tensor>(more);
  for (const { name, type } of graph!.input) {
    if (optional.has(name)) continue;
    const dims = type!.value.case === "tensorType" ? type!.value.value.shape!.dim : [];
    const shape = dims.map(({ value }) =>
      value.case === "dimValue" ? Number(value.value) : value.value === "batch_size" ? 1 : 0,
    );
    const row = (values: Iterable<number>): Tensor => {
      return { dtype: "int64", shape: [1, ids.length], data: BigInt64Array.from(values, BigInt) };
    };
    if (name === "input_ids") feeds.set(name, row(ids));
    else if (name === "attention_mask") feeds.set(name, row(ids.map(() => 1)));
    else if (name === "position_ids") feeds.set(name, row(ids.keys()));
    else feeds.set(name, float32(shape, new Float32Array()));
  }
  const executable = await nodeMachine.compile(model, { inputs: [...feeds.keys()], outputs: ["logits"] });
  const handles = [...feeds.values()].map(({ dtype, shape, data }) =>
    nodeMachine.tensor(dtype as "float32", shape, bytesOf(data)),
  );
  const [logits] = await executable.run(handles, [{ index: 0 }]);
  const { shape, data } = nodeMachine.read(logits!);
  for (const handle of [...handles, logits!]) nodeMachine.free(handle);
  executable.close();
  return (data as Float32Array).slice(-shape[2]!);
}

const IDS = [5, 9, 2, 11, 7];

describe("a model as ONNX with inputs for adapters", () => {
  for (const name of ["llama-gqa-tied", "gpt2-conv1d", "qwen2-bias", "gemma3-text", "phi3-fused", "lora-embed", "lora-rslora"]) {
    it(`${name}: alone and under its adapter`, async () => {
      const folder = fresh();
      const [base, input] = [`${caseFolder(name)}/base`, `${caseFolder(name)}/adapter`];
      await convert(files, { input: base, output: `${folder}/base.onnx` });
      await convert(files, { input, output: `${folder}/a.onnx_adapter`, base });
      const stored = await readOnnxAdapter(nodeFiles, `${folder}/a.onnx_adapter`);
      const parameters = new Map([...stored].map(([key, one]) => [key, one.read()]));
      const adapter = await readAdapter(nodeFiles, input);
      const decoder = await openDecoder({ ...(await loadBase(nodeFiles, base)), openSession: openNodeSession });
      const own = () => decoder.start(leftPad([Int32Array.from(IDS)], 0));
      const alone = await own();
      await decoder.useAdapter(adapter);
      const adapted = await own();
      await decoder.close();
      near(await logitsOf(`${folder}/base.onnx`, IDS, new Map()), alone, { atol: 2e-5, rtol: 1e-5 });
      near(await logitsOf(`${folder}/base.onnx`, IDS, parameters), adapted, { atol: 5e-5, rtol: 1e-5 });
      assert.ok(greatestDifference(alone, adapted) > 1e-3);
    });
  }

  it("a base in 8 and in 4 bits takes the same adapter", async () => {
    const folder = fresh();
    const name = "llama-gqa-tied";
    const base = `${caseFolder(name)}/base`;
    await convert(files, { input: `${caseFolder(name)}/adapter`, output: `${folder}/a.onnx_adapter`, base });
    const stored = await readOnnxAdapter(nodeFiles, `${folder}/a.onnx_adapter`);
    const parameters = new Map([...stored].map(([key, one]) => [key, one.read()]));
    const logits: Record<string, Float32Array> = {};
    for (const dtype of ["f32", "q8", "q4"]) {
      await convert(files, { input: base, output: `${folder}/${dtype}.onnx`, dtype }, { openSession: openNodeSession });
      logits[dtype] = await logitsOf(`${folder}/${dtype}.onnx`, IDS, parameters);
    }
    near(logits["q8"]!, logits["f32"]!, 0.2);
    near(logits["q4"]!, logits["f32"]!, 2);
  });

  it("what exists is not written over, its data neither", async () => {
    const folder = fresh();
    const input = `${caseFolder("llama-gqa-tied")}/base`;
    writeFileSync(`${folder}/base.onnx_data`, "own");
    await refused(convert(files, { input, output: `${folder}/base.onnx` }), "file/exists");
    assert.equal(readFileSync(`${folder}/base.onnx_data`, "utf8"), "own");
  });
});

describe("ONNX Runtime adapters of strangers", () => {
  const base = `${caseFolder("lora-qv-default")}/base`;
  const module = "model.layers.0.self_attn.v_proj";
  const factors = (rank: number, more: [string, Tensor][] = []) =>
    new Map([
      [`${module}.lora_A.weight`, float32([rank, 32], new Float32Array(32 * rank).fill(0.5))],
      [`${module}.lora_B.weight`, float32([16, rank], new Float32Array(16 * rank).fill(0.25))],
      ...more,
    ]);
  const read = async (bytes: Uint8Array, limits?: { maxRank?: number }) => {
    const folder = fresh();
    writeFileSync(`${folder}/a.onnx_adapter`, bytes);
    await convert(files, { input: `${folder}/a.onnx_adapter`, output: `${folder}/a`, base }, { adapterLimits: limits });
    return readAdapter(nodeFiles, `${folder}/a`);
  };

  it("are read in any of the dtypes that factors have, with a scale of 1", async () => {
    const half = (shape: number[], bits: number): Tensor => {
      return { dtype: "float16", shape, data: new Uint16Array(shape[0]! * shape[1]!).fill(bits) };
    };
    const { modules, tensors } = await read(
      onnxAdapterBytes(
        new Map([
          [`${module}.lora_A.weight`, half([2, 32], 0x3800)],
          [`${module}.lora_B.weight`, half([16, 2], 0x3400)],
        ]),
      ),
    );
    assert.deepEqual(
      modules.map(({ path, rank, scale }) => [path, rank, scale]),
      [[module, 2, 1]],
    );
    assert.deepEqual(tensors.get(module), { loraA: new Float32Array(64).fill(0.5), loraB: new Float32Array(32).fill(0.25) });
  });

  it("are refused where they are not whole, not LoRA, or too large", async () => {
    const good = onnxAdapterBytes(factors(2));
    await read(good);
    for (const length of [8, 12, 40, good.length / 2, good.length - 4].map(Math.floor))
      await refused(read(good.subarray(0, length)), "onnx-adapter/file");
    const [a, b] = [...factors(2)];
    await refused(read(onnxAdapterBytes(new Map([a!]))), "convert/file", { got: /lora_A/ });
    await refused(read(onnxAdapterBytes(new Map())), "convert/file", { got: "no tensor" });
    await refused(read(onnxAdapterBytes(factors(2, [["other", b![1]]]))), "convert/file", { got: "other" });
    await refused(read(onnxAdapterBytes(factors(9)), { maxRank: 8 }), "convert/limit", { got: "rank 9" });
    const wide: [string, Tensor] = [a![0], float32([2, 31], new Float32Array(62))];
    await refused(read(onnxAdapterBytes(new Map([wide, b!]))), "convert/file", { expected: /\[rank, 32\]/ });
    const nan: [string, Tensor] = [b![0], float32([16, 2], new Float32Array(32).fill(Number.NaN))];
    await refused(read(onnxAdapterBytes(new Map([a!, nan]))), "convert/file", { message: /not finite/ });
  });

  it("any byte that is another is read, or refused", async () => {
    const good = onnxAdapterBytes(factors(1));
    for (let at = 8; at < good.length; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const bytes = good.slice();
        bytes[at] = value;
        const path = `${fresh()}/a`;
        writeFileSync(path, bytes);
        const result = await readOnnxAdapter(nodeFiles, path).catch((error: unknown) => error);
        if (result instanceof Map) continue;
        assert.equal((result as { code?: string }).code, "onnx-adapter/file", String(result));
      }
    }
  });
});
