// The processes that work on one run together, after MPI's communicators: which of them this is, sums and copies between all.

export interface Communicator {
  /** Which process this is, from 0, and how many there are. */
  readonly rank: number;
  readonly size: number;
  /** Which of the processes on this machine it is, and how many these are. */
  readonly local: { readonly rank: number; readonly size: number };
  /**
   * Replaces each number by its sum over all processes; all get the same bits. Every process calls it with as many numbers, and for
   * the same reason (`what`, which a failure names). Calls of one process are answered in their order.
   */
  allReduce(values: Float32Array | Float64Array, what: string): Promise<void>;
  /** Replaces the bytes by those of process `root`. Every process calls it with as many. */
  broadcast(bytes: Uint8Array, root: number, what: string): Promise<void>;
  /**
   * The processes that give the same number, in the order of their ranks. They wait for each other for `limitMs`, or as long as these
   * do.
   */
  split(group: number, limitMs?: number): Promise<Communicator>;
}

/** A process by itself. */
export const alone: Communicator = {
  rank: 0,
  size: 1,
  local: { rank: 0, size: 1 },
  allReduce: async () => {},
  broadcast: async () => {},
  split: async () => alone,
};
