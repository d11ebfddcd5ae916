// What a step of training takes in several processes: memory of a machine, bytes between machines, time and efficiency.
import { z } from "zod";
import { bytesSent, exchangeSeconds, machinesOf, type Network, type ProcessLayout } from "../../distributed/cost.ts";
import { checkCounts, type Given, option } from "../../options.ts";

/** "10Gbit" → 10e9 bits a second, "0.05ms" → 5e-5 seconds; texts that are neither stay as they are. */
const quantity = (units: Record<string, number>) => (text: string) => {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)([a-z]+)$/i.exec(text.replace(/(\/s|ps)$/i, "")) ?? [];
  const factor = unit === undefined ? undefined : units[unit.toLowerCase()];
  return factor === undefined ? text : Number(digits) * factor;
};

export const clusterOptions = {
  processes: option(z.number().optional(), {
    help: "number of processes that train together, to estimate a cluster (docs/cluster.md)",
  }),
  perMachine: option(z.number().default(1), { help: "how many of the processes are on each machine" }),
  network: option(z.number().positive().default(10e9), {
    value: "RATE",
    expected: "a rate such as 1Gbit, 25Gbit or 200Mbit",
    parse: quantity({ kbit: 1e3, mbit: 1e6, gbit: 1e9 }),
    help: "rate of the network between the machines; bits per second in the API",
  }),
  latency: option(z.number().nonnegative().default(5e-5), {
    value: "TIME",
    expected: "a time such as 0.05ms or 20us",
    parse: quantity({ s: 1, ms: 1e-3, us: 1e-6 }),
    help: "time of a packet from one machine to another; seconds in the API",
  }),
};

/** A step in several processes. Times are in seconds. */
export interface ClusterPlan extends ProcessLayout {
  machines: number;
  network: Network;
  /** Most rows that a process has in a step. */
  rows: number;
  /** Peak memory in bytes of the processes of a machine. */
  memoryPerMachine: number;
  /** Bytes that the link of each machine sends in a step, and gets. */
  bytesPerStep: number;
  /** Parts of a step: forward and backward of the rows of a process, sums over all processes, the optimizer. */
  computeSeconds: number;
  exchangeSeconds: number;
  updateSeconds: number;
  secondsPerStep: number;
  tokensPerSecond: number;
  /** How many times as fast as one machine it is, divided by the machines. */
  efficiency: number;
}

/** What of the plan of one process the plan of several follows from. */
export interface StepNeeds {
  /** Rows of a step, and tokens of a row. */
  rows: number;
  maxLength: number;
  trainable: number;
  /** Bytes of a process that has at most so many rows, and shares its machine with as many others. */
  memoryOf(rows: number, perMachine: number): number;
  /** Seconds of forward and backward of so many rows in a process that shares its machine with as many others. */
  computeOf(rows: number, perMachine: number): number;
  updateSeconds: number;
}

export function planCluster(
  { processes, perMachine, network: bitsPerSecond, latency }: Required<Given<typeof clusterOptions>> & ProcessLayout,
  step: StepNeeds,
): ClusterPlan {
  checkCounts("train/option", { processes, perMachine });
  const layout = { processes, perMachine: Math.min(perMachine, processes) };
  const network = { bitsPerSecond, latency };
  const machines = machinesOf(layout);
  const { updateSeconds } = step;
  const rows = Math.ceil(step.rows / processes);
  const gradientBytes = 4 * step.trainable;
  const parts = {
    computeSeconds: step.computeOf(rows, layout.perMachine),
    exchangeSeconds: exchangeSeconds(layout, network, gradientBytes),
    updateSeconds,
  };
  const secondsPerStep = parts.computeSeconds + parts.exchangeSeconds + updateSeconds;
  const alone = step.computeOf(step.rows, 1) + updateSeconds;
  return {
    ...layout,
    machines,
    network,
    rows,
    memoryPerMachine: layout.perMachine * step.memoryOf(rows, layout.perMachine),
    bytesPerStep: machines === 1 ? 0 : bytesSent(layout, gradientBytes),
    ...parts,
    secondsPerStep,
    tokensPerSecond: (step.rows * step.maxLength) / secondsPerStep,
    efficiency: alone / (machines * secondsPerStep),
  };
}
