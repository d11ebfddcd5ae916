// The border to the execution engine: a program in, an asynchronous function of tensors out.
import type { Program } from "../graph/stages.ts";
import type { LocateWeight } from "../onnx/emitter.ts";
import type { Tensor } from "../tensor.ts";

/**
 * Where the frozen weights of a graph lie. In a program of one stage Node's engine reads them in place, by the entries that `lower`
 * wrote; several stages are given their weights, and so is an engine without files of its own.
 */
export interface WeightSource {
  /** The folder that every weight file lies in or below. */
  folder: string;
  /** A weight, by the model's name: its file below `folder`, offset, length, dtype, shape. Fails with `checkpoint/missing-tensor`. */
  locate: LocateWeight;
}

/** The source of a program that reads no weights. */
export const noWeights: WeightSource = {
  folder: "",
  locate: (name) => {
    throw new Error(`the program has no weight ${name}`);
  },
};

/** The most threads that can be asked for: each has a stack, and beyond the cores they only wait for each other. */
export const MAX_THREADS = 1024;

export interface SessionOptions {
  /** Where the weights that the program refers to lie; none if absent. */
  weights?: WeightSource;
  /** Threads of one matrix product; all cores if absent. */
  threads?: number;
  /** Reads the large weights of a program's stages anew at every run, while the stage before runs: memory does not grow with depth. */
  streamed?: boolean;
  /** Called with the seconds that a stage has waited for weights that stream. */
  onWaited?: (seconds: number) => void;
  /** Called while weights are converted for the cache. What it throws ends the opening, and nothing is left of the entry. */
  onConverted?: (progress: { done: number; total: number }) => void;
  /** Writes ONNX Runtime's profile (a Chrome trace) to files that begin with this path. */
  profile?: string;
}

export interface SessionRun {
  /** Outputs to return; all that are not carried if absent. */
  fetches?: readonly string[];
  /** Output → input: the output stays beside the engine, bound to that input, and is not returned unless fetched. */
  carry?: Readonly<Record<string, string>>;
}

export interface Session {
  /**
   * Runs the program on `feeds` and the bound inputs; where both have a name, `feeds` counts. Rejects with a LowrankError
   * that carries the engine's message, and binds nothing then.
   */
  run(feeds: Record<string, Tensor>, options?: SessionRun): Promise<Record<string, Tensor>>;
  /** Copies inputs beside the engine once. Each serves every run until it is bound again, by `bind` or by `carry`. */
  bind(feeds: Record<string, Tensor>): Promise<void>;
  /**
   * Inputs and outputs in shared memory, for what is large and crosses at every run: each run reads the inputs' present
   * values, and writes the outputs that it fetches there instead of returning them.
   */
  share(inputs: Record<string, Tensor>, outputs: Record<string, Tensor>): Promise<void>;
  /** Frees the weights. The session cannot be used afterwards. */
  close(): Promise<void>;
}

export type OpenSession = (program: Program, options?: SessionOptions) => Promise<Session>;
