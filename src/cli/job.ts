// The command line in a process of an MPI job: `mpirun -n 8 lowrank train …`. One process speaks for all; one that fails ends all.
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { setTimeout as later } from "node:timers/promises";
import type { Command } from "../commands/command.ts";
import { awaited, gathered, hashNumber } from "../distributed/exchange.ts";
import { LowrankError } from "../errors.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import { orEmpty } from "../platform/node/files.ts";
import { type MpiCommunicator, openMpi } from "../platform/node/mpi/communicator.ts";
import { launched } from "../platform/node/mpi/launchers.ts";
import type { Platform } from "../platform/platform.ts";
import { note, silence } from "../terminal/terminal.ts";

/** The first process says what all have found, such as a wrong option, before another does; its end is theirs. */
const FIRST_WORD_MS = 2500;
const NEXT_WORD_MS = 1500;

/** Whether another process of the job speaks for this one. */
export const isSilent = (): boolean => (launched(process.env)?.rank ?? 0) > 0;

/** Waits until the first process has said the same, where there is one. */
export const afterFirst = (): Promise<void> => (isSilent() && !hasWaited ? later(FIRST_WORD_MS) : Promise.resolve());
let hasWaited = false;

/**
 * The exit status of `work` on this process's platform. In a job `prepare`, which may download a model, is done by one process of each
 * machine before the others.
 */
export async function inJob<V>(
  name: string,
  { processes }: Pick<Command, "processes">,
  platform: Platform,
  prepare: () => Promise<V>,
  work: (values: V, platform: Platform) => Promise<number>,
): Promise<number> {
  const job = launched(process.env);
  if (!job) return work(await prepare(), platform);
  if (!processes) {
    throw new LowrankError("cli/processes", `lowrank ${name} is the work of one process`, {
      subject: job.launcher,
      expected: "one process",
      got: job.size ? `one of ${job.size} processes` : "a job of several",
      next: `Run lowrank ${name} without it (docs/cluster.md says what several processes do).`,
    });
  }
  const team = await openMpi();
  try {
    const early = await awaited(team, team.local.rank === 0 ? prepare() : undefined, "models");
    const status = await work(early ?? (await prepare()), await onShare(platform, team));
    await team.close();
    return status;
  } catch (error) {
    if (team.rank > 0) {
      await later(FIRST_WORD_MS + (team.rank > 1 ? NEXT_WORD_MS : 0)); // process 0 may be what is missing
      hasWaited = true;
      silence(false);
      note(`process ${team.rank} of ${team.size}, on ${team.machines[team.rank]}:`);
    }
    throw error;
  }
}

/** What a process has of its machine: its share of the cores and the memory. */
async function onShare(platform: Platform, team: MpiCommunicator): Promise<Platform> {
  const { size } = team.local;
  const limits = platform.memoryLimits;
  return {
    ...platform,
    team,
    ...(size > 1 && { threads: await ownThreads(team) }), // by itself it has what a process without MPI has
    ...(limits && {
      memoryLimits: () => {
        const { available, total } = limits();
        return { available: available / size, total: total / size };
      },
    }),
  };
}

/** The processors that a process may run on, shared with those of its machine that have the same ones: a launcher may bind each to its own. */
async function ownThreads(team: MpiCommunicator): Promise<number> {
  const own = await gathered(team, processorSet(), "processors");
  const machine = team.machines[team.rank];
  const sharing = team.machines.filter((name, rank) => name === machine && own[rank] === own[team.rank]);
  return Math.max(1, Math.floor(availableParallelism() / sharing.length));
}

/** A number for the processors that this process may run on, as Linux lists them; elsewhere for how many they are. */
function processorSet(): number {
  const status = orEmpty(() => readFileSync("/proc/self/status", "utf8"));
  const [list = String(availableParallelism())] = /^Cpus_allowed_list:.*$/m.exec(status) ?? [];
  return hashNumber(fingerprint([new TextEncoder().encode(list)]));
}
