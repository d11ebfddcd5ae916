// ONNX Runtime Web behind the Session interface, each session in a Web Worker of its own.

import type { Files } from "../../files.ts";
import type { Stage } from "../../graph/stages.ts";
import { lower } from "../../onnx/lower.ts";
import { checkForms } from "../../runtime/devices.ts";
import type { OpenSession } from "../../runtime/session.ts";
import { noWeights } from "../../runtime/session.ts";
import { type PreparedModel, prepareModel } from "./model.ts";
import { openInWorker, type Reply } from "./worker-session.ts";

/** The engine's builds: kernels on the processor, or on the graphics card with the processor's for what those lack. */
export type WebEngine = "wasm" | "webgpu";

export interface WebEngineOptions {
  engine: WebEngine;
  /** Where ONNX Runtime's .mjs and .wasm files lie, if not beside the bundle: a folder's address, or that of each. */
  wasmPaths?: string | { mjs?: string; wasm?: string };
}

/** What the worker opens. */
export interface WebModel extends WebEngineOptions, PreparedModel {
  threads?: number;
}

/** Opens sessions in workers, of programs of one stage. Weights are read from `files`, and computed with in float32. */
export const webSessions =
  (files: Files, engine: WebEngineOptions): OpenSession =>
  async (program, { weights = noWeights, threads } = {}) => {
    checkForms(program, "in a browser", "Leave out baseDtype.");
    const [{ graph }] = program.stages as [Stage];
    const gpu = engine.engine === "webgpu";
    const model = lower(graph, weights.locate, [], !gpu);
    const prepared = await prepareModel(model, weights, { files, gpu });
    const opened: WebModel = { ...engine, ...prepared, threads };
    return openInWorker(
      ({ reply, failed }) => {
        const worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
        worker.onmessage = ({ data }: MessageEvent<Reply>) => reply(data);
        worker.onerror = ({ message }) => failed(message || "the worker does not start");
        return {
          post: (request, transfer = []) => worker.postMessage(request, transfer),
          terminate: () => {
            worker.terminate();
            failed("the session is closed");
          },
        };
      },
      opened,
      prepared.weights.map(({ data }) => data.buffer),
    );
  };
