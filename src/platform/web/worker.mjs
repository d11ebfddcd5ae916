// The Web Worker of a session: ONNX Runtime Web. JavaScript, so that its address is the same from source and from the package.
import { engineWorker } from "./worker-engine.mjs";

/** @import { WebModel } from "./session.ts" */

// The default build's WebGPU (JSEP) computes wrong gradients without a word; this one is ONNX Runtime's own.
const builds = {
  wasm: () => import("onnxruntime-web/wasm"),
  webgpu: () => import("onnxruntime-web/webgpu"),
};

/** @param {WebModel} model */
async function open({ engine, wasmPaths, model, weights, cpuNodes, threads }) {
  const ort = await builds[engine]();
  if (wasmPaths !== undefined) ort.env.wasm.wasmPaths = wasmPaths;
  ort.env.wasm.numThreads = threads ?? navigator.hardwareConcurrency;
  const session = await ort.InferenceSession.create(model, {
    // An empty list is refused.
    executionProviders: [cpuNodes.length > 0 ? { name: "webgpu", forceCpuNodeNames: cpuNodes } : engine],
    graphOptimizationLevel: "basic",
    enableMemPattern: false,
    logSeverityLevel: 3,
    externalData: weights,
  });
  return { session, Tensor: ort.Tensor };
}

const answer = engineWorker({ open }, (reply, transfer) => postMessage(reply, { transfer }));
addEventListener("message", ({ data }) => answer(data));
