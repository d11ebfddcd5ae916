// ONNX Runtime Web behind the Session interface, each session in a Web Worker of its own.
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Files } from "../../files.ts";
import { toFloat32 } from "../../formats/float.ts";
import { readTensor, type TensorEntry } from "../../formats/safetensors.ts";
import { ModelProtoSchema, TensorProto_DataLocation, TensorProto_DataType } from "../../onnx/proto/onnx_pb.ts";
import type { OpenSession, WeightSource } from "../../runtime/session.ts";
import { openInWorker, type Reply } from "../../runtime/worker-session.ts";

/** The engine's builds: kernels on the processor, or on the graphics card with the processor's for what those lack. */
export type WebEngine = "wasm" | "webgpu";

export interface WebEngineOptions {
  engine: WebEngine;
  /** Where ONNX Runtime's .mjs and .wasm files lie, if not beside the bundle: a folder's address, or that of each. */
  wasmPaths?: string | { mjs?: string; wasm?: string };
}

/** What the worker opens. */
export interface WebModel extends WebEngineOptions {
  model: Uint8Array;
  weights: { path: string; data: Uint8Array }[];
  threads?: number;
}

/** Opens sessions in workers. Weights are read from `files`, and computed with in float32. */
export const webSessions =
  (files: Files, engine: WebEngineOptions): OpenSession =>
  async (model, { weights, threads } = {}) => {
    const opened: WebModel = { ...engine, ...(await withWeights(files, model, weights)), threads };
    const transfer = opened.weights.map(({ data }) => data.buffer as ArrayBuffer);
    return openInWorker(
      ({ reply, failed }) => {
        const worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
        worker.onmessage = ({ data }: MessageEvent<Reply>) => reply(data);
        worker.onerror = ({ message }) => failed(message || "the worker does not start");
        return {
          post: (request, transfer = []) => worker.postMessage(request, transfer),
          terminate: () => {
            worker.terminate();
            failed("the session is closed");
          },
        };
      },
      opened,
      transfer,
    );
  };

/** The model with each weight as float32 data of its own: ONNX Runtime's WebGPU converts no bfloat16. */
async function withWeights(files: Files, bytes: Uint8Array, source?: WeightSource): Promise<Pick<WebModel, "model" | "weights">> {
  const model = fromBinary(ModelProtoSchema, bytes);
  const weights: WebModel["weights"] = [];
  for (const tensor of model.graph?.initializer ?? []) {
    if (tensor.dataLocation !== TensorProto_DataLocation.EXTERNAL || !source) continue;
    const stored = source.locate(tensor.name);
    const values = toFloat32(
      await readTensor(files, `${source.folder}/${stored.location}`, stored as TensorEntry & typeof stored),
    );
    const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const entries = { location: tensor.name, offset: "0", length: String(data.length) };
    tensor.dataType = TensorProto_DataType.FLOAT;
    tensor.externalData = Object.entries(entries).map(([key, value]) => ({
      $typeName: "onnx.StringStringEntryProto",
      key,
      value,
    }));
    weights.push({ path: tensor.name, data });
  }
  return { model: toBinary(ModelProtoSchema, model), weights };
}
