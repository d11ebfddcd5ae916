// Collects ONNX nodes for the rules of the operator table; names are made here, equal constants are shared.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { LowrankError } from "../errors.ts";
import { isBlockDType } from "../formats/gguf/blocks.ts";
import type { CheckpointTensor } from "../formats/stored.ts";
import { type Dim, polynomial, type Shape, sameShape } from "../graph/dims.ts";
import type { AttributeValue, Emitter, NodeAttributes, ProductFlags } from "../graph/emitter.ts";
import type { ElementType, Type, Value } from "../graph/graph.ts";
import { bytesPerElement, sizeOf } from "../tensor.ts";
import {
  type AttributeProto,
  AttributeProtoSchema,
  AttributeProto_AttributeType as Kind,
  type NodeProto,
  NodeProtoSchema,
  type TensorProto,
  TensorProto_DataLocation,
  TensorProto_DataType,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "./proto/onnx_pb.ts";

/** Where a stored tensor lies; `location` is relative to the folder the session is given. */
export interface StoredTensor extends Omit<CheckpointTensor, "file" | "dtype"> {
  location: string;
  dtype: string;
}

/** A stored tensor as a checkpoint has it, of a source whose files lie below `folder`. */
export const inFolder = (folder: string, stored: StoredTensor): CheckpointTensor =>
  ({ ...stored, file: folder === "" ? stored.location : `${folder}/${stored.location}` }) as CheckpointTensor;

export type LocateWeight = (name: string) => StoredTensor;

/** The element types that can be stored and computed with. */
export const onnxType: Record<string, TensorProto_DataType | undefined> = {
  float32: TensorProto_DataType.FLOAT,
  float64: TensorProto_DataType.DOUBLE,
  float16: TensorProto_DataType.FLOAT16,
  bfloat16: TensorProto_DataType.BFLOAT16,
  int32: TensorProto_DataType.INT32,
  int64: TensorProto_DataType.INT64,
  int8: TensorProto_DataType.INT8,
  uint8: TensorProto_DataType.UINT8,
  bool: TensorProto_DataType.BOOL,
};

/** The domain of ONNX Runtime's own ops, and those of them that are used. */
export const MICROSOFT = "com.microsoft";
const MICROSOFT_OPS = new Set(["FusedMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QuickGelu", "RotaryEmbedding"]);

export class OnnxEmitter implements Emitter {
  private readonly emitted: NodeProto[] = [];
  private readonly renamed = new Map<string, string>();
  readonly initializers: TensorProto[] = [];
  readonly inputs: ValueInfoProto[] = [];
  private readonly known = new Map<string, string>();
  private readonly symbols = new Map<string, { input: string; axis: number }>();
  private readonly produced = new Set<string>();
  private count = 0;

  constructor(
    private readonly locate: LocateWeight,
    private readonly used: ReadonlySet<Value>,
    /** Whether the engine's kernels take transposed and scaled factors. */
    private readonly fused = true,
  ) {}

  isUsed(value: Value): boolean {
    return this.used.has(value);
  }

  node(opType: string, inputs: readonly string[], attributes: NodeAttributes = {}): string {
    return this.nodes(opType, inputs, 1, attributes)[0]!;
  }

  nodes(opType: string, inputs: readonly string[], outputs: number, attributes: NodeAttributes = {}): string[] {
    const names = Array.from({ length: outputs }, () => `${opType}_${this.count++}`);
    for (const name of names) this.produced.add(name);
    const attribute = Object.entries(attributes).map(([name, value]) => attributeProto(name, value));
    const domain = MICROSOFT_OPS.has(opType) ? MICROSOFT : "";
    this.emitted.push(create(NodeProtoSchema, { opType, domain, input: [...inputs], output: names, name: names[0]!, attribute }));
    return names;
  }

  /** Makes `value` an output of the model called `name`. */
  output(name: string, value: string): void {
    const free = !this.renamed.has(value) && this.produced.has(value);
    this.renamed.set(free ? value : this.node("Identity", [value]), name);
  }

  /** The emitted nodes, with the outputs under their own names. */
  finished(): NodeProto[] {
    const named = (value: string) => this.renamed.get(value) ?? value;
    for (const node of this.emitted) {
      node.input = node.input.map(named);
      node.output = node.output.map(named);
    }
    return this.emitted;
  }

  shared(opType: string, inputs: readonly string[], attributes: NodeAttributes = {}): string {
    return this.once(`${opType} ${inputs} ${JSON.stringify(attributes)}`, () => this.node(opType, inputs, attributes));
  }

  private once(key: string, make: () => string): string {
    const name = this.known.get(key) ?? make();
    this.known.set(key, name);
    return name;
  }

  constant(dtype: ElementType, shape: readonly number[], values: readonly number[]): string {
    return this.once(`constant ${dtype} ${shape} ${values}`, () => {
      const name = `const_${this.count++}`;
      const dims = shape.map(BigInt);
      this.initializers.push(
        create(TensorProtoSchema, { name, dims, dataType: onnxType[dtype]!, rawData: rawBytes(dtype, values) }),
      );
      return name;
    });
  }

  int64(value: number): string {
    return this.constant("int64", [1], [value]);
  }

  input(name: string, { dtype, shape }: Type): string {
    shape.forEach((dim, axis) => {
      if (typeof dim === "string" && !/[+*]/.test(dim) && !this.symbols.has(dim)) this.symbols.set(dim, { input: name, axis });
    });
    const dim = shape.map((d) => ({
      value: typeof d === "number" ? { case: "dimValue" as const, value: BigInt(d) } : { case: "dimParam" as const, value: d },
    }));
    this.inputs.push(
      create(ValueInfoProtoSchema, {
        name,
        type: { value: { case: "tensorType", value: { elemType: onnxType[dtype]!, shape: { dim } } } },
      }),
    );
    return name;
  }

  weight(name: string, { dtype, shape }: Type, of?: string): string {
    return this.once(`weight ${name}`, () => {
      const stored = of === undefined ? this.locate(name) : partOf(this.locate(of), { dtype, shape });
      if (of === undefined) checkStored(name, shape, stored);
      const entries = { location: stored.location, offset: String(stored.offset), length: String(stored.length) };
      this.initializers.push(
        create(TensorProtoSchema, {
          name,
          dims: stored.shape.map(BigInt),
          dataType: onnxType[stored.dtype]!,
          dataLocation: TensorProto_DataLocation.EXTERNAL,
          externalData: Object.entries(entries).map(([key, value]) => ({ key, value })),
        }),
      );
      return stored.dtype === dtype ? name : this.cast(name, dtype);
    });
  }

  dim(dim: Dim): string {
    if (typeof dim === "number") return this.int64(dim);
    return this.once(`dim ${dim}`, () => {
      const terms = [...polynomial(dim)].map(([monomial, coefficient]) => {
        const factors = monomial === "" ? [] : monomial.split("*").map((symbol) => this.symbol(symbol));
        if (coefficient !== 1 || factors.length === 0) factors.push(this.int64(coefficient));
        return factors.reduce((a, b) => this.node("Mul", [a, b]));
      });
      return terms.reduce((a, b) => this.node("Add", [a, b]));
    });
  }

  private symbol(symbol: string): string {
    return this.once(`symbol ${symbol}`, () => {
      const source = this.symbols.get(symbol);
      if (!source) throw new LowrankError("onnx/symbol", `no input carries the dim ${symbol}`, { exitCode: 1 });
      return this.node("Shape", [source.input], { start: source.axis, end: source.axis + 1 });
    });
  }

  /** The dims as int64 [rank]; with `findsOne` -1 in the place of one that no input carries, which a reshape finds. */
  shape(shape: Shape, findsOne = false): string {
    if (shape.every((dim) => typeof dim === "number")) return this.constant("int64", [shape.length], shape as number[]);
    const unknown = findsOne ? shape.filter((dim) => !this.isCarried(dim)) : [];
    const dims = () => shape.map((dim) => (unknown.length === 1 && dim === unknown[0] ? this.int64(-1) : this.dim(dim)));
    return this.once(`shape ${shape.join(",")}`, () => this.concat(dims(), 0));
  }

  private isCarried(dim: Dim): boolean {
    if (typeof dim === "number") return true;
    return [...polynomial(dim).keys()].every((monomial) =>
      monomial.split("*").every((one) => one === "" || this.symbols.has(one)),
    );
  }

  reshape(x: string, shape: Shape): string {
    const found = shape.map((dim) => (typeof dim === "number" ? dim : -1));
    const isFound = found.filter((dim) => dim === -1).length === 1 && !shape.includes(0);
    const target = isFound ? this.constant("int64", [shape.length], found) : this.shape(shape, !shape.includes(0));
    return this.shared("Reshape", [x, target], { allowzero: shape.includes(0) ? 1 : 0 });
  }

  cast(x: string, to: ElementType): string {
    return this.node("Cast", [x], { to: onnxType[to]! });
  }

  slice(x: string, axis: number, start: string, end: string): string {
    return this.shared("Slice", [x, start, end, this.int64(axis)]);
  }

  concat(parts: readonly string[], axis: number): string {
    return parts.length === 1 ? parts[0]! : this.node("Concat", parts, { axis });
  }

  sum(parts: readonly string[]): string {
    return parts.reduce((a, b) => this.node("Add", [a, b]));
  }

  matmul(type: Type, a: string, b: string, { transA = false, transB = false, alpha = 1 }: ProductFlags): string {
    // FusedMatMul has a float kernel only.
    if (this.fused && type.dtype === "float32" && (transA || transB || alpha !== 1)) {
      return this.node("FusedMatMul", [a, b], { transA: Number(transA), transB: Number(transB), alpha });
    }
    const axes = type.shape.map((_, i) => i);
    const perm = [...axes.slice(0, -2), axes.length - 1, axes.length - 2];
    const swapped = (x: string, yes: boolean) => (yes ? this.node("Transpose", [x], { perm }) : x);
    const product = this.node("MatMul", [swapped(a, transA), swapped(b, transB)]);
    return alpha === 1 ? product : this.node("Mul", [product, this.constant(type.dtype, [], [alpha])]);
  }
}

/** Whether a part of a weight is the weight as it is stored: the engine reads it in place. */
export const isInPlace = (stored: StoredTensor, { dtype, shape }: Type): boolean =>
  stored.dtype === dtype && !stored.layout && sameShape(stored.shape, shape);

/** Where a part of a weight lies: in the weight's place, or nowhere, since the engine is given it. */
function partOf(whole: StoredTensor, type: Type): StoredTensor {
  if (isInPlace(whole, type)) return whole;
  const { dtype } = type;
  const shape = type.shape.map(Number);
  return { location: "given", offset: 0, length: sizeOf(shape) * bytesPerElement[dtype], dtype, shape };
}

function attributeProto(name: string, value: AttributeValue): AttributeProto {
  const proto = (fields: MessageInitShape<typeof AttributeProtoSchema>) => create(AttributeProtoSchema, { name, ...fields });
  if (typeof value === "string") return proto({ type: Kind.STRING, s: new TextEncoder().encode(value) });
  if (typeof value === "object") return proto({ type: Kind.INTS, ints: value.map(BigInt) });
  if (FLOAT_ATTRIBUTES.has(name)) return proto({ type: Kind.FLOAT, f: Number(value) });
  return proto({ type: Kind.INT, i: BigInt(value) });
}

const FLOAT_ATTRIBUTES = new Set(["alpha", "beta", "epsilon"]);

function rawBytes(dtype: ElementType, values: readonly number[]): Uint8Array<ArrayBuffer> {
  if (dtype === "int64") return new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
  const arrays = { float32: Float32Array, float64: Float64Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array };
  const array = arrays[dtype === "bool" ? "uint8" : (dtype as keyof typeof arrays)];
  return new Uint8Array(array.from(values).buffer);
}

/** Fails where a weight is stored in another shape than the graph reads it in, or in a dtype that is not computed with. */
export function checkStored(name: string, shape: Shape, stored: StoredTensor): void {
  if (!sameShape(stored.shape, shape)) {
    throw new LowrankError("checkpoint/shape", "the stored tensor's shape does not match config.json", {
      subject: name,
      expected: `[${shape.join(", ")}]`,
      got: `[${stored.shape.join(", ")}] in ${stored.location}`,
      next: "config.json and the weights must come from the same model; fetch both again.",
    });
  }
  if (STORED.has(stored.dtype) || isBlockDType(stored.dtype)) return;
  throw new LowrankError("checkpoint/dtype", "weights of this dtype are not supported", {
    subject: name,
    expected: "float32, float16 or bfloat16",
    got: stored.dtype,
    next: "Use the checkpoint's float version; quantized checkpoints are not supported yet.",
  });
}

/** What a checkpoint's weights are stored in; float64 is for proofs. */
const STORED = new Set(["float64", "float32", "float16", "bfloat16"]);
