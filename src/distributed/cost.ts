// What working together costs a step of training: an estimate from the layout of the processes and the network between them.
//
// The sum of n bytes over N processes is a reduce-scatter and an all-gather: every process sends, and gets, 2(N−1)/N · n bytes
// (Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005, section 4.5; the same bytes in a
// ring, as Open MPI has it). In a ring whose neighbours share a machine each machine's link carries the bytes of one process, so that
//
//   sum(n) = 2(N−1)/N · n / rate + 2⌈log2 N⌉ · latency
//
// The constants were measured with bench/reduce.ts over bench/network.sh, whose numbers are in docs/cluster.md.

/** Which processes there are, and how many of them are on each machine. */
export interface ProcessLayout {
  processes: number;
  perMachine: number;
}

export interface Network {
  /** Of the link of one machine, each way: what its name says, in bits a second. */
  bitsPerSecond: number;
  /** Seconds that a packet needs from one machine to another. */
  latency: number;
}

/** Share of a link's rate that is left to TCP's data, with the frames around it. */
const PAYLOAD = 0.95;
/** From this latency on the MPI libraries use the two directions of a link in turn over TCP: seen at 1 ms, and not at 0.5 ms. */
const IN_TURN_LATENCY = 7.5e-4;
/** Between processes of a machine: bytes a second that a sum moves, and seconds of a message. */
const [MEMORY_RATE, MEMORY_LATENCY] = [3e9, 2e-5];
/** How long a process may not look for messages while it waits for the others, which happens once on either side. */
const LOOK_SECONDS = 5e-4;
/** Process 0 hears and answers each process: seconds. */
const ANSWER_SECONDS = 1e-5;

/** Sums of a step: of its totals, and of its gradient (src/train/step.ts). */
const SUMS_A_STEP = 2;
const TOTALS_BYTES = 40;

export const machinesOf = ({ processes, perMachine }: ProcessLayout): number => Math.ceil(processes / perMachine);

/** Bytes a second, and seconds of a message, of the slowest link that a sum passes. */
function slowestLink(layout: ProcessLayout, { bitsPerSecond, latency }: Network): { rate: number; latency: number } {
  if (machinesOf(layout) === 1) return { rate: MEMORY_RATE, latency: MEMORY_LATENCY };
  const rate = (PAYLOAD * bitsPerSecond) / 8 / (latency >= IN_TURN_LATENCY ? 2 : 1);
  return { rate: Math.min(rate, MEMORY_RATE), latency };
}

/** Bytes that each process, and so the link of each machine, sends in a sum of so many bytes, and gets. */
export const bytesSent = ({ processes }: Pick<ProcessLayout, "processes">, bytes: number): number =>
  ((2 * (processes - 1)) / processes) * bytes;

/** Seconds of the sum of so many bytes, once all processes have come to it. */
export function sumSeconds(layout: ProcessLayout, network: Network, bytes: number): number {
  const { rate, latency } = slowestLink(layout, network);
  return bytesSent(layout, bytes) / rate + 2 * Math.ceil(Math.log2(layout.processes)) * latency;
}

/** Seconds until all processes know that all have come: each says so to process 0, which answers. */
export function meetingSeconds(layout: ProcessLayout, network: Network): number {
  if (layout.processes === 1) return 0;
  return 2 * slowestLink(layout, network).latency + 2 * LOOK_SECONDS + layout.processes * ANSWER_SECONDS;
}

/** Seconds that a step takes longer in several processes than what its slowest process computes: `bytes` are those of the gradient. */
export function exchangeSeconds(layout: ProcessLayout, network: Network, bytes: number): number {
  if (layout.processes === 1) return 0;
  const sums = sumSeconds(layout, network, TOTALS_BYTES) + sumSeconds(layout, network, bytes);
  return SUMS_A_STEP * meetingSeconds(layout, network) + sums;
}
