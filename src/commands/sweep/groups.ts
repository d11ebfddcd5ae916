// The processes of a sweep, in groups: each group trains a trial at a time. Process 0 says which, and alone keeps the sweep's record;
// all meet behind each round of trials, as many as there are groups.
import type { Communicator } from "../../distributed/communicator.ts";
import { gathered, tell } from "../../distributed/exchange.ts";
import { LowrankError, withNext } from "../../errors.ts";
import type { Files } from "../../files.ts";
import type { Platform } from "../../platform/platform.ts";
import type { Measured } from "../../sweep/plan.ts";
import { outputFiles } from "../../train/output-files.ts";
import { type Leg, type LegResult, type LegStep, MEASURING, measure, runLeg, type Train, type TrialOptions } from "./trial.ts";

export interface Groups {
  /** All processes. Between rounds they wait for each other as long as trials take. */
  all: Communicator;
  /** Those that train a trial together with this one. */
  own: Communicator;
  /** Which group that is, and how many there are. */
  index: number;
  count: number;
  train: Train;
}

/** What is trained at the same time, a leg of a trial in each group, and the seconds that the sweep has left; null without a limit. */
export interface Round {
  /** The sweep's folder. */
  output: string;
  legs: Leg[];
  left: number | null;
}

/** What process 0 writes into the folder of a sweep, for the others to see. */
const SHARED = ".shared";
/** Milliseconds within which another machine sees a new file, and those between two looks. */
const SEEN_MS = 5000;
const LOOK_MS = 250;

/** The groups, of as many processes as process 0 wants. Throws `sweep/groups` if the processes do not divide into such. */
export async function groupsOf(team: Communicator, wanted: number | null, train: Train): Promise<Groups> {
  const size = await tell(team, 0, "processes of a group", () => wanted!);
  if (team.size % size !== 0) {
    throw new LowrankError("sweep/groups", "the processes do not divide into groups of this size", {
      subject: "groupSize",
      expected:
        team.size === 1 ? "1, since a single process runs the sweep" : `a divisor of ${team.size}, the number of processes`,
      got: String(size),
      next: "Give another --group-size, or start another number of processes (mpirun -n).",
    });
  }
  const index = Math.floor(team.rank / size);
  const [all, own] = [await team.split(0, Number.POSITIVE_INFINITY), await team.split(index)];
  return { all, own, index, count: team.size / size, train };
}

/**
 * The folder of the sweep, which process 0 names and has made, in every process. Throws `sweep/shared` where one that writes there, the
 * first of a group, does not see what process 0 wrote.
 */
export async function sharedFolder({ all, own, count }: Groups, files: Files, output: string | null): Promise<string> {
  const token = crypto.randomUUID();
  const shared = await tell(all, 0, "the sweep's folder", async () => {
    if (count > 1) await files.write(`${output}/${SHARED}`, new TextEncoder().encode(token));
    return { folder: output!, token };
  });
  if (count === 1) return shared.folder;
  const file = `${shared.folder}/${SHARED}`;
  const isMissing = own.rank === 0 && !(await sees(files, file, shared.token));
  const missing = await gathered(all, Number(isMissing), "a file in the sweep's folder");
  if (all.rank === 0) await files.remove(file);
  const blind = [...missing.keys()].filter((rank) => missing[rank] === 1);
  if (blind.length === 0) return shared.folder;
  throw new LowrankError("sweep/shared", "the sweep's folder is not the same for all processes", {
    subject: shared.folder,
    expected: "a folder on a file system that all machines share",
    got: `a file of process 0 that process ${blind.slice(0, 8).join(", ")} does not see`,
    next: "Give an --output that is the same folder on every machine, such as one on NFS.",
    exitCode: 1,
  });
}

async function sees(files: Files, file: string, token: string): Promise<boolean> {
  const expected = new TextEncoder().encode(token);
  for (let waited = 0; ; waited += LOOK_MS) {
    const found = await files.read(file, 0, expected.length).catch(() => null);
    if (found?.every((byte, i) => byte === expected[i])) return true;
    if (waited >= SEEN_MS) return false;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/**
 * The times of a trial with these options, measured in the sweep's folder by all groups at once, as trials are trained: of each the
 * longest. null if the sweep is stopped, or if process 0 has them and wants none.
 */
export async function measureTogether(
  { all, own, index, train }: Groups,
  host: Platform,
  folder: string,
  wanted: TrialOptions | null,
  signal: AbortSignal | undefined,
): Promise<Measured | null> {
  const options = await tell(all, 0, "a run that is measured", () => wanted);
  if (!options) return null;
  const found = await measure(train, { ...host, team: own }, options, `${folder}/${MEASURING}-${index}`, signal);
  if ((await gathered(all, Number(found === null), "signals")).includes(1)) return null;
  const longest = async (name: keyof Measured) => Math.max(...(await gathered(all, found![name], `time: ${name}`)));
  return {
    open: await longest("open"),
    step: await longest("step"),
    evaluation: await longest("evaluation"),
    steps: await longest("steps"),
  };
}

/** A step of this process's group, and at the end what each leg came to. */
export type RoundEvent = LegStep | { type: "round"; results: LegResult[] };

/** Trains what process 0 gives. Where it gives nothing the sweep is at its end: then there are no events. */
export async function* runRound(
  { all, own, index, train }: Groups,
  host: Platform,
  given: Round | null,
  signal: AbortSignal | undefined,
): AsyncGenerator<RoundEvent, void, void> {
  const round = await tell(all, 0, "what is trained next", () => given);
  if (!round) return;
  const leg = round.legs[index];
  let result: LegResult | null = null;
  try {
    if (leg) result = yield* runLeg(train, { ...host, team: own }, leg, round.left, signal);
  } catch (error) {
    // One of several processes fails, and all end.
    if (all.size === 1 || !(error instanceof LowrankError)) throw error;
    throw withNext(error, `Resume with: npx lowrank sweep --resume --output ${round.output}`);
  }
  const results: LegResult[] = [];
  for (const [i, { folder }] of round.legs.entries())
    results.push(await tell(all, i * own.size, `what came of ${folder}`, () => result!));
  yield { type: "round", results };
}

/** What every process but process 0 does: it trains what process 0 says, and reports nothing. */
export async function follow(team: Communicator, host: Platform, train: Train, signal: AbortSignal | undefined): Promise<void> {
  const groups = await groupsOf(team, null, train);
  const folder = await sharedFolder(groups, host.files, null);
  // Only the first of a group writes, and needs to see the folder.
  const platform = groups.own.rank === 0 ? { ...host, files: await outputFiles(host.files, folder) } : host;
  await measureTogether(groups, platform, folder, null, signal);
  for (let isOver = false; !isOver; ) {
    isOver = true;
    for await (const { type } of runRound(groups, platform, null, signal)) isOver = type !== "round";
  }
}
