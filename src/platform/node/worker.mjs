// The worker thread of a session: ONNX Runtime for Node. JavaScript, so that it starts the same way from source and from the package.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { parentPort } from "node:worker_threads";
import * as ort from "onnxruntime-node";
import { engineWorker } from "../../runtime/worker-engine.mjs";

/** @import { NodeModel } from "./session.ts" */

setFlagsFromString("--expose-gc");
/**
 * Garbage collection on request (as in host.ts, which a worker that runs from source cannot import).
 * @type {() => void}
 */
const collect = runInNewContext("gc");
/** After so many runs their tensors are freed; V8 does not see how large they are, and would wait for thousands of runs. */
const RUNS_PER_COLLECTION = 200;
let runs = 0;

/**
 * "basic" folds constants (bfloat16 weights become float32 once) and removes what is double; the larger fusions find
 * nothing here and take seconds to look for it. A memory pattern would hold a second copy of all activations.
 * @param {NodeModel} model
 */
async function open({ model, weightsFolder, values, threads, profile }) {
  /** @type {Record<string, string>} */
  const entries = {};
  if (weightsFolder) entries["model_external_initializers_file_folder_path"] = weightsFolder;
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ["cpu"],
    graphOptimizationLevel: "basic",
    enableMemPattern: false,
    intraOpNumThreads: threads ?? 0,
    logSeverityLevel: 3,
    enableProfiling: profile !== undefined,
    profileFilePrefix: profile,
    extra: { session: entries },
    externalData: values.map(({ path, data }) => ({ path, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) })),
  });
  return { session, Tensor: ort.Tensor };
}

const beforeRun = () => {
  if (++runs % RUNS_PER_COLLECTION === 0) collect();
};

const answer = engineWorker({ open, ownMemory: true, beforeRun }, (reply, transfer) => parentPort?.postMessage(reply, transfer));
parentPort?.on("message", answer);
