// The processes of an MPI job (MPI 3.1). One call of a process is at work at a time, so the library is asked for SERIALIZED threads only:
// meetings are polled from JavaScript's thread, and what moves data runs on a thread of its own.
import { setTimeout as later } from "node:timers/promises";
import type { Communicator } from "../../../distributed/communicator.ts";
import { LowrankError } from "../../../errors.ts";
import { taskQueue } from "../../../runtime/machine.ts";
import { duration } from "../../../units.ts";
import type { Environment } from "../part-cache.ts";
import { type AbiName, abis, MAX_TEXT } from "./abis.ts";
import { type Job, jobOf } from "./launchers.ts";
import { LIBRARY_VARIABLE, type Mpi, type MpiHandle, openLibrary, writtenText } from "./library.ts";
import { decodeText, type Group, meetingPlace, type Purpose } from "./meeting.ts";
import { ownLife, peerWatch } from "./peers.ts";

/** Within which all processes come to a call, and within which its data move. */
export const TIME_LIMIT_MS = 600_000;
/** After a failure the job is ended at the exit of this process, and after this long at the latest. */
const FAREWELL_MS = 5000;
/** The launcher reads what this process has printed before it is told to end the job; MPICH's loses it otherwise. */
const LAST_WORDS_MS = 300;
const STALLED = "See whether a process was stopped, and whether the network between the machines works.";
const FIRST_CONTACT =
  "See whether the machines reach each other on every port. With several network cards name the one to use: --mca btl_tcp_if_include eth0 (Open MPI), -iface eth0 (MPICH).";
/** Most numbers of a call of the library, which counts them by an int. */
const MOST_AT_ONCE = 2 ** 30;

export interface MpiOptions {
  /** Where the launcher and the user say which library it is; default: the process's. */
  environment?: Environment;
  timeLimitMs?: number;
  /** Within which processes that have started MPI first hear of each other. */
  contactLimitMs?: number;
}

export interface MpiCommunicator extends Communicator {
  split(group: number, limitMs?: number): Promise<MpiCommunicator>;
  /** What the library says that it is. */
  readonly library: string;
  /** The machine of each process. */
  readonly machines: readonly string[];
  /** Ends every other process of the job at once, and this one where it was started by the job; nothing is awaited. */
  abort(exitCode: number): void;
  /** Leaves the job, once all processes have come to this; after a failure nothing, since the job ends with the process. */
  close(): Promise<void>;
}

/** What the communicators of this process share. */
interface World {
  mpi: Mpi;
  limitMs: number;
  queue: ReturnType<typeof taskQueue>;
  /** The first failure; the processes are no longer at the same place after it. */
  failure?: unknown;
  closing?: Promise<void>;
  abort(exitCode: number): void;
  end(): void;
}

/**
 * Starts MPI in this process; once, since MPI can't be started again. A process that ends without `close` ends the job: the others would
 * wait for it.
 */
export async function openMpi({
  environment = process.env,
  timeLimitMs = TIME_LIMIT_MS,
  contactLimitMs = 120_000,
}: MpiOptions = {}): Promise<MpiCommunicator> {
  const job = jobOf(environment);
  if (job?.abis.length === 0) throw withoutMpi(job);
  const mpi = openLibrary(job?.abis ?? (Object.keys(abis) as AbiName[]), environment);
  const { call, abi, handles } = mpi;
  const level = mpi.number("MPI_Init_thread", null, null, abi.serialized);
  call("MPI_Comm_set_errhandler", handles.world, handles.errorsReturn);
  const size = mpi.number("MPI_Comm_size", handles.world);
  check(mpi, job, size, level);

  const abort = (exitCode: number) => {
    if (size > 1) call("MPI_Abort", handles.world, exitCode);
  };
  const atExit = (code: number) => {
    if (size > 1) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LAST_WORDS_MS);
    abort(code || 1);
  };
  process.on("exit", atExit);
  const end = () => {
    process.off("exit", atExit);
    call("MPI_Finalize");
  };
  const world = { mpi, limitMs: timeLimitMs, queue: taskQueue(), abort, end };
  try {
    const first = "the first words between the processes";
    return await within(contactLimitMs, first, member(world, handles.world), FIRST_CONTACT);
  } catch (error) {
    endLater(world);
    throw error;
  }
}

const withoutMpi = ({ launcher, size }: Job) =>
  new LowrankError("distributed/launcher", "the launcher has started processes that cannot find each other", {
    subject: launcher,
    expected: "a launcher that serves MPI",
    got: `${size} processes, each by itself`,
    next: "Use srun --mpi=pmix (Open MPI) or srun --mpi=pmi2 (MPICH, Intel MPI); srun --mpi=list has what there is. For separate processes use a job for each.",
    exitCode: 1,
  });

/** Throws where the launcher's processes are not those of the library. */
function check(mpi: Mpi, job: Job | null, size: number, level: number): void {
  const rank = mpi.number("MPI_Comm_rank", mpi.handles.world);
  if (job && (rank !== job.rank || size !== (job.size ?? size))) {
    mpi.call("MPI_Finalize");
    throw new LowrankError("distributed/launcher", "the launcher and the MPI library are not of one MPI", {
      subject: mpi.file,
      expected: `process ${job.rank}${job.size ? ` of ${job.size}` : ""}, as ${job.launcher} says`,
      got: `process ${rank} of ${size} (${mpi.version})`,
      next: `Start it with the mpirun of that library, or name the launcher's library by ${LIBRARY_VARIABLE}=/path/to/libmpi.so; with srun, choose what the library was built for by --mpi (srun --mpi=list).`,
      exitCode: 1,
    });
  }
  if (level >= mpi.abi.serialized) return;
  throw new LowrankError("distributed/library", "the MPI library was built without threads", {
    subject: mpi.file,
    expected: "MPI_THREAD_SERIALIZED",
    got: mpi.version,
    next: `Install a build with threads, as distributions have it, or name one by ${LIBRARY_VARIABLE}.`,
    exitCode: 1,
  });
}

/** A communicator of the library, with what all of its processes say of themselves; they wait for each other for `limitMs`. */
async function member(world: World, comm: MpiHandle, limitMs = world.limitMs): Promise<MpiCommunicator> {
  const { mpi } = world;
  const [rank, size] = [mpi.number("MPI_Comm_rank", comm), mpi.number("MPI_Comm_size", comm)];
  const machines = await textsOf(mpi, comm, size, machineOf(mpi));
  const group: Group = { mpi, comm, rank, size, machines };
  const local = await localOf(mpi, comm, rank);
  const watched = peerWatch(rank, await textsOf(mpi, comm, size, ownLife()));
  const meet = meetingPlace(group);

  /** Meets the others, then works with them. */
  const together = <T>(purpose: Purpose, work: () => Promise<T>): Promise<T> =>
    world.queue(async () => {
      if (world.failure) throw world.failure;
      try {
        return await watched(
          purpose.what,
          meet(purpose, limitMs).then(() => within(world.limitMs, purpose.what, work())),
        );
      } catch (error) {
        world.failure = error;
        endLater(world);
        throw error;
      }
    });

  return {
    rank,
    size,
    local,
    machines: group.machines,
    library: mpi.version,
    abort: world.abort,
    async allReduce(values, what) {
      const type = values instanceof Float32Array ? mpi.handles.float32 : mpi.handles.float64;
      if (size === 1) return;
      await together({ operation: "sum", count: values.length, what }, async () => {
        for (const part of partsOf(values))
          await mpi.later("MPI_Allreduce", mpi.abi.inPlace, part, part.length, type, mpi.handles.sum, comm);
      });
    },
    async broadcast(bytes, root, what) {
      if (size === 1) return;
      await together({ operation: "copy", count: bytes.length, root, what }, async () => {
        for (const part of partsOf(bytes)) await mpi.later("MPI_Bcast", part, part.length, mpi.handles.byte, root, comm);
      });
    },
    split: (color, limit = limitMs) =>
      together({ operation: "split", count: 0, what: "split into groups" }, async () => {
        const made = mpi.memory(1);
        await mpi.later("MPI_Comm_split", comm, color, rank, made);
        return member(world, made[0]!, limit);
      }),
    close() {
      world.closing ??= world.failure
        ? Promise.resolve()
        : together({ operation: "end", count: 0, what: "the end of the run" }, async () => world.end());
      return world.closing;
    },
  };
}

function* partsOf<T extends Float32Array | Float64Array | Uint8Array>(values: T): Generator<T> {
  for (let at = 0; at < values.length; at += MOST_AT_ONCE) yield values.subarray(at, at + MOST_AT_ONCE) as T;
}

/** Ends the job where this process does not by itself. */
function endLater({ abort }: World): void {
  setTimeout(() => abort(1), FAREWELL_MS).unref();
}

/** Rejects where the work is not done in time. The library goes on with it: the process can only end. */
async function within<T>(limitMs: number, what: string, work: Promise<T>, next = STALLED): Promise<T> {
  const stop = new AbortController();
  const late = later(limitMs, undefined, { signal: stop.signal }).then(() => {
    throw new LowrankError("distributed/stalled", `the data did not reach every process: ${what}`, {
      expected: `the end of it within ${duration(limitMs / 1000)}, once all processes had come`,
      next,
      exitCode: 1,
    });
  });
  late.catch(() => {});
  try {
    return await Promise.race([work, late]);
  } finally {
    stop.abort();
  }
}

/** The name of this machine. */
const machineOf = (mpi: Mpi): string =>
  writtenText((name, length) => mpi.call("MPI_Get_processor_name", name, length), MAX_TEXT.machine);

/** Most bytes of what a process says of itself. */
const LIFE_BYTES = 512;

/** A short text of every process, in the order of their ranks. */
async function textsOf(mpi: Mpi, comm: MpiHandle, size: number, text: string): Promise<string[]> {
  const { byte } = mpi.handles;
  const [own, all] = [new Uint8Array(LIFE_BYTES), new Uint8Array(size * LIFE_BYTES)];
  new TextEncoder().encodeInto(text, own);
  await mpi.later("MPI_Allgather", own, own.length, byte, all, own.length, byte, comm);
  return Array.from({ length: size }, (_, i) => decodeText(all.subarray(i * own.length, (i + 1) * own.length)));
}

/** Which of the processes on this machine this is, and how many they are. */
async function localOf(mpi: Mpi, comm: MpiHandle, rank: number): Promise<Communicator["local"]> {
  const made = mpi.memory(1);
  await mpi.later("MPI_Comm_split_type", comm, mpi.abi.shared, rank, mpi.handles.noInfo, made);
  const [local] = made;
  const place = { rank: mpi.number("MPI_Comm_rank", local), size: mpi.number("MPI_Comm_size", local) };
  await mpi.later("MPI_Comm_free", made);
  return place;
}
