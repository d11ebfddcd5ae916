// The worker side of worker-session.ts: one ONNX Runtime session, one request at a time. JavaScript, so that a worker that
// imports it starts the same way from source and from the package.

/** @import { InferenceSession, Tensor as EngineTensor } from "onnxruntime-web" */
/** @import { Request, Reply } from "./worker-session.ts" */
/** @import { Tensor } from "../../tensor.ts" */

/**
 * What a platform's worker brings. `open` makes a session of what the platform sent, and says how its tensors are made.
 * @typedef {{
 *   open: (model: any) => Promise<{ session: InferenceSession, Tensor: typeof EngineTensor }>,
 * }} Engine
 */

/**
 * Answers requests, each by `post` with what moves to the other thread instead of being copied.
 * @param {Engine} engine
 * @param {(reply: Reply, transfer: ArrayBuffer[]) => void} post
 * @returns {(request: Request) => Promise<void>}
 */
export function engineWorker(engine, post) {
  /** @type {InferenceSession} */
  let session;
  /** @type {typeof EngineTensor} */
  let Tensor;
  /**
   * Inputs that stay here from run to run.
   * @type {Record<string, EngineTensor>}
   */
  const bound = {};
  /**
   * Outputs that go to shared memory.
   * @type {Record<string, Float32Array>}
   */
  const shared = {};

  /** @param {Tensor} tensor */
  const engineTensor = ({ dtype, data, shape }) =>
    new Tensor(/** @type {"float32"} */ (dtype), /** @type {Float32Array} */ (data), shape);
  /**
   * What the model reads of `feeds`: engines differ in whether they refuse others.
   * @param {Record<string, Tensor>} feeds
   */
  const engineTensors = (feeds) => {
    const read = Object.entries(feeds).filter(([name]) => session.inputNames.includes(name));
    return Object.fromEntries(read.map(([name, tensor]) => [name, engineTensor(tensor)]));
  };

  /**
   * @param {Request} request
   * @returns {Promise<Record<string, Tensor> | undefined>}
   */
  async function answer(request) {
    switch (request.kind) {
      case "open":
        ({ session, Tensor } = await engine.open(request.open));
        return undefined;
      case "run": {
        const { carry = {}, fetches = session.outputNames.filter((name) => !(name in carry)) } = request.options;
        const returned = new Set(fetches);
        const asked = [...fetches, ...Object.keys(carry)];
        const outputs = Object.entries(await session.run({ ...bound, ...engineTensors(request.feeds) }, asked));
        for (const [name, tensor] of outputs) {
          const input = carry[name];
          if (input !== undefined) bound[input] = tensor;
          shared[name]?.set(/** @type {Float32Array} */ (tensor.data));
        }
        const leaving = outputs.filter(([name]) => returned.has(name) && !(name in shared));
        const results = leaving.map(([name, { type, dims, data }]) => [name, { dtype: type, shape: dims, data }]);
        return Object.fromEntries(results);
      }
      case "bind":
        Object.assign(bound, engineTensors(request.feeds));
        return undefined;
      case "share":
        Object.assign(bound, engineTensors(request.inputs));
        for (const [name, { data }] of Object.entries(request.outputs)) shared[name] = /** @type {Float32Array} */ (data);
        return undefined;
      case "close":
        await session.release();
        return undefined;
    }
  }

  return async (request) => {
    /** @type {Reply} */
    const reply = { id: request.id };
    try {
      const results = await answer(request);
      if (results) reply.results = results;
    } catch (error) {
      reply.error = error instanceof Error ? error.message : String(error);
    }
    post(reply, transferable(request, reply.results ?? {}));
  };
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
