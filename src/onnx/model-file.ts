// An ONNX model as files of its own, weights and all: in one file, or beside it as external data. Weights are written as they come.
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Files } from "../files.ts";
import type { ElementType, Graph, Value } from "../graph/graph.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import { onnxType } from "./emitter.ts";
import { lowered } from "./lower.ts";
import { GraphProtoSchema, type ModelProto, ModelProtoSchema, TensorProtoSchema } from "./proto/onnx_pb.ts";

/** Protobuf's messages end at 2 GB, and so do a browser's arrays. */
export const MAX_FILE_BYTES = 2_000_000_000;
/** Where a tensor may begin in external data. */
const ALIGNED = 64;

/** The values of a weight of the graph, little-endian in row-major order. Asked for once, in order. */
export interface WeightValues {
  dtype: ElementType;
  shape: readonly number[];
  data(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

export interface ModelFileOptions {
  /** The inputs, in order. */
  inputs: readonly Value[];
  /** The most that one file may have. */
  maxBytes?: number;
  /** Those of the inputs that need not be fed: their default has 0 for each dim that is a symbol, and so no elements. */
  optional?: readonly Value[];
}

/** Bytes of a weight. */
export const bytesOfWeight = ({ dtype, shape }: Pick<WeightValues, "dtype" | "shape">): number =>
  sizeOf(shape) * bytesPerElement[dtype];

/**
 * Writes the graph to `path`, a file of a folder that exists, with ONNX's own ops where there is a choice. Weights are in it, or if they
 * are too large beside it in `path`_data, `path`_data_1 and so on. Resolves to the number of those files.
 */
export async function writeModelFile(
  files: Files,
  path: string,
  graph: Graph,
  values: ReadonlyMap<string, WeightValues>,
  { inputs, maxBytes = MAX_FILE_BYTES, optional = [] }: ModelFileOptions,
): Promise<number> {
  const total = [...values.values()].reduce((sum, one) => sum + bytesOfWeight(one), 0);
  const stem = path.slice(path.lastIndexOf("/") + 1);
  const places = placesOf(values, stem, maxBytes);
  const model = lowered(
    graph,
    (name) => ({ ...places.get(name)!, dtype: values.get(name)!.dtype, shape: [...values.get(name)!.shape] }),
    inputs,
    false,
  );
  for (const { node, dtype, shape } of optional) {
    const dims = shape.map((dim) => (typeof dim === "number" ? BigInt(dim) : 0n));
    const fields = { name: String(node.attributes["name"]), dims, dataType: onnxType[dtype]!, rawData: new Uint8Array() };
    model.graph!.initializer.push(create(TensorProtoSchema, fields));
  }
  if (toBinary(ModelProtoSchema, model).length + total <= maxBytes) {
    await files.write(path, embedded(model, values));
    return 0;
  }
  const locations = [...new Set([...places.values()].map(({ location }) => location))];
  const folder = path.slice(0, path.length - stem.length);
  for (const location of locations) {
    const own = [...places].filter(([, place]) => place.location === location);
    await files.write(`${folder}${location}`, external(own, values));
  }
  await files.write(path, toBinary(ModelProtoSchema, model));
  return locations.length;
}

interface Place {
  location: string;
  offset: number;
  length: number;
}

/** Where weights lie beside the model. */
function placesOf(values: ReadonlyMap<string, WeightValues>, stem: string, maxBytes: number): Map<string, Place> {
  const places = new Map<string, Place>();
  let [file, end] = [0, 0];
  for (const [name, weight] of values) {
    const length = bytesOfWeight(weight);
    let offset = Math.ceil(end / ALIGNED) * ALIGNED;
    if (end > 0 && offset + length > maxBytes) [file, offset] = [file + 1, 0];
    places.set(name, { location: `${stem}_data${file === 0 ? "" : `_${file}`}`, offset, length });
    end = offset + length;
  }
  return places;
}

async function* external(places: readonly [string, Place][], values: ReadonlyMap<string, WeightValues>) {
  let end = 0;
  for (const [name, { offset, length }] of places) {
    if (offset > end) yield new Uint8Array(offset - end);
    yield* counted(name, values.get(name)!);
    end = offset + length;
  }
}

async function* counted(name: string, weight: WeightValues): AsyncGenerator<Uint8Array> {
  let length = 0;
  for await (const bytes of weight.data()) {
    length += bytes.length;
    yield bytes;
  }
  if (length !== bytesOfWeight(weight)) throw new Error(`${name} gave ${length} bytes, not ${bytesOfWeight(weight)}`);
}

/** The beginning of a field that has `length` bytes. */
const fieldOf = (number: number, length: number): Uint8Array =>
  new BinaryWriter().tag(number, WireType.LengthDelimited).uint32(length).finish();
/** Of ModelProto, GraphProto and TensorProto. */
const [GRAPH, INITIALIZER, RAW_DATA] = [7, 5, 9];

/**
 * The bytes of a model whose weights are in it. Fields of a message may come in any order, so that weights are the last fields of the
 * last one.
 */
async function* embedded(model: ModelProto, values: ReadonlyMap<string, WeightValues>): AsyncGenerator<Uint8Array> {
  const { graph, ...rest } = model;
  const own = graph!.initializer.filter(({ name }) => !values.has(name));
  const graphBytes = toBinary(GraphProtoSchema, { ...graph!, initializer: own });
  const tensors = [...values].map(([name, weight]) => {
    const fields: MessageInitShape<typeof TensorProtoSchema> = {
      name,
      dims: weight.shape.map(BigInt),
      dataType: onnxType[weight.dtype]!,
    };
    const head = toBinary(TensorProtoSchema, create(TensorProtoSchema, fields));
    const raw = fieldOf(RAW_DATA, bytesOfWeight(weight));
    const length = head.length + raw.length + bytesOfWeight(weight);
    return { name, weight, parts: [fieldOf(INITIALIZER, length), head, raw] };
  });
  const weightBytes = tensors.reduce(
    (sum, { weight, parts }) => parts.reduce((all, part) => all + part.length, sum + bytesOfWeight(weight)),
    0,
  );
  yield toBinary(ModelProtoSchema, { ...rest });
  yield fieldOf(GRAPH, graphBytes.length + weightBytes);
  yield graphBytes;
  for (const { name, weight, parts } of tensors) {
    yield* parts;
    yield* counted(name, weight);
  }
}
