// What ONNX Runtime Web needs otherwise in a lowered model: weights as float32 data beside it and, on WebGPU, other nodes for
// those that compute something else there than on the processor.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Files } from "../../files.ts";
import { readRows } from "../../formats/stored.ts";
import { inFolder } from "../../onnx/emitter.ts";
import {
  AttributeProto_AttributeType,
  AttributeProtoSchema,
  type GraphProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation,
  TensorProto_DataType,
  TensorProtoSchema,
} from "../../onnx/proto/onnx_pb.ts";
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
  if (gpu) computeStatistics(graph);
  const cpuNodes = gpu ? graph.node.filter(({ opType }) => INEXACT.has(opType)).map(({ name }) => name) : [];
  return { model: toBinary(ModelProtoSchema, model), weights, cpuNodes };
}

/** WGSL's are right to 2^-11 between -π and π and worse beyond; rotary positions need all digits, and are few. */
const INEXACT = new Set(["Sin", "Cos"]);

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

/** The normalisations' further outputs, which WebGPU leaves unwritten: the mean and 1/√(variance + ε) of each row. */
function computeStatistics(graph: GraphProto): void {
  const constants = new Set<string>();
  const constant = (
    name: string,
    dataType: TensorProto_DataType,
    dims: bigint[],
    values: Float32Array | BigInt64Array,
  ): string => {
    if (!constants.has(name)) {
      const rawData = new Uint8Array(values.buffer as ArrayBuffer);
      graph.initializer.push(create(TensorProtoSchema, { name, dims, dataType, rawData }));
      constants.add(name);
    }
    return name;
  };
  graph.node = graph.node.flatMap((node) => {
    const [y, ...statistics] = node.output;
    const deviation = statistics.at(-1);
    if (!/^(Simplified)?LayerNormalization$/.test(node.opType) || deviation === undefined) return [node];
    const x = node.input[0]!;
    const epsilon = node.attribute.find(({ name }) => name === "epsilon")!.f;
    const added: NodeProto[] = [];
    const apply = (opType: string, input: string[], output = `${deviation}_${added.length}`): string => {
      const attribute =
        opType === "ReduceMean"
          ? [create(AttributeProtoSchema, { name: "keepdims", type: AttributeProto_AttributeType.INT, i: 1n })]
          : [];
      added.push(create(NodeProtoSchema, { name: output, opType, input, output: [output], attribute }));
      return output;
    };
    const axis = constant("web last axis", TensorProto_DataType.INT64, [1n], BigInt64Array.of(-1n));
    const small = constant(`web epsilon ${epsilon}`, TensorProto_DataType.FLOAT, [], Float32Array.of(epsilon));
    const centred = node.opType === "LayerNormalization" ? apply("Sub", [x, apply("ReduceMean", [x, axis], statistics[0])]) : x;
    const variance = apply("ReduceMean", [apply("Mul", [centred, centred]), axis]);
    apply("Reciprocal", [apply("Sqrt", [apply("Add", [variance, small])])], deviation);
    node.output = [y!];
    return [node, ...added];
  });
}
