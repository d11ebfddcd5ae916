// ONNX Runtime for Node behind the Session interface, each session in a worker thread of its own.
import { Worker } from "node:worker_threads";
import { readRows } from "../../formats/stored.ts";
import type { OpenSession } from "../../runtime/session.ts";
import { openInWorker, type Reply, type SessionWorker, type WorkerEvents } from "../../runtime/worker-session.ts";
import { nodeFiles } from "./files.ts";

/** What the worker opens. */
export interface NodeModel {
  model: Uint8Array;
  weightsFolder?: string;
  /** Values of weights that the engine cannot read in place. */
  values: { path: string; data: Float32Array }[];
  threads?: number;
  profile?: string;
}

/**
 * Memory for a worker's short-lived objects. V8's own choice is ten times that; it would be collected so seldom that the
 * tensors of a thousand steps, which V8 does not count as its memory, would wait there to be freed.
 */
const YOUNG_MB = 4;

/**
 * Stack of a worker: Node's own size, and what ONNX Runtime takes for each byte of the command line, which it looks through by a
 * recursive regular expression when a session opens (some 350 bytes each; a few hundred file names would overflow 4 MB).
 */
const STACK_MB = 4;
const STACK_BYTES_PER_ARGUMENT_BYTE = 512;

function stackMb(): number {
  const bytes = [...process.execArgv, ...process.argv].reduce((sum, argument) => sum + Buffer.byteLength(argument) + 1, 0);
  return STACK_MB + Math.ceil((bytes * STACK_BYTES_PER_ARGUMENT_BYTE) / 2 ** 20);
}

/** Opens a session in a worker thread. The weights are read in place, and those that the engine cannot read are given to it as float32. */
export const openNodeSession: OpenSession = async (model, { weights, converted = new Map(), threads, profile } = {}) => {
  const values: NodeModel["values"] = [];
  for (const [path, tensor] of converted) values.push({ path, data: await readRows(nodeFiles, tensor) });
  const opened: NodeModel = { model, weightsFolder: weights?.folder, values, threads, profile };
  const start = ({ reply, failed }: WorkerEvents): SessionWorker => {
    const worker = new Worker(new URL("./worker.mjs", import.meta.url), {
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB, stackSizeMb: stackMb() },
    });
    worker.on("message", (message: Reply) => reply(message));
    worker.on("error", (error) => failed(String(error)));
    worker.on("exit", () => failed("the session is closed"));
    return {
      post: (request, transfer) => worker.postMessage(request, transfer),
      terminate: () => worker.terminate(),
      // A session that nobody waits for does not keep the process alive.
      busy: (isBusy) => (isBusy ? worker.ref() : worker.unref()),
    };
  };
  return openInWorker(start, opened, [...new Set(values.map(({ data }) => data.buffer as ArrayBuffer))]);
};
