// ONNX Runtime's C API behind the Session interface, in this process.
import { checkForms, type DeviceName } from "../../runtime/devices.ts";
import { runProgram } from "../../runtime/program-session.ts";
import type { OpenSession } from "../../runtime/session.ts";
import type { Devices } from "../platform.ts";
import { acceleratorMachine, foundAccelerators } from "./engine/accelerators.ts";
import { nodeMachine } from "./engine/machine.ts";
import { nodeFiles } from "./files.ts";
import { partCache } from "./part-cache.ts";

/** Opens sessions of programs. The weights of a whole graph are read in place. */
export const openNodeSession: OpenSession = (program, options) =>
  runProgram(program, { ...options, machine: nodeMachine, files: nodeFiles, cache: partCache() });

export const nodeDevices: Devices = {
  found: foundAccelerators,
  async open(device: DeviceName) {
    if (device === "cpu") return openNodeSession;
    const machine = await acceleratorMachine(device);
    return (program, options) => {
      checkForms(program, `on ${device}`, "Leave out baseDtype, or the device.");
      return runProgram(program, { ...options, machine, host: nodeMachine, files: nodeFiles, cache: partCache() });
    };
  },
};
