// safetensors files written and read back, against the reference's own files.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { bytesOf, type StoredDType } from "../../src/formats/dtypes.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { readHeader, readTensor, type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { Tensor } from "../../src/tensor.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";

const CASES = `${fixtures}/cases`;

const source = (name: string, { dtype, shape, data }: Tensor): TensorSource => ({
  name,
  dtype,
  shape,
  data: () => bytesOf(data),
});
const headerText = (file: Uint8Array) => Buffer.from(file.slice(8, 8 + Number(Buffer.from(file).readBigUInt64LE(0)))).toString();

describe("safetensors", () => {
  it("gives back every dtype that a tensor can have, with an empty tensor and a scalar", async () => {
    const tensors: Record<string, Tensor> = {
      f64: { dtype: "float64", shape: [2], data: Float64Array.of(1e300, -0.1) },
      f32: { dtype: "float32", shape: [1, 3], data: Float32Array.of(1, Number.NaN, Number.POSITIVE_INFINITY) },
      f16: { dtype: "float16", shape: [2, 1], data: Uint16Array.of(0x3c00, 0x8001) },
      bf16: { dtype: "bfloat16", shape: [1], data: Uint16Array.of(0x3f80) },
      i64: { dtype: "int64", shape: [2], data: BigInt64Array.of(-1n, 2n ** 62n) },
      i32: { dtype: "int32", shape: [2], data: Int32Array.of(-1, 2 ** 31 - 1) },
      i16: { dtype: "int16", shape: [1], data: Int16Array.of(-32768) },
      i8: { dtype: "int8", shape: [3], data: Int8Array.of(-128, 0, 127) },
      u8: { dtype: "uint8", shape: [1], data: Uint8Array.of(255) },
      bool: { dtype: "bool", shape: [2], data: Uint8Array.of(0, 1) },
      scalar: { dtype: "float32", shape: [], data: Float32Array.of(7) },
      empty: { dtype: "float32", shape: [0, 4], data: new Float32Array() },
      __proto: { dtype: "float32", shape: [1], data: Float32Array.of(3) },
      'quote " \n é 漢 🙂': { dtype: "int8", shape: [1], data: Int8Array.of(1) },
    };
    const entries = [...Object.entries(tensors), ["__proto__", tensors.scalar!] as [string, Tensor]];
    const files = memoryFiles();
    await writeSafetensors(
      files,
      "f",
      entries.map(([name, tensor]) => source(name, tensor)),
      { format: "pt" },
    );
    const header = await readHeader(files, "f");
    assert.equal(header.tensors.size, 15);
    assert.deepEqual({ ...header.metadata }, { format: "pt" });
    for (const [name, tensor] of entries) assert.deepEqual(await readTensor(files, "f", header.tensors.get(name)!), tensor);
  });

  it("reads and writes the reference's files to the same bytes", async () => {
    let compared = 0;
    for (const name of ["adapter/adapter_model", "merged/model", "trained/adapter_model", "grads", "io"]) {
      for (const folder of ["llama-bf16-sharded", "lora-rslora"]) {
        const path = `${CASES}/${folder}/${name}.safetensors`;
        const original = await nodeFiles.read(path, 0, await nodeFiles.size(path));
        const { tensors, metadata } = await readHeader(nodeFiles, path);
        const files = memoryFiles();
        const sources = [...tensors].reverse().map(([tensor, { dtype, shape, offset, length }]): TensorSource => {
          return { name: tensor, dtype, shape, data: () => nodeFiles.read(path, offset, length) };
        });
        await writeSafetensors(files, "copy", sources, metadata);
        assert.deepEqual(files.contents.get("copy"), original, path);
        compared++;
      }
    }
    assert.equal(compared, 10);
  });

  it("orders by dtype alignment then name, and pads the header to 8 bytes", async () => {
    const files = memoryFiles();
    const rows: [string, StoredDType, number][] = [
      ["b", "bool", 1],
      ["z", "float32", 4],
      ["a", "bfloat16", 2],
      ["y", "float32", 4],
      ["c", "uint64", 8],
    ];
    const sources = rows.map(([name, dtype, bytes]) => ({ name, dtype, shape: [1], data: () => new Uint8Array(bytes) }));
    await writeSafetensors(files, "f", sources);
    assert.deepEqual([...(await readHeader(files, "f")).tensors.keys()], ["c", "y", "z", "a", "b"]);
    const text = headerText(files.contents.get("f")!);
    assert.equal(text.length % 8, 0);
    assert.match(text, /^\{"c":\{"dtype":"U64","shape":\[1\],"data_offsets":\[0,8\]\},.*\} *$/);
  });

  it("lists dtypes it can't read, and refuses them by name when they are read", async () => {
    const files = memoryFiles();
    const unreadable: [StoredDType, number[], number, string][] = [
      ["float8_e4m3fn", [3], 3, "F8_E4M3"],
      ["float4_e2m1fn", [4], 2, "F4"],
      ["float6_e2m3fn", [4], 3, "F6_E2M3"],
      ["uint16", [2], 4, "U16"],
      ["complex64", [1], 8, "C64"],
    ];
    const sources = unreadable.map(([dtype, shape, bytes]) => ({ name: dtype, dtype, shape, data: () => new Uint8Array(bytes) }));
    await writeSafetensors(files, "f", sources);
    const { tensors } = await readHeader(files, "f");
    for (const [dtype, shape, length, code] of unreadable) {
      const entry = tensors.get(dtype)!;
      assert.deepEqual({ shape: entry.shape, length: entry.length }, { shape, length });
      await assert.rejects(readTensor(files, "f", entry), { code: "safetensors/dtype-unsupported", message: new RegExp(code) });
    }
  });

  it("reads a tensor at an odd offset", async () => {
    const files = memoryFiles();
    const json = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}';
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(json.length));
    files.contents.set(
      "f",
      new Uint8Array(Buffer.concat([head, Buffer.from(json), Buffer.of(9), bytesOf(Float32Array.of(2.5))])),
    );
    const { tensors } = await readHeader(files, "f");
    assert.deepEqual(toFloat32(await readTensor(files, "f", tensors.get("b")!)), Float32Array.of(2.5));
  });

  it("asks for one tensor at a time and takes it in parts", async () => {
    const files = memoryFiles();
    const order: string[] = [];
    const part = (name: string): TensorSource => ({
      name,
      dtype: "int8",
      shape: [4],
      data: async function* () {
        order.push(name);
        yield Uint8Array.of(1, 2);
        yield Uint8Array.of(3, 4);
      },
    });
    await writeSafetensors(files, "f", [part("b"), part("a")]);
    assert.deepEqual(order, ["a", "b"]);
    assert.deepEqual([...files.contents.get("f")!.slice(-8)], [1, 2, 3, 4, 1, 2, 3, 4]);
  });

  it("refuses to write what it would refuse to read", async () => {
    const files = memoryFiles();
    const tensor = (name: string, shape: number[], bytes: number): TensorSource[] => [
      { name, dtype: "float32", shape, data: () => new Uint8Array(bytes) },
    ];
    const refused = async (sources: TensorSource[], code: string) =>
      assert.rejects(writeSafetensors(files, "f", sources), { code: `safetensors/${code}`, subject: "f" });
    await refused(tensor("a", [2], 4), "length");
    await refused(tensor("a", [-1, -1], 4), "shape");
    await refused(tensor("a", [2 ** 30, 2 ** 30], 4), "shape");
    await refused(tensor("__metadata__", [1], 4), "reserved-name");
    await refused([...tensor("a", [1], 4), ...tensor("b", [1], 4), ...tensor("a", [1], 4)], "duplicate-key");
    assert.equal(files.contents.size, 0);
  });
});
