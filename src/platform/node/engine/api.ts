// ONNX Runtime's C API (onnxruntime_c_api.h, whose table of functions only grows at its end), from the library in onnxruntime-node.
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import koffi from "koffi";
import { LowrankError } from "../../../errors.ts";
import { loadLibrary } from "../libraries.ts";

/** An address in the library's memory. */
export type Pointer = bigint;

/** The version of the table that is asked for; every later library has it. */
const API_VERSION = 24;

const LIBRARIES: Partial<Record<NodeJS.Platform, RegExp>> = {
  linux: /^libonnxruntime\.so(\.\d+)*$/,
  darwin: /^libonnxruntime(\.\d+)*\.dylib$/,
  win32: /^onnxruntime\.dll$/,
};

/** The library of this machine inside the package onnxruntime-node. */
export function libraryPath(): string {
  const entry = createRequire(import.meta.url).resolve("onnxruntime-node");
  const bin = join(dirname(dirname(entry)), "bin");
  const [napi] = readdirSync(bin).filter((name) => name.startsWith("napi-"));
  const folder = join(bin, napi ?? "", process.platform, process.arch);
  const pattern = LIBRARIES[process.platform];
  const name = existsSync(folder) && pattern ? readdirSync(folder).find((file) => pattern.test(file)) : undefined;
  if (name !== undefined) return join(folder, name);
  throw new LowrankError("runtime/platform", "ONNX Runtime has no library for this machine", {
    expected: "Linux (x64, arm64), macOS (arm64) or Windows (x64, arm64)",
    got: `${process.platform} ${process.arch}`,
    next: "Run it on one of those, or in a browser (docs/browser.md).",
    exitCode: 1,
  });
}

/** Arguments by their C types; the last out-pointer of a function that makes something is left to `made`. */
const signatures = {
  CreateSessionFromArray: [8, ["void *", "void *", "size_t", "void *", "void *"]],
  Run: [9, ["void *", "void *", "void *", "void *", "size_t", "void *", "size_t", "void *"]],
  CreateSessionOptions: [10, ["void *"]],
  EnableProfiling: [14, ["void *", "void *"]],
  DisableMemPattern: [17, ["void *"]],
  SetSessionGraphOptimizationLevel: [23, ["void *", "int"]],
  SetIntraOpNumThreads: [24, ["void *", "int"]],
  CreateTensorAsOrtValue: [48, ["void *", "void *", "size_t", "int", "void *"]],
  CreateTensorWithDataAsOrtValue: [49, ["void *", "void *", "size_t", "void *", "size_t", "int", "void *"]],
  GetTensorMutableData: [51, ["void *", "void *"]],
  GetTensorElementType: [60, ["void *", "void *"]],
  GetDimensionsCount: [61, ["void *", "void *"]],
  GetDimensions: [62, ["void *", "void *", "size_t"]],
  GetTensorTypeAndShape: [65, ["void *", "void *"]],
  CreateMemoryInfo: [68, ["const char *", "int", "int", "int", "void *"]],
  CreateCpuMemoryInfo: [69, ["int", "int", "void *"]],
  AllocatorFree: [76, ["void *", "void *"]],
  GetAllocatorWithDefaultOptions: [78, ["void *"]],
  SessionEndProfiling: [110, ["void *", "void *", "void *"]],
  CreateEnv: [3, ["int", "const char *", "void *"]],
  AddSessionConfigEntry: [130, ["void *", "const char *", "const char *"]],
  RunWithBinding: [133, ["void *", "void *", "void *"]],
  CreateAllocator: [131, ["void *", "void *", "void *"]],
  CreateIoBinding: [134, ["void *", "void *"]],
  BindInput: [136, ["void *", "void *", "void *"]],
  BindOutput: [137, ["void *", "void *", "void *"]],
  BindOutputToDevice: [138, ["void *", "void *", "void *"]],
  GetBoundOutputValues: [140, ["void *", "void *", "void *", "void *"]],
  CreateAndRegisterAllocator: [144, ["void *", "void *", "void *"]],
  SessionOptionsAppendExecutionProvider_CUDA_V2: [204, ["void *", "void *"]],
  CreateCUDAProviderOptions: [205, ["void *"]],
  UpdateCUDAProviderOptions: [206, ["void *", "const char **", "const char **", "size_t"]],
  AddExternalInitializers: [210, ["void *", "void *", "void *", "size_t"]],
  SessionOptionsAppendExecutionProvider: [216, ["void *", "const char *", "const char **", "const char **", "size_t"]],
  GetEpDevices: [303, ["void *", "void *", "void *"]],
  CopyTensors: [386, ["void *", "void *", "void *", "void *", "size_t"]],
} as const satisfies Record<string, readonly [number, readonly string[]]>;

const releases = {
  ReleaseSession: 95,
  ReleaseValue: 96,
  ReleaseTensorTypeAndShapeInfo: 99,
  ReleaseSessionOptions: 100,
  ReleaseIoBinding: 135,
  ReleaseCUDAProviderOptions: 208,
} as const;

/** Functions that return what they are asked for. */
const getters = {
  EpDevice_EpName: [312, "const char *"],
  EpDevice_Device: [316, "void *"],
  HardwareDevice_Type: [307, "int"],
} as const;

type Call = (...args: readonly unknown[]) => void;
type Async = (...args: readonly unknown[]) => Promise<void>;

export interface Api {
  /** Calls a function; a status that is not OK is thrown as an Error with the library's message. */
  call: Record<keyof typeof signatures, Call>;
  /** The same on a thread of its own. */
  later: Record<keyof typeof signatures, Async>;
  /** What a function writes to its last argument, a pointer. */
  made(name: keyof typeof signatures, ...args: readonly unknown[]): Pointer;
  release: Record<keyof typeof releases, (pointer: Pointer) => void>;
  get: { EpDevice_EpName(of: Pointer): string; EpDevice_Device(of: Pointer): Pointer; HardwareDevice_Type(of: Pointer): number };
}

let loaded: Api | undefined;

/** The library, loaded at the first call. */
export function api(): Api {
  loaded ??= load();
  return loaded;
}

function load(): Api {
  const base = loadLibrary(libraryPath()).func("void *OrtGetApiBase()")();
  const getApi = koffi.decode(koffi.decode(base, 0, "void *"), koffi.proto("void *OrtGetApi(uint32_t)"));
  const functions: Pointer | null = getApi(API_VERSION);
  if (functions === null) throw new Error(`the library of onnxruntime-node has no API of version ${API_VERSION}`);
  const at = (index: number, result: string, types: readonly string[]) =>
    koffi.decode(koffi.decode(functions, 8 * index, "void *"), koffi.proto(`f${index}`, result, [...types]));

  const messageOf = at(2, "const char *", ["void *"]);
  const releaseStatus = at(93, "void", ["void *"]);
  const check = (status: Pointer | null) => {
    if (status === null) return;
    const message = String(messageOf(status));
    releaseStatus(status);
    throw new Error(message);
  };
  /** Arguments of the calls at work: the library reads their memory from another thread. */
  const atWork = new Set<readonly unknown[]>();
  const call = {} as Api["call"];
  const later = {} as Api["later"];
  for (const [name, [index, types]] of Object.entries(signatures)) {
    const native = at(index, "void *", types);
    call[name as keyof typeof signatures] = (...args) => check(native(...args));
    later[name as keyof typeof signatures] = (...args) =>
      new Promise((resolve, reject) => {
        atWork.add(args);
        native.async(...args, (error: Error | null, status: Pointer | null) => {
          atWork.delete(args);
          try {
            if (error) throw error;
            check(status);
            resolve();
          } catch (failure) {
            reject(failure);
          }
        });
      });
  }
  const release = Object.fromEntries(
    Object.entries(releases).map(([name, index]) => [name, at(index, "void", ["void *"])]),
  ) as Api["release"];
  const get = Object.fromEntries(
    Object.entries(getters).map(([name, [index, result]]) => [name, at(index, result, ["void *"])]),
  ) as Api["get"];
  return {
    call,
    later,
    made(name, ...args) {
      const out = new BigUint64Array(1);
      call[name](...args, out);
      return out[0]!;
    },
    release,
    get,
  };
}
