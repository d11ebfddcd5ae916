// What ONNX Runtime Web needs otherwise in a lowered model: weights as float32 data beside it, and what WebGPU asks for.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Files } from "../../files.ts";
import { readRows } from "../../formats/stored.ts";
import { inFolder } from "../../onnx/emitter.ts";
import {
  type GraphProto,
  ModelProtoSchema,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation,
  TensorProto_DataType,
} from "../../onnx/proto/onnx_pb.ts";
import { forWebgpu } from "../../onnx/webgpu.ts";
import type { WeightSource } from "../../runtime/session.ts";

export interface PreparedModel {
  model: Uint8Array;
  /** The weights by the locations that the model has for them. */
  weights: { path: string; data: Uint8Array<ArrayBuffer> }[];
  /** Nodes that run on the processor although the engine has them. */
  cpuNodes: string[];
}

/** A model for ONNX Runtime Web; its weights are read. */
export async function prepareModel(
  bytes: Uint8Array,
  source: WeightSource | undefined,
  { files, gpu }: { files: Files; gpu: boolean },
): Promise<PreparedModel> {
  const model = fromBinary(ModelProtoSchema, bytes);
  const graph = model.graph!;
  const weights = source ? await takeWeights(graph, source, files) : [];
  const cpuNodes = gpu ? forWebgpu(graph) : [];
  return { model: toBinary(ModelProtoSchema, model), weights, cpuNodes };
}

/** Each stored weight as float32: the WebGPU build converts no bfloat16. */
async function takeWeights(graph: GraphProto, source: WeightSource, files: Files): Promise<PreparedModel["weights"]> {
  const weights: PreparedModel["weights"] = [];
  for (const tensor of graph.initializer) {
    if (tensor.dataLocation !== TensorProto_DataLocation.EXTERNAL) continue;
    const stored = source.locate(tensor.name);
    const values = await readRows(files, inFolder(source.folder, stored));
    const data = new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength);
    const entries = { location: tensor.name, offset: "0", length: String(data.length) };
    tensor.dataType = TensorProto_DataType.FLOAT;
    tensor.externalData = Object.entries(entries).map(([key, value]) => create(StringStringEntryProtoSchema, { key, value }));
    weights.push({ path: tensor.name, data });
  }
  return weights;
}
