// The worker side of runtime/node.ts: one ONNX Runtime session, one request at a time. JavaScript, so that it starts
// the same way from source and from the package.
import { parentPort, workerData } from "node:worker_threads";
import * as ort from "onnxruntime-node";

/** @import { Request, Reply } from "./node.ts" */
/** @import { SessionOptions } from "./session.ts" */
/** @import { Tensor } from "../tensor.ts" */

/** @type {{ model: Uint8Array, options: SessionOptions }} */
const { model, options } = workerData;
/** @type {ort.InferenceSession} */
let session;

/** @returns {ort.InferenceSession.SessionOptions} */
function sessionOptions() {
  /** @type {Record<string, string>} */
  const entries = {};
  if (options.weightsFolder) entries["model_external_initializers_file_folder_path"] = options.weightsFolder;
  Object.assign(entries, JSON.parse(process.env["LOWRANK_ORT"] ?? "{}"));
  return {
    executionProviders: ["cpu"],
    intraOpNumThreads: options.threads ?? 0,
    logSeverityLevel: Number(process.env["LOWRANK_LOG"] ?? 3),
    enableProfiling: options.profile !== undefined,
    profileFilePrefix: options.profile,
    extra: { session: entries },
    ...JSON.parse(process.env["LOWRANK_OPT"] ?? "{}"),
  };
}

/**
 * @param {Request} request
 * @returns {Promise<Record<string, Tensor> | undefined>}
 */
async function answer(request) {
  switch (request.kind) {
    case "open":
      session = await ort.InferenceSession.create(model, sessionOptions());
      return undefined;
    case "run": {
      const feeds = Object.entries(request.feeds).map(([name, { dtype, data, shape }]) => [
        name,
        new ort.Tensor(/** @type {"float32"} */ (dtype), /** @type {Float32Array} */ (data), shape),
      ]);
      const outputs = await session.run(Object.fromEntries(feeds), request.fetches ? [...request.fetches] : undefined);
      const results = Object.entries(outputs).map(([name, { type, dims, data }]) => [name, { dtype: type, shape: dims, data }]);
      return Object.fromEntries(results);
    }
    case "close":
      await session.release();
      return undefined;
  }
}

parentPort?.on("message", async (/** @type {Request} */ request) => {
  /** @type {Reply} */
  const reply = { id: request.id };
  try {
    const results = await answer(request);
    if (results) reply.results = results;
  } catch (error) {
    reply.error = error instanceof Error ? error.message : String(error);
  }
  parentPort?.postMessage(reply);
});
