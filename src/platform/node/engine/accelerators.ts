// ONNX Runtime's execution providers beside the processor's: a line each. What one of them lacks runs on the processor, in the same session.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import koffi from "koffi";
import { LowrankError } from "../../../errors.ts";
import type { ElementType } from "../../../graph/graph.ts";
import { ModelProtoSchema } from "../../../onnx/proto/onnx_pb.ts";
import { forWebgpu } from "../../../onnx/webgpu.ts";
import { type DeviceName, devices } from "../../../runtime/devices.ts";
import {
  type CompileOptions,
  type Executable,
  type Handle,
  type Machine,
  taskQueue,
  type Wanted,
} from "../../../runtime/machine.ts";
import { libraryPath, type Pointer } from "./api.ts";
import { type Compiled, compile, elementTypes, nodeMachine, open } from "./machine.ts";

export type AcceleratorName = Exclude<DeviceName, "cpu">;

interface Accelerator {
  /** What its memory is called. */
  memory: string;
  /** Whether this machine seems to have one, found without starting it. */
  isThere(): boolean;
  /** What it needs otherwise in a model; returns the names of nodes that stay on the processor. */
  prepare?: typeof forWebgpu;
  /** Whether tensors can be copied to it without a session. */
  copies?: boolean;
  isPlain?: Machine["isPlain"];
  /** Adds its kernels to the options of a session. */
  append(session: Pointer, cpuNodes: readonly string[]): void;
  /** What a machine needs to have it, and how to get that. */
  needs: string;
  next: string;
}

const accelerators: Record<AcceleratorName, Accelerator> = {
  webgpu: {
    memory: "WebGPU_Buf",
    isThere: () => cards().includes("WebGpuExecutionProvider"),
    prepare: forWebgpu,
    isPlain: true,
    copies: true,
    append: (session, cpuNodes) => {
      const [keys, values] = cpuNodes.length > 0 ? [["forceCpuNodeNames"], [cpuNodes.join("\n")]] : [[], []];
      open().call.SessionOptionsAppendExecutionProvider(session, "WebGPU", keys, values, keys.length);
    },
    needs: "a Vulkan driver (Linux), Metal (macOS) or Direct3D 12 (Windows)",
    next: "On Linux install the card's Vulkan driver (mesa-vulkan-drivers, or NVIDIA's) and see that vulkaninfo --summary lists it; of Mesa's software driver 22.3 is too old",
  },
  cuda: {
    memory: "Cuda",
    isThere: () => existsSync(join(dirname(libraryPath()), CUDA_LIBRARY)),
    append: (session) => {
      const { call, made, release } = open();
      if (!accelerators.cuda.isThere()) throw new Error(`${CUDA_LIBRARY} is not beside ONNX Runtime's library`);
      const settings = made("CreateCUDAProviderOptions");
      try {
        call.UpdateCUDAProviderOptions(settings, ["use_tf32"], ["0"], 1); // factors of products keep all their bits
        call.SessionOptionsAppendExecutionProvider_CUDA_V2(session, settings);
      } finally {
        release.ReleaseCUDAProviderOptions(settings);
      }
    },
    needs: "Linux on x64, an NVIDIA card, CUDA 12 with cuDNN 9, and ONNX Runtime's library for them",
    next: "Fetch that library: node node_modules/onnxruntime-node/script/install.js --onnxruntime-node-install=cuda12",
  },
};

const CUDA_LIBRARY = process.platform === "win32" ? "onnxruntime_providers_cuda.dll" : "libonnxruntime_providers_cuda.so";
const DEVICE = 0; // OrtDeviceAllocator
const DEFAULT_MEMORY = 0;
const GPU = 1; // OrtHardwareDeviceType_GPU

/** The providers that the library has for the graphics cards of this machine. */
function cards(): string[] {
  const { call, get, environment } = open();
  const [list, count] = [new BigUint64Array(1), new BigUint64Array(1)];
  call.GetEpDevices(environment, list, count);
  const found = Array.from({ length: Number(count[0]) }, (_, i) => koffi.decode(list[0]!, 8 * i, "void *") as Pointer);
  return found.filter((one) => get.HardwareDevice_Type(get.EpDevice_Device(one)) === GPU).map(get.EpDevice_EpName);
}

/** Accelerators that this machine seems to have. */
export const foundAccelerators = (): AcceleratorName[] =>
  (Object.keys(accelerators) as AcceleratorName[]).filter((name) => accelerators[name].isThere());

const machines = new Map<AcceleratorName, Promise<Machine>>();

/** The machine of an accelerator, started at the first call. Throws `runtime/device` where it does not start. */
export function acceleratorMachine(name: AcceleratorName): Promise<Machine> {
  const known = machines.get(name) ?? start(name);
  machines.set(name, known);
  return known;
}

async function start(name: AcceleratorName): Promise<Machine> {
  const { needs, next } = accelerators[name];
  try {
    const machine = await machineOf(accelerators[name]);
    machine.free(await machine.move!("float32", [1], machine.tensor("float32", [1], new Uint8Array(4))));
    return machine;
  } catch (error) {
    throw new LowrankError("runtime/device", `the device ${name} does not start`, {
      subject: "device",
      expected: `${devices[name].what}: ${needs}`,
      got: String(error instanceof Error ? error.message : error)
        .replace(/^.* was false\. /s, "")
        .trim(),
      next: `${next}; or leave out --device (docs/devices.md).`,
      exitCode: 1,
    });
  }
}

async function machineOf(accelerator: Accelerator): Promise<Machine> {
  const { call, later, made, release, cpu, environment } = open();
  const memory = made("CreateMemoryInfo", accelerator.memory, DEVICE, 0, DEFAULT_MEMORY);
  /** Sessions share the device's buffers, and threads must not meet there. */
  const next = taskQueue();

  async function compileOn(model: Uint8Array, options: CompileOptions): Promise<Executable> {
    const { bytes, cpuNodes } = prepared(model, accelerator);
    const compiled = await next(() => compile(bytes, options, (session) => accelerator.append(session, cpuNodes)));
    return {
      run: (inputs, wanted) => next(() => run(compiled, inputs, wanted)),
      close: () => void next(async () => compiled.close()),
    };
  }

  async function run({ handle, inputs, outputs }: Compiled, values: readonly Handle[], wanted: readonly Wanted[]) {
    const binding = made("CreateIoBinding", handle);
    try {
      for (const [i, value] of values.entries()) call.BindInput(binding, inputs.pointers[i]!, value);
      for (const { index, place, isRead } of wanted) {
        const name = outputs.pointers[index]!;
        if (place !== undefined) call.BindOutput(binding, name, place);
        else call.BindOutputToDevice(binding, name, isRead ? cpu : memory);
      }
      await later.RunWithBinding(handle, null, binding);
      return boundOutputs(binding).map((made, i) => {
        const place = wanted[i]!.place;
        if (place !== undefined) release.ReleaseValue(made);
        return place ?? made;
      });
    } finally {
      release.ReleaseIoBinding(binding);
    }
  }

  const options = { inputs: ["x"], outputs: ["y"], threads: 1 };
  const copier = await compile(toBinary(ModelProtoSchema, identity), options, (session) => accelerator.append(session, []));
  const allocator = made("CreateAllocator", copier.handle, memory);
  /** To the device without a second copy there. */
  async function copied(dtype: ElementType, shape: readonly number[], handle: Handle): Promise<Handle> {
    const dims = BigInt64Array.from(shape, BigInt);
    const moved = made("CreateTensorAsOrtValue", allocator, dims, dims.length, elementTypes[dtype]);
    await later.CopyTensors(environment, BigUint64Array.of(handle), BigUint64Array.of(moved), null, 1);
    return moved;
  }
  return {
    ...nodeMachine,
    isPlain: accelerator.isPlain,
    compile: compileOn,
    move: (dtype, shape, handle) =>
      next(async () => {
        if (!accelerator.copies && dtype !== "float32") return handle; // a run copies it
        const moved = accelerator.copies ? await copied(dtype, shape, handle) : (await run(copier, [handle], [{ index: 0 }]))[0]!;
        nodeMachine.free(handle);
        return moved;
      }),
    free: (handle) => void next(async () => nodeMachine.free(handle)),
  };
}

function prepared(model: Uint8Array, { prepare }: Accelerator): { bytes: Uint8Array; cpuNodes: readonly string[] } {
  if (!prepare) return { bytes: model, cpuNodes: [] };
  const parsed = fromBinary(ModelProtoSchema, model);
  const cpuNodes = prepare(parsed.graph!);
  return { bytes: toBinary(ModelProtoSchema, parsed), cpuNodes };
}

/** The outputs of a run, in the order in which they were bound. */
function boundOutputs(binding: Pointer): Handle[] {
  const { call, made } = open();
  const allocator = made("GetAllocatorWithDefaultOptions");
  const [list, count] = [new BigUint64Array(1), new BigUint64Array(1)];
  call.GetBoundOutputValues(binding, allocator, list, count);
  if (count[0] === 0n) return [];
  const values = Array.from({ length: Number(count[0]) }, (_, i) => koffi.decode(list[0]!, 8 * i, "void *") as Pointer);
  call.AllocatorFree(allocator, list[0]!);
  return values;
}

/** A model of float32 numbers whose output is its input. */
const identity = create(ModelProtoSchema, {
  irVersion: 10n,
  opsetImport: [{ domain: "", version: 21n }],
  graph: {
    name: "copy",
    node: [{ name: "copy", opType: "Identity", input: ["x"], output: ["y"] }],
    input: [{ name: "x", type: { value: { case: "tensorType" as const, value: { elemType: elementTypes.float32 } } } }],
    output: [{ name: "y", type: { value: { case: "tensorType" as const, value: { elemType: elementTypes.float32 } } } }],
  },
});
