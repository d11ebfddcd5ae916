// Processes meet before they work together: each says to process 0 what it came for, and process 0 answers when all are there. Nothing is
// waited for inside the MPI library, so that a process that does not come is known by name, and one that came for something else too.
import { setTimeout as later, setImmediate as turn } from "node:timers/promises";
import { LowrankError } from "../../../errors.ts";
import { duration, grouped } from "../../../units.ts";
import type { Mpi, MpiHandle } from "./library.ts";

/** The processes of a communicator, and this one's place among them. */
export interface Group {
  mpi: Mpi;
  comm: MpiHandle;
  rank: number;
  size: number;
  /** The machine of each process. */
  machines: readonly string[];
}

/** What a process comes for: an operation on so many numbers, for a reason. */
export interface Purpose {
  operation: "sum" | "copy" | "split" | "end";
  count: number;
  /** Of a copy: the process whose numbers all get. */
  root?: number;
  what: string;
}

const PURPOSE_BYTES = 256;
const TEXT_AT = 16;
const VERDICT_BYTES = 8192;
const TAGS = { purpose: 1, verdict: 2, impatience: 3 } as const;
/** Impatience has a tag for each of so many meetings after each other, since nobody receives it: it is not to be found at a later one. */
const IMPATIENCE_TAGS = 1000;
/** Milliseconds for which a process looks for messages without a pause, and those between two looks after them. */
const SPIN_MS = 2;
const PAUSE_MS = 1;
/** Most that counts as waited between two looks: a process that was stopped itself has not waited for the others. */
const LOOK_MS = 100;
/** How long process 0 may stay silent after the limit, and how long others wait for the end of the job before they say the same as one. */
const SILENCE_MS = 3000;
const SPEAK_MS = 3000;
/** Processes that an error names. */
const NAMED = 20;

/** A meeting place of a group; the function is called by all of its processes, in the same order. */
export function meetingPlace(group: Group): (purpose: Purpose, limitMs: number) => Promise<void> {
  const { mpi, comm, rank, size } = group;
  const { byte } = mpi.handles;
  const mine = new Uint8Array(PURPOSE_BYTES);
  const verdict = new Uint8Array(VERDICT_BYTES);
  /** Process 0: what the others come for, a request each. Others: the verdict, and what is sent to process 0. */
  const theirs = Array.from({ length: rank === 0 ? size - 1 : 0 }, () => new Uint8Array(PURPOSE_BYTES));
  const slots = rank === 0 ? size - 1 : 2;
  const [requests, indices] = [mpi.memory(slots), new Int32Array(slots)];
  let meetings = 0;
  const impatience = () => TAGS.impatience + (meetings % IMPATIENCE_TAGS);

  const post = (name: "MPI_Isend" | "MPI_Irecv", bytes: Uint8Array, peer: number, tag: number, slot: number) =>
    mpi.call(name, bytes, bytes.length, byte, peer, tag, comm, requests.subarray(slot, slot + 1));

  /** Looks until the requests in `open` are done, which takes them out of it, or `isOver`. */
  async function settle(open: Set<number>, isOver: (waitedMs: number) => boolean): Promise<void> {
    const count = new Int32Array(1);
    let [waited, last] = [0, performance.now()];
    for (;;) {
      mpi.call("MPI_Testsome", slots, requests, count, indices, mpi.abi.noStatus);
      for (const slot of indices.subarray(0, Math.max(0, count[0]!))) open.delete(slot);
      const now = performance.now();
      waited += Math.min(now - last, LOOK_MS);
      last = now;
      if (open.size === 0 || isOver(waited)) return;
      await (waited < SPIN_MS ? turn() : later(PAUSE_MS));
    }
  }

  /** Whether a process has sent that its time is over. */
  const isUrged = (): boolean => {
    const isThere = new Int32Array(1);
    mpi.call("MPI_Iprobe", mpi.abi.anySource, impatience(), comm, isThere, mpi.abi.noStatus);
    return isThere[0] !== 0;
  };

  /** Process 0: waits for the others, and says to those who came whether all did, for the same. */
  async function gather(purpose: Purpose, limitMs: number): Promise<void> {
    const missing = new Set(theirs.keys());
    for (const [i, bytes] of theirs.entries()) post("MPI_Irecv", bytes, i + 1, TAGS.purpose, i);
    await settle(missing, (waited) => waited > limitMs || (waited > SPIN_MS && isUrged()));
    const came = [...theirs.keys()].filter((i) => !missing.has(i));
    const strays = came.filter((i) => Buffer.compare(theirs[i]!, mine) !== 0).map((i) => i + 1);
    const failure =
      strays.length > 0
        ? astray(group, strays, decodePurpose(theirs[strays[0]! - 1]!), purpose)
        : missing.size > 0
          ? absent(
              group,
              Array.from(missing, (i) => i + 1),
              purpose,
              limitMs,
            )
          : undefined;
    verdict.fill(0);
    const answer = verdict.subarray(0, failure ? encode(failure, verdict) : 1);
    for (const i of came) post("MPI_Isend", answer, i + 1, TAGS.verdict, i);
    await settle(new Set(came), (waited) => waited > SILENCE_MS);
    if (failure) throw failure;
  }

  /** Every other process: says what it came for, and waits for the verdict. */
  async function report(purpose: Purpose, limitMs: number): Promise<void> {
    const open = new Set([0, 1]);
    verdict.fill(0);
    post("MPI_Irecv", verdict, 0, TAGS.verdict, 0);
    post("MPI_Isend", mine, 0, TAGS.purpose, 1);
    await settle(open, (waited) => waited > limitMs);
    if (open.size > 0) {
      mpi.call("MPI_Isend", mine, 0, byte, 0, impatience(), comm, mpi.memory(1));
      await settle(open, (waited) => waited > SILENCE_MS);
    }
    const failure = open.size > 0 ? absent(group, [0], purpose, limitMs) : decodeFailure(verdict);
    if (!failure) return;
    if (open.size === 0 || rank > 1) await later(SPEAK_MS);
    throw failure;
  }

  return async (purpose, limitMs) => {
    meetings++;
    encodePurpose(purpose, mine);
    await (rank === 0 ? gather(purpose, limitMs) : report(purpose, limitMs));
  };
}

const operations = ["sum", "copy", "split", "end"] as const satisfies readonly Purpose["operation"][];

/** Operation, root and count, then the reason, cut to what is left. */
function encodePurpose({ operation, count, root = 0, what }: Purpose, bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer);
  bytes.fill(0);
  view.setUint32(0, operations.indexOf(operation));
  view.setUint32(4, root);
  view.setFloat64(8, count);
  new TextEncoder().encodeInto(what, bytes.subarray(TEXT_AT));
}

function decodePurpose(bytes: Uint8Array): Purpose {
  const view = new DataView(bytes.buffer);
  const [operation, root, count] = [operations[view.getUint32(0)]!, view.getUint32(4), view.getFloat64(8)];
  return { operation, root, count, what: decodeText(bytes.subarray(TEXT_AT)) };
}

/** A text that zeros fill up. */
export const decodeText = (bytes: Uint8Array): string => new TextDecoder().decode(bytes).replace(/\0+$/, "");

/** Writes a failure, and returns how many bytes it takes; a verdict without any text says that all is well. */
function encode(failure: LowrankError, bytes: Uint8Array): number {
  return new TextEncoder().encodeInto(JSON.stringify(failure), bytes).written;
}

function decodeFailure(bytes: Uint8Array): LowrankError | undefined {
  const text = decodeText(bytes);
  if (text === "") return undefined;
  const { error, message, ...facts } = JSON.parse(text);
  return new LowrankError(error, message, { ...facts, exitCode: 1 });
}

/** "process 3 of 4 (machine node7)"; they are counted from 0, as MPI's ranks are. */
function named({ size, machines }: Group, ranks: readonly number[]): string {
  if (ranks.length === 1) return `process ${ranks[0]} of ${size} (machine ${machines[ranks[0]!]})`;
  const some = ranks.slice(0, NAMED).map((rank) => `${rank} (machine ${machines[rank]})`);
  const more = ranks.length - some.length;
  return `processes ${some.join(", ")}${more > 0 ? ` and ${more} more` : ""} of ${size}`;
}

const purposeText = ({ operation, count, root, what }: Purpose): string => {
  if (operation === "sum") return `${what} (sum, length ${grouped(count)})`;
  return operation === "copy" ? `${what} (copy from process ${root}, length ${grouped(count)})` : what;
};

const absent = (group: Group, ranks: readonly number[], purpose: Purpose, limitMs: number) =>
  new LowrankError("distributed/missing", `${named(group, ranks)} did not come to: ${purpose.what}`, {
    expected: `every process within ${duration(limitMs / 1000)}`,
    got: `${group.size - ranks.length} of ${group.size} came`,
    next: "See what it does on its machine: it may hang, be stopped, wait for a disk or be far slower than the rest.",
    exitCode: 1,
  });

const astray = (group: Group, ranks: readonly number[], theirs: Purpose, own: Purpose) =>
  new LowrankError("distributed/order", `${named(group, ranks)} did not come to the same call as process 0`, {
    expected: `${purposeText(own)}, as process 0`,
    got: `${purposeText(theirs)}, by process ${ranks[0]}`,
    next: "Run the same version of lowrank with the same command and the same data on every machine.",
    exitCode: 1,
  });
