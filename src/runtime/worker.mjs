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
/**
 * Inputs that stay here from run to run.
 * @type {Record<string, ort.Tensor>}
 */
const bound = {};

/**
 * ONNX Runtime takes no views of shared memory; those are copied here, in one stroke each.
 * @param {Tensor["data"]} data
 */
const owned = (data) => (data.buffer instanceof SharedArrayBuffer ? data.slice() : data);

/**
 * @param {Record<string, Tensor>} feeds
 * @returns {Record<string, ort.Tensor>}
 */
function engineTensors(feeds) {
  const tensors = Object.entries(feeds).map(([name, { dtype, data, shape }]) => [
    name,
    new ort.Tensor(/** @type {"float32"} */ (dtype), /** @type {Float32Array} */ (owned(data)), shape),
  ]);
  return Object.fromEntries(tensors);
}

/**
 * "basic" folds constants (bfloat16 weights become float32 once) and removes what is double; the larger fusions find
 * nothing here and take seconds to look for it. A memory pattern would hold a second copy of all activations.
 * @returns {ort.InferenceSession.SessionOptions}
 */
function sessionOptions() {
  /** @type {Record<string, string>} */
  const entries = {};
  if (options.weightsFolder) entries["model_external_initializers_file_folder_path"] = options.weightsFolder;
  return {
    executionProviders: ["cpu"],
    graphOptimizationLevel: "basic",
    enableMemPattern: false,
    intraOpNumThreads: options.threads ?? 0,
    logSeverityLevel: 3,
    enableProfiling: options.profile !== undefined,
    profileFilePrefix: options.profile,
    extra: { session: entries },
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
      const { carry = {}, fetches = session.outputNames.filter((name) => !(name in carry)) } = request.options;
      const returned = new Set(fetches);
      const names = new Set([...fetches, ...Object.keys(carry)]);
      const outputs = Object.entries(await session.run({ ...bound, ...engineTensors(request.feeds) }, [...names]));
      for (const [name, tensor] of outputs) {
        const input = carry[name];
        if (input !== undefined) bound[input] = tensor;
      }
      const results = outputs.map(([name, { type, dims, data }]) => [name, { dtype: type, shape: dims, data }]);
      return Object.fromEntries(results.filter(([name]) => returned.has(/** @type {string} */ (name))));
    }
    case "bind":
      Object.assign(bound, engineTensors(request.feeds));
      return undefined;
    case "close":
      await session.release();
      return undefined;
  }
}

/**
 * The buffers that can move to the other thread instead of being copied: whole ones, of outputs that do not stay here.
 * @param {Request} request
 * @param {Record<string, Tensor>} results
 */
function transferable(request, results) {
  const carry = (request.kind === "run" && request.options.carry) || {};
  const leaving = Object.entries(results).filter(
    ([name, { data }]) => !(name in carry) && data.byteLength === data.buffer.byteLength,
  );
  return /** @type {ArrayBuffer[]} */ (leaving.map(([, { data }]) => data.buffer));
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
  parentPort?.postMessage(reply, transferable(request, reply.results ?? {}));
});
