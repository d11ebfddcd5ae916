// ONNX Runtime for Node behind the Session interface. run() blocks its thread, so each session has a worker of its own.
import { Worker } from "node:worker_threads";
import { LowrankError } from "../../errors.ts";
import type { OpenSession, RunOptions } from "../../runtime/session.ts";
import type { Tensor } from "../../tensor.ts";

export type Request =
  | { kind: "open"; id: number }
  | { kind: "run"; id: number; feeds: Record<string, Tensor>; options: RunOptions }
  | { kind: "bind"; id: number; feeds: Record<string, Tensor> }
  | { kind: "share"; id: number; inputs: Record<string, Tensor>; outputs: Record<string, Tensor> }
  | { kind: "close"; id: number };

export type Reply = { id: number; results?: Record<string, Tensor>; error?: string };

type Unnumbered = Request extends infer R ? (R extends Request ? Omit<R, "id"> : never) : never;

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

/** Opens a session in a worker thread. */
export const openNodeSession: OpenSession = async (model, { weights, ...options } = {}) => {
  const worker = new Worker(new URL("./worker.mjs", import.meta.url), {
    workerData: { model, options: { ...options, weightsFolder: weights?.folder } },
    resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB, stackSizeMb: stackMb() },
  });
  const waiting = new Map<number, { resolve: (reply: Reply) => void; reject: (error: Error) => void }>();
  let next = 0;
  let dead: Error | undefined;

  const die = (error: Error) => {
    dead ??= error;
    for (const { reject } of waiting.values()) reject(dead);
    waiting.clear();
  };
  worker.on("message", (reply: Reply) => {
    const { resolve, reject } = waiting.get(reply.id)!;
    waiting.delete(reply.id);
    if (waiting.size === 0) worker.unref();
    if (reply.error === undefined) resolve(reply);
    else reject(engineError(reply.error));
  });
  worker.on("error", (error) => die(engineError(String(error))));
  worker.on("exit", () => die(engineError("the session is closed")));

  const ask = (request: Unnumbered) =>
    new Promise<Reply>((resolve, reject) => {
      if (dead) return reject(dead);
      const id = next++;
      waiting.set(id, { resolve, reject });
      worker.ref();
      worker.postMessage({ ...request, id });
    });

  await ask({ kind: "open" });
  return {
    run: async (feeds, options = {}) => (await ask({ kind: "run", feeds, options })).results!,
    bind: async (feeds) => void (await ask({ kind: "bind", feeds })),
    share: async (inputs, outputs) => void (await ask({ kind: "share", inputs, outputs })),
    close: async () => {
      await ask({ kind: "close" });
      await worker.terminate();
    },
  };
};

function engineError(message: string): LowrankError {
  const memory = /bad_alloc|Failed to allocate|out of memory/i.test(message);
  return new LowrankError("runtime/engine", memory ? "ONNX Runtime ran out of memory" : "ONNX Runtime failed", {
    got: message,
    next: memory
      ? "Use fewer tokens a batch (--batch, --max-length), or a smaller model."
      : "Please report this with the command you ran.",
    exitCode: 1,
  });
}
