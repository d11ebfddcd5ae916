// ONNX Runtime for Node behind the Session interface, in this process.
import { runProgram } from "../../runtime/program-session.ts";
import type { OpenSession } from "../../runtime/session.ts";
import { nodeMachine } from "./engine/machine.ts";
import { nodeFiles } from "./files.ts";

/** Opens sessions of programs. The weights of a whole graph are read in place. */
export const openNodeSession: OpenSession = (program, options) =>
  runProgram(program, { ...options, machine: nodeMachine, files: nodeFiles });
