// The worker side of worker-session.ts: one ONNX Runtime session, one request at a time. JavaScript, so that a worker that
// imports it starts the same way from source and from the package.

/** @import { InferenceSession, Tensor as EngineTensor } from "onnxruntime-node" */
/** @import { Request, Reply } from "./worker-session.ts" */
/** @import { Tensor } from "../tensor.ts" */

/**
 * What a platform's worker brings. `open` makes a session of what the platform sent, and says how its tensors are made.
 * `ownMemory`: the engine reads no shared memory, and can write outputs to a place that it is given.
 * @typedef {{
 *   open: (model: any) => Promise<{ session: InferenceSession, Tensor: typeof EngineTensor }>,
 *   ownMemory: boolean,
 *   beforeRun?: () => void,
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
   * Inputs in shared memory, each with the copy that the engine reads.
   * @type {{ source: Tensor["data"], copy: Tensor["data"] }[]}
   */
  const live = [];
  /**
   * Outputs that go to shared memory, each with the place that the engine writes: made anew at every run, they would wait
   * for the garbage collector, which does not see how large they are.
   * @type {Record<string, { target: Float32Array, place: EngineTensor | null }>}
   */
  const shared = {};

  /** @param {Tensor} tensor */
  const engineTensor = ({ dtype, data, shape }) =>
    new Tensor(/** @type {"float32"} */ (dtype), /** @type {Float32Array} */ (data), shape);
  /** @param {Record<string, Tensor>} feeds */
  const engineTensors = (feeds) =>
    Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, engineTensor(tensor)]));

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
        engine.beforeRun?.();
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
        for (const [name, tensor] of Object.entries(request.inputs)) {
          const copy = engine.ownMemory ? tensor.data.slice() : tensor.data;
          if (engine.ownMemory) live.push({ source: tensor.data, copy });
          bound[name] = engineTensor({ ...tensor, data: copy });
        }
        for (const [name, { dtype, data, shape }] of Object.entries(request.outputs)) {
          const target = /** @type {Float32Array} */ (data);
          const place = engine.ownMemory ? engineTensor({ dtype, data: new Float32Array(target.length), shape }) : null;
          shared[name] = { target, place };
        }
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
