// The runs below some folders: what each trains, how far it is, how it ended; and what two or more of them differ in.
import type { Files } from "../../files.ts";
import { readJsonObject } from "../../formats/json.ts";
import { type Fact, optionText } from "../../report/facts.ts";
import { RUN_NAME, RUN_VERSION } from "../../train/run-file.ts";
import { figuresOf, type RunMetrics, readMetrics } from "../../train/run-log.ts";

/** How deep runs are looked for below a folder that was given. */
const MAX_DEPTH = 4;
/** A search ends at this many names. */
const MAX_NAMES = 50_000;
/** What is read of a run's log. Of a longer one the time and the speed are estimates. */
const MAX_LOG_BYTES = 8 * 1024 * 1024;
/** Folders that hold no runs: other people's code, what belongs to a run, what is hidden. */
const PASSED_OVER = /^(\..*|node_modules|checkpoint-\d+)$/;

/**
 * `running`: a process trains into the folder now. `finished`: it has its result. `stopped`: it was interrupted, and saved.
 * `failed`: it ended on an error. `crashed`: it was killed, or the machine stopped. All but the first two can be resumed.
 */
export type RunState = "running" | "finished" | "stopped" | "failed" | "crashed";

export interface Run {
  folder: string;
  state: RunState;
  /** Why it failed. */
  error: string | null;
  /** It finished before its last step, because evaluations got no better. */
  early: boolean;
  /** As in run.json. */
  options: Record<string, unknown>;
  /** Steps done, and those of the whole run; null if the log doesn't say. */
  step: number | null;
  steps: number | null;
  /** Loss of the last step. */
  loss: number | null;
  bestEval: { step: number; loss: number } | null;
  /** Of a classifier, at the best evaluation. */
  accuracy: number | null;
  /** Time spent in steps. */
  seconds: number;
  tokensPerSecond: number | null;
  /** Of another task than language modelling, whose tokens say little; null otherwise. */
  examplesPerSecond: number | null;
  /** When it was started, and when something was last logged. ISO 8601. */
  started: string | null;
  updated: string | null;
  trainable: number | null;
}

/** Whether a process trains into a folder. */
type IsLocked = (folder: string) => Promise<boolean>;

/**
 * The runs in `folders` and below them, in order of their paths. Links are followed at the top only. `complete` is false if
 * there was too much to look through.
 */
export async function findRuns(
  files: Files,
  folders: readonly string[],
  isLocked: IsLocked = async () => false,
): Promise<{ runs: Run[]; complete: boolean }> {
  const runs = new Map<string, Run>();
  let names = 0;
  const visit = async (folder: string, real: string, depth: number): Promise<void> => {
    const options = await readRunOptions(files, folder);
    if (options) {
      runs.set(real, await readRun(files, folder, options, isLocked));
      return;
    }
    if (depth === MAX_DEPTH) return;
    for (const name of await files.list(folder)) {
      if (++names > MAX_NAMES) return;
      if (PASSED_OVER.test(name)) continue;
      const inner = folder === "." ? name : `${folder.replace(/\/$/, "")}/${name}`;
      const realInner = `${real.replace(/\/$/, "")}/${name}`;
      try {
        if ((await files.realPath(inner)) === realInner) await visit(inner, realInner, depth + 1);
      } catch {
        // A file, or a folder that may not be read.
      }
    }
  };
  for (const folder of folders) await visit(folder, await files.realPath(folder), 0);
  const found = [...runs.values()].sort((a, b) => (a.folder < b.folder ? -1 : 1));
  return { runs: found, complete: names <= MAX_NAMES };
}

/** The options in run.json; undefined if the folder has none that can be read. */
async function readRunOptions(files: Files, folder: string): Promise<Record<string, unknown> | undefined> {
  const file = `${folder}/${RUN_NAME}`;
  if (!(await files.exists(file))) return undefined;
  try {
    const { version, options } = await readJsonObject(files, file);
    const isRun = version === RUN_VERSION && typeof options === "object" && options !== null && !Array.isArray(options);
    return isRun ? (options as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

async function readRun(files: Files, folder: string, options: Record<string, unknown>, isLocked: IsLocked): Promise<Run> {
  const metrics = await readMetrics(files, folder, MAX_LOG_BYTES);
  const steps = metrics?.steps ?? [];
  const seconds = steps.reduce((sum, row) => sum + row.seconds, 0);
  const tokens = steps.reduce((sum, row) => sum + row.tokens, 0);
  const examples = steps.reduce((sum, row) => sum + (row.examples ?? 0), 0);
  const best = metrics?.bestEval ?? null;
  const end = metrics?.end ?? null;
  const last = [metrics?.start, steps.at(-1), metrics?.evals.at(-1), metrics?.checkpoints.at(-1), end];
  const times = last.flatMap((row) => row?.time ?? []).sort();
  return {
    folder,
    state: (await isLocked(folder)) ? "running" : stateOf(metrics),
    error: end?.type === "error" ? `${end.code}: ${end.message}` : null,
    early: end?.type === "done" && end.early,
    options,
    step: steps.at(-1)?.step ?? metrics?.start?.step ?? null,
    steps: metrics?.start?.steps ?? null,
    loss: steps.at(-1)?.loss ?? null,
    bestEval: best && { step: best.step, loss: best.loss },
    accuracy: (best && figuresOf(best).get("accuracy")) ?? null,
    seconds,
    tokensPerSecond: seconds > 0 ? tokens / seconds : null,
    examplesPerSecond: seconds > 0 && examples > 0 ? examples / seconds : null,
    started: metrics?.runs[0]?.time ?? null,
    updated: times.at(-1) ?? null,
    trainable: metrics?.runs.at(-1)?.prepared.trainable ?? null,
  };
}

function stateOf(metrics: RunMetrics | null): RunState {
  const end = metrics?.end;
  if (!end) return "crashed";
  if (end.type === "error") return "failed";
  return end.stopped ? "stopped" : "finished";
}

/** The options that are not the same in all of `runs`, with their value in each. */
export function differences(runs: readonly Run[]): Fact[] {
  const names = [...new Set(runs.flatMap(({ options }) => Object.keys(options)))].sort();
  return names.flatMap((name) => {
    const values = runs.map(({ options }) => optionText(options, name));
    return new Set(values).size > 1 ? [{ name, values }] : [];
  });
}
