// Graph → ONNX ModelProto bytes. Weights stay in the checkpoint: external-data entries that point into its files.
import { create, toBinary } from "@bufbuild/protobuf";
import { type Graph, nodesOf, type Value } from "../graph/graph.ts";
import { table } from "../graph/ops/table.ts";
import { type LocateWeight, MICROSOFT, OnnxEmitter, onnxType } from "./emitter.ts";
import { type ModelProto, ModelProtoSchema, ValueInfoProtoSchema } from "./proto/onnx_pb.ts";

const OPSET = 21n;
const IR_VERSION = 10n;

/**
 * The graph as an ONNX model; `locate` says where each weight lies. Inputs and outputs keep their names. `inputs` come first, in this
 * order, those that nothing reads too: a dim may have no other source. Without `fused`, products have no transposed or scaled factors.
 */
export const lower = (graph: Graph, locate: LocateWeight, inputs: readonly Value[] = [], fused = true): Uint8Array =>
  toBinary(ModelProtoSchema, lowered(graph, locate, inputs, fused));

/** `lower`, before it is bytes. */
export function lowered(graph: Graph, locate: LocateWeight, inputs: readonly Value[] = [], fused = true): ModelProto {
  const nodes = [...new Set([...inputs.map(({ node }) => node), ...nodesOf(graph)])];
  const used = new Set<Value>([...Object.values(graph.outputs), ...nodes.flatMap((node) => node.inputs)]);
  const emit = new OnnxEmitter(locate, used, fused);
  const names = new Map<Value, string>();
  // Inputs first, so that every dim symbol has a source before a shape asks for it.
  const order = [...nodes.filter((node) => node.op === "input"), ...nodes.filter((node) => node.op !== "input")];
  for (const node of order) {
    const read = node.inputs.map((value) => names.get(value)!);
    for (const [i, name] of table()[node.op].lower(emit, node, read).entries()) names.set(node.outputs[i]!, name);
  }
  const output = Object.entries(graph.outputs).map(([name, value]) => {
    emit.output(name, names.get(value)!);
    const type = { value: { case: "tensorType" as const, value: { elemType: onnxType[value.dtype]! } } };
    return create(ValueInfoProtoSchema, { name, type });
  });
  return create(ModelProtoSchema, {
    irVersion: IR_VERSION,
    producerName: "lowrank",
    opsetImport: [
      { domain: "", version: OPSET },
      { domain: MICROSOFT, version: 1n },
    ],
    graph: { name: "lowrank", node: emit.finished(), initializer: emit.initializers, input: emit.inputs, output },
  });
}
