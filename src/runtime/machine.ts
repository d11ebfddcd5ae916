// The border to an engine that runs one stage at a time and leaves tensors where they are between stages.
import type { ElementType } from "../graph/graph.ts";
import type { Tensor } from "../tensor.ts";

/** A tensor in the engine's keeping. */
export type Handle = bigint;

/** An output that is asked for, and the tensor that it is written to, if there is one already. */
export interface Wanted {
  index: number;
  place?: Handle;
  /** It will be read, so it is to lie in ordinary memory. */
  isRead?: boolean;
}

/** A tensor and the memory that it lies in. */
export interface Place {
  handle: Handle;
  bytes: Uint8Array;
}

/** Memory of the engine's own, which is freed at once and not when it is collected. */
export interface Memory {
  bytes: Uint8Array;
  free(): void;
}

export interface Executable {
  /** Runs on all inputs, in their order; resolves to the wanted outputs, each to be freed unless it was written to a place. */
  run(inputs: readonly Handle[], wanted: readonly Wanted[]): Promise<Handle[]>;
  close(): void;
}

export interface CompileOptions {
  inputs: readonly string[];
  outputs: readonly string[];
  /** The folder that the model's external weights lie below. */
  weightsFolder?: string;
  threads?: number;
  /** External weights that are given instead of being read from files, by the model's names. */
  weights?: ReadonlyMap<string, Handle>;
  /** Where the engine's profile goes. */
  profile?: string;
}

export interface Machine {
  /** Whether it lacks products of transposed and scaled factors. */
  isPlain?: boolean;
  compile(model: Uint8Array, options: CompileOptions): Promise<Executable>;
  /** A tensor over `bytes`, which are not copied. The machine holds them until it is freed. */
  tensor(dtype: ElementType, shape: readonly number[], bytes: Uint8Array): Handle;
  allocate(length: number): Memory;
  /** A tensor's copy in the memory of the device that computes; the first is freed. Absent where there is one memory. */
  move?(dtype: ElementType, shape: readonly number[], handle: Handle): Promise<Handle>;
  /** A copy of a tensor that is not on a device. */
  read(handle: Handle): Tensor;
  free(handle: Handle): void;
}

/** Runs each work when all that were given before have ended, well or not. */
export function taskQueue(): <T>(work: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const mine = last.then(work);
    last = mine.catch(() => {});
    return mine;
  };
}
