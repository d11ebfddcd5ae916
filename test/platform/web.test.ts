// What of the browser's platform is TypeScript alone: files in memory, and models made ready for ONNX Runtime Web.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { gradients } from "../../src/graph/autodiff.ts";
import { check, type ElementType } from "../../src/graph/graph.ts";
import { add, cos } from "../../src/graph/ops/elementwise.ts";
import { input, weight } from "../../src/graph/ops/leaves.ts";
import { layerNorm, rmsNorm } from "../../src/graph/ops/normalization.ts";
import { reduceSum } from "../../src/graph/ops/reduction.ts";
import { lower } from "../../src/onnx/lower.ts";
import { ModelProtoSchema } from "../../src/onnx/proto/onnx_pb.ts";
import { nodeMachine } from "../../src/platform/node/engine/machine.ts";
import { webFiles } from "../../src/platform/web/files.ts";
import { prepareModel } from "../../src/platform/web/model.ts";
import { normal, purpose } from "../../src/random.ts";
import { float32, type Tensor } from "../../src/tensor.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const text = async (files: ReturnType<typeof webFiles>, path: string) =>
  new TextDecoder().decode(await files.read(path, 0, await files.size(path)));

test("files are written, added to, renamed and removed; folders appear and move with what they hold", async () => {
  const files = webFiles({ "model/config.json": bytes("{}") });
  assert.equal(await text(files, "./model//config.json"), "{}");
  await files.makeFolder("run/deep");
  await files.write("run/log", [bytes("one "), bytes("two")]);
  await files.append("run/log", bytes(" three"));
  await files.write("run/deep/file", bytes("x"));
  assert.equal(await text(files, "run/log"), "one two three");
  assert.deepEqual(await files.list("run"), ["deep", "log"]);
  assert.deepEqual(
    [await files.isFolder("run"), await files.isFolder("run/log"), await files.exists("run/no")],
    [true, false, false],
  );
  await files.rename("run", "moved");
  assert.deepEqual([await files.exists("run"), await text(files, "moved/deep/file")], [false, "x"]);
  await files.remove("moved");
  assert.deepEqual(
    [await files.exists("moved"), await files.exists("moved/deep"), await files.list("")],
    [false, false, ["model"]],
  );
});

test("a chunk's memory can be used again once it is written", async () => {
  const files = webFiles();
  const chunk = bytes("a");
  const chunks = async function* () {
    yield chunk;
    chunk[0] = bytes("b")[0]!;
    yield chunk;
  };
  await files.write("file", chunks());
  assert.equal(await text(files, "file"), "ab");
});

test("what is wrong with a path has Node's code", async () => {
  const files = webFiles({ "folder/file": bytes("abc") });
  const refused: [Promise<unknown>, string][] = [
    [files.size("folder"), "file/not-regular"],
    [files.read("none", 0, 1), "file/missing"],
    [files.read("folder/file", 1, 3), "file/past-end"],
    [files.list("none"), "file/missing"],
    [files.write("none/file", bytes("")), "file/missing"],
    [files.rename("folder", "folder/file"), "file/not-empty"],
  ];
  for (const [work, code] of refused) await assert.rejects(work, { code });
});

/** What a lowered model computes on Node. */
async function runModel(model: Uint8Array, feeds: Record<string, Tensor>, outputs: string[]): Promise<Record<string, Tensor>> {
  const executable = await nodeMachine.compile(model, { inputs: Object.keys(feeds), outputs, threads: 1 });
  const inputs = Object.values(feeds).map(({ dtype, shape, data }) =>
    nodeMachine.tensor(dtype as ElementType, shape, new Uint8Array(data.buffer)),
  );
  const handles = await executable.run(
    inputs,
    outputs.map((_, index) => ({ index })),
  );
  const results = Object.fromEntries(outputs.map((name, i) => [name, nodeMachine.read(handles[i]!)]));
  for (const handle of [...inputs, ...handles]) nodeMachine.free(handle);
  executable.close();
  return results;
}

test("on WebGPU the statistics of normalisations are computed by nodes of their own, and gradients stay the same", async () => {
  const [x, w, b] = [input("x", "float32", [5, 8]), input("w", "float32", [8]), input("b", "float32", [8])];
  const y = add(rmsNorm(x, w, 1e-5), layerNorm(x, w, b, 1e-5));
  const [dx, dw] = gradients(reduceSum(cos(y), [0, 1]), [x, w]);
  const model = lower(check({ outputs: { y, dx: dx!, dw: dw! } }), () => assert.fail("no weight is read"));
  const prepared = await prepareModel(model, undefined, { files: webFiles(), gpu: true });
  const nodes = fromBinary(ModelProtoSchema, prepared.model).graph!.node;
  const norms = nodes.filter(({ opType }) => opType.endsWith("LayerNormalization"));
  assert.deepEqual(
    norms.map(({ output }) => output.length),
    [1, 1],
  );
  assert.equal(prepared.cpuNodes.length, nodes.filter(({ opType }) => opType === "Cos" || opType === "Sin").length);
  assert.ok(prepared.cpuNodes.length > 0);
  const draw = (shape: number[], i: number) =>
    float32(shape, normal(1, [purpose.sample, i, 0], new Float32Array(shape.reduce((a, n) => a * n))));
  const feeds = { x: draw([5, 8], 0), w: draw([8], 1), b: draw([8], 2) };
  const [expected, got] = await Promise.all([model, prepared.model].map((one) => runModel(one, feeds, ["y", "dx", "dw"])));
  for (const name of ["y", "dx", "dw"]) {
    assert.ok(expected![name]!.data.some((value) => Math.abs(Number(value)) > 0.01));
    for (const [i, value] of got![name]!.data.entries())
      assert.ok(Math.abs(Number(value) - Number(expected![name]!.data[i])) < 1e-5, `${name}[${i}]`);
  }
});

test("weights become float32 data beside the model", async () => {
  const stored = { location: "model.bin", offset: 2, length: 4, dtype: "bfloat16", shape: [2] };
  const source = { folder: "base", locate: () => stored };
  const y = add(input("x", "float32", [2]), weight("w", [2]));
  const model = lower(check({ outputs: { y } }), source.locate);
  const files = webFiles({ "base/model.bin": Uint8Array.of(0, 0, 0x80, 0x3f, 0x20, 0xc0) });
  const { weights } = await prepareModel(model, source, { files, gpu: false });
  assert.deepEqual(
    weights.map(({ path, data }) => [path, [...new Float32Array(data.buffer)]]),
    [["w", [1, -2.5]]],
  );
});
