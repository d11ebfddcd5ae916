// ONNX Runtime behind the Machine interface, in this process: runs go on the library's threads, tensors stay in its memory.
import koffi from "koffi";
import { tensorFromBytes } from "../../../formats/dtypes.ts";
import type { ElementType } from "../../../graph/graph.ts";
import { checkCounts } from "../../../options.ts";
import type { CompileOptions, Executable, Handle, Machine } from "../../../runtime/machine.ts";
import { MAX_THREADS } from "../../../runtime/session.ts";
import { bytesPerElement, type Tensor } from "../../../tensor.ts";
import { type Api, api, type Pointer } from "./api.ts";

/** ONNXTensorElementDataType. */
export const elementTypes: Record<ElementType, number> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  bfloat16: 16,
};
const dtypeOf = new Map(Object.entries(elementTypes).map(([dtype, number]) => [number, dtype as ElementType]));

const LOG_ERRORS = 3;
/** Constants are folded, and what is double is removed; the larger fusions find nothing here and take seconds to look for it. */
const BASIC = 1;
const ARENA = 1;
const DEFAULT_MEMORY = 0;

export interface Library extends Api {
  environment: Pointer;
  cpu: Pointer;
}

let library: Library | undefined;

/** The library with one environment, whose sessions share one arena of memory. */
export function open(): Library {
  if (library) return library;
  const loaded = api();
  const environment = loaded.made("CreateEnv", LOG_ERRORS, "lowrank");
  const cpu = loaded.made("CreateCpuMemoryInfo", ARENA, DEFAULT_MEMORY);
  loaded.call.CreateAndRegisterAllocator(environment, cpu, null);
  library = { ...loaded, environment, cpu };
  return library;
}

/** Zero-terminated texts and the array of pointers to them, as C functions take names. */
interface Names {
  pointers: BigUint64Array;
  texts: Buffer[];
}

function names(texts: readonly string[]): Names {
  const encoded = texts.map((text) => Buffer.from(`${text}\0`));
  return { pointers: BigUint64Array.from(encoded, (text) => koffi.address(text)), texts: encoded };
}

/** A model in the engine. */
export interface Compiled extends Pick<Executable, "close"> {
  handle: Pointer;
  inputs: Names;
  outputs: Names;
}

/** Threads of sessions that are given no number: LOWRANK_THREADS, or 0 for all cores. Throws `runtime/option` for any other value. */
function usualThreads(): number {
  const LOWRANK_THREADS = Number(process.env["LOWRANK_THREADS"] ?? 0);
  checkCounts("runtime/option", { LOWRANK_THREADS }, { least: 0, most: MAX_THREADS });
  return LOWRANK_THREADS;
}

/** Makes a session; `append` may add to its options. */
export async function compile(
  model: Uint8Array,
  options: CompileOptions,
  append?: (session: Pointer) => void,
): Promise<Compiled> {
  const { call, later, made, release, environment } = open();
  const session = made("CreateSessionOptions");
  const out = new BigUint64Array(1);
  try {
    call.SetSessionGraphOptimizationLevel(session, BASIC);
    call.DisableMemPattern(session); // it would hold a second copy of all activations
    call.SetIntraOpNumThreads(session, options.threads ?? usualThreads());
    const entries: Record<string, string> = {
      "session.use_env_allocators": "1",
      "session.force_spinning_stop": "1",
      "session.use_device_allocator_for_initializers": "1",
      ...(options.weightsFolder && { "session.model_external_initializers_file_folder_path": options.weightsFolder }),
    };
    for (const [key, value] of Object.entries(entries)) call.AddSessionConfigEntry(session, key, value);
    if (options.weights?.size) {
      const { pointers, texts } = names([...options.weights.keys()]);
      call.AddExternalInitializers(session, pointers, BigUint64Array.from(options.weights.values()), texts.length);
    }
    if (options.profile !== undefined) call.EnableProfiling(session, pathBytes(options.profile));
    append?.(session);
    await later.CreateSessionFromArray(environment, model, model.length, session, out);
  } finally {
    release.ReleaseSessionOptions(session);
  }
  const handle = out[0]!;
  return {
    handle,
    inputs: names(options.inputs),
    outputs: names(options.outputs),
    close() {
      if (options.profile !== undefined) made("SessionEndProfiling", handle, made("GetAllocatorWithDefaultOptions"));
      release.ReleaseSession(handle);
    },
  };
}

async function compileHere(model: Uint8Array, options: CompileOptions): Promise<Executable> {
  const compiled = await compile(model, options);
  return {
    async run(inputs, wanted) {
      const values = BigUint64Array.from(inputs);
      const asked = BigUint64Array.from(wanted, ({ index }) => compiled.outputs.pointers[index]!);
      const results = BigUint64Array.from(wanted, ({ place }) => place ?? 0n);
      const { pointers } = compiled.inputs;
      await open().later.Run(compiled.handle, null, pointers, values, values.length, asked, asked.length, results);
      return [...results];
    },
    close: compiled.close,
  };
}

/** A path as the library takes it: wide characters on Windows. */
const pathBytes = (path: string): Buffer => Buffer.from(`${path}\0`, process.platform === "win32" ? "utf16le" : "utf8");

function read(handle: Handle): Tensor {
  const { call, made, release } = open();
  const info = made("GetTensorTypeAndShape", handle);
  try {
    const element = new Int32Array(1);
    call.GetTensorElementType(info, element);
    const rank = Number(made("GetDimensionsCount", info));
    const dims = new BigInt64Array(rank);
    call.GetDimensions(info, dims, rank);
    const shape = [...dims].map(Number);
    const dtype = dtypeOf.get(element[0]!)!;
    const length = shape.reduce((product, dim) => product * dim, bytesPerElement[dtype]);
    const bytes = new Uint8Array(length);
    if (length > 0) bytes.set(new Uint8Array(koffi.view(made("GetTensorMutableData", handle), length)));
    return tensorFromBytes(dtype, shape, bytes);
  } finally {
    release.ReleaseTensorTypeAndShapeInfo(info);
  }
}

/** The memory of tensors that were made over JavaScript's, which must not be collected before they are freed. */
const held = new Map<Handle, Uint8Array>();

export const nodeMachine: Machine = {
  compile: compileHere,
  tensor(dtype, shape, bytes) {
    const { made, cpu } = open();
    const dims = BigInt64Array.from(shape, BigInt);
    const address = bytes.length > 0 ? koffi.address(bytes) : koffi.address(new Uint8Array(8));
    const type = elementTypes[dtype];
    const handle = made("CreateTensorWithDataAsOrtValue", cpu, address, bytes.length, dims, dims.length, type);
    held.set(handle, bytes);
    return handle;
  },
  allocate(length) {
    const { made, release } = open();
    const allocator = made("GetAllocatorWithDefaultOptions");
    const tensor = made("CreateTensorAsOrtValue", allocator, BigInt64Array.of(BigInt(length)), 1, elementTypes.uint8);
    const bytes = new Uint8Array(koffi.view(made("GetTensorMutableData", tensor), length));
    return { bytes, free: () => release.ReleaseValue(tensor) };
  },
  read,
  free(handle) {
    held.delete(handle);
    open().release.ReleaseValue(handle);
  },
};
