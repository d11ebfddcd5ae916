// The border to the execution engine: an ONNX model in, an asynchronous function of tensors out.
import type { Tensor } from "../tensor.ts";

export interface SessionOptions {
  /** Folder that the external-data locations of the model are relative to. */
  weightsFolder?: string;
  /** Threads of one matrix product; all cores if absent. */
  threads?: number;
  /** Writes ONNX Runtime's profile (a Chrome trace) to files that begin with this path. */
  profile?: string;
}

export interface Session {
  /** Runs the model; rejects with a LowrankError that carries the engine's message. */
  run(feeds: Record<string, Tensor>, fetches?: readonly string[]): Promise<Record<string, Tensor>>;
  /** Frees the weights. The session cannot be used afterwards. */
  close(): Promise<void>;
}

export type OpenSession = (model: Uint8Array, options?: SessionOptions) => Promise<Session>;
