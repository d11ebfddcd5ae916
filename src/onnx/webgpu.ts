// What WebGPU needs otherwise in a lowered graph: other nodes for those that compute something else there than on the processor.
import { create } from "@bufbuild/protobuf";
import {
  AttributeProto_AttributeType,
  AttributeProtoSchema,
  type GraphProto,
  type NodeProto,
  NodeProtoSchema,
  TensorProto_DataType,
  TensorProtoSchema,
} from "./proto/onnx_pb.ts";

/** WGSL's are right to 2^-11 between -π and π and worse beyond; rotary positions need all digits, and are few. */
const INEXACT = new Set(["Sin", "Cos"]);

/** Changes the graph for WebGPU; returns the names of nodes that run on the processor although WebGPU has them. */
export function forWebgpu(graph: GraphProto): string[] {
  computeStatistics(graph);
  return graph.node.filter(({ opType }) => INEXACT.has(opType)).map(({ name }) => name);
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
    const axis = constant("webgpu last axis", TensorProto_DataType.INT64, [1n], BigInt64Array.of(-1n));
    const small = constant(`webgpu epsilon ${epsilon}`, TensorProto_DataType.FLOAT, [], Float32Array.of(epsilon));
    const centred = node.opType === "LayerNormalization" ? apply("Sub", [x, apply("ReduceMean", [x, axis], statistics[0])]) : x;
    const variance = apply("ReduceMean", [apply("Mul", [centred, centred]), axis]);
    apply("Reciprocal", [apply("Sqrt", [apply("Add", [variance, small])])], deviation);
    node.output = [y!];
    return [node, ...added];
  });
}
