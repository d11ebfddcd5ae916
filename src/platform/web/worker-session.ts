// A session whose engine lives in a worker: run() blocks its thread. The requests, and the side that sends them.

import { engineError } from "../../runtime/engine-error.ts";
import type { Session, SessionRun } from "../../runtime/session.ts";
import type { Tensor } from "../../tensor.ts";

export type Request =
  /** `open` is between a platform and its worker. */
  | { kind: "open"; id: number; open: unknown }
  | { kind: "run"; id: number; feeds: Record<string, Tensor>; options: SessionRun }
  | { kind: "bind"; id: number; feeds: Record<string, Tensor> }
  | { kind: "share"; id: number; inputs: Record<string, Tensor>; outputs: Record<string, Tensor> }
  | { kind: "close"; id: number };

export type Reply = { id: number; results?: Record<string, Tensor>; error?: string };

type Unnumbered = Request extends infer R ? (R extends Request ? Omit<R, "id"> : never) : never;

/** What of a platform's worker a session needs. */
export interface SessionWorker {
  post(request: Request, transfer?: ArrayBuffer[]): void;
  terminate(): unknown;
  /** Called when the first request begins to wait, and when the last one is answered. */
  busy?(isBusy: boolean): void;
}

/** What a platform reports about its worker. */
export interface WorkerEvents {
  reply(reply: Reply): void;
  /** The worker has failed, or is gone: what waits fails, and all that comes later. */
  failed(message: string): void;
}

/** Opens a session in the worker that `start` starts, with what `open` says to it. */
export async function openInWorker(
  start: (events: WorkerEvents) => SessionWorker,
  open: unknown,
  transfer?: ArrayBuffer[],
): Promise<Session> {
  const waiting = new Map<number, { resolve: (reply: Reply) => void; reject: (error: Error) => void }>();
  let next = 0;
  let dead: Error | undefined;
  const worker = start({
    reply: (reply) => {
      const { resolve, reject } = waiting.get(reply.id)!;
      waiting.delete(reply.id);
      if (waiting.size === 0) worker.busy?.(false);
      if (reply.error === undefined) resolve(reply);
      else reject(engineError(reply.error));
    },
    failed: (message) => {
      dead ??= engineError(message);
      for (const { reject } of waiting.values()) reject(dead);
      waiting.clear();
    },
  });
  const ask = (request: Unnumbered, transfer?: ArrayBuffer[]) =>
    new Promise<Reply>((resolve, reject) => {
      if (dead) return reject(dead);
      const id = next++;
      waiting.set(id, { resolve, reject });
      worker.busy?.(true);
      worker.post({ ...request, id }, transfer);
    });
  try {
    await ask({ kind: "open", open }, transfer);
  } catch (error) {
    await worker.terminate();
    throw error;
  }
  return {
    run: async (feeds, options = {}) => (await ask({ kind: "run", feeds, options })).results!,
    bind: async (feeds) => void (await ask({ kind: "bind", feeds })),
    share: async (inputs, outputs) => void (await ask({ kind: "share", inputs, outputs })),
    close: async () => {
      await ask({ kind: "close" });
      await worker.terminate();
    },
  };
}
