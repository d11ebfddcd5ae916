// The worker side of session.ts: one ONNX Runtime session, one request at a time. JavaScript, so that it starts
// the same way from source and from the package.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parentPort, workerData } from "node:worker_threads";
import * as ort from "onnxruntime-node";

/** @import { Request, Reply } from "./session.ts" */
/** @import { SessionOptions } from "../../runtime/session.ts" */
/** @import { Tensor } from "../../tensor.ts" */

/** @type {{ model: Uint8Array, options: Omit<SessionOptions, "weights"> & { weightsFolder?: string } }} */
const { model, options } = workerData;
/** @type {ort.InferenceSession} */
let session;
setFlagsFromString("--expose-gc");
/**
 * Garbage collection on request (as in collect.ts, which a worker that runs from source cannot import).
 * @type {() => void}
 */
const collect = runInNewContext("gc");
/** After so many runs their tensors are freed; V8 does not see how large they are, and would wait for thousands of runs. */
const RUNS_PER_COLLECTION = 200;
let runs = 0;

/**
 * Inputs that stay here from run to run.
 * @type {Record<string, ort.Tensor>}
 */
const bound = {};

/**
 * Inputs in shared memory, each with the copy that ONNX Runtime reads: it takes no views of shared memory.
 * @type {{ source: Tensor["data"], copy: Tensor["data"] }[]}
 */
const live = [];
/**
 * Outputs that go to shared memory, each with the place that ONNX Runtime writes: made anew at every run, they would wait
 * for the garbage collector, which does not see how large they are.
 * @type {Record<string, { target: Float32Array, place: ort.Tensor }>}
 */
const shared = {};

/**
 * @param {Record<string, Tensor>} feeds
 * @returns {Record<string, ort.Tensor>}
 */
function engineTensors(feeds) {
  const tensors = Object.entries(feeds).map(([name, { dtype, data, shape }]) => [
    name,
    new ort.Tensor(/** @type {"float32"} */ (dtype), /** @type {Float32Array} */ (data), shape),
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
      if (++runs % RUNS_PER_COLLECTION === 0) collect();
      const { carry = {}, fetches = session.outputNames.filter((name) => !(name in carry)) } = request.options;
      const returned = new Set(fetches);
      const places = [...fetches, ...Object.keys(carry)].map((name) => [name, shared[name]?.place ?? null]);
      for (const { source, copy } of live) copy.set(/** @type {never} */ (source));
      const outputs = Object.entries(
        await session.run({ ...bound, ...engineTensors(request.feeds) }, Object.fromEntries(places)),
      );
      for (const [name, tensor] of outputs) {
        const input = carry[name];
        if (input !== undefined) bound[input] = tensor;
        shared[name]?.target.set(/** @type {Float32Array} */ (tensor.data));
      }
      const leaving = outputs.filter(([name]) => returned.has(name) && !(name in shared));
      const results = leaving.map(([name, { type, dims, data }]) => [name, { dtype: type, shape: dims, data }]);
      return Object.fromEntries(results);
    }
    case "bind":
      Object.assign(bound, engineTensors(request.feeds));
      return undefined;
    case "share":
      for (const [name, { dtype, data: source, shape }] of Object.entries(request.inputs)) {
        const copy = source.slice();
        live.push({ source, copy });
        bound[name] = new ort.Tensor(/** @type {"float32"} */ (dtype), /** @type {Float32Array} */ (copy), shape);
      }
      for (const [name, { dtype, data: target, shape }] of Object.entries(request.outputs)) {
        const place = new ort.Tensor(/** @type {"float32"} */ (dtype), new Float32Array(target.length), shape);
        shared[name] = { target: /** @type {Float32Array} */ (target), place };
      }
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
