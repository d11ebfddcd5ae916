// metrics.jsonl, the log of a run: one JSON object a line, appended as training goes; and a reader that expects anything in it.
import { z } from "zod";
import { pace } from "../clock.ts";
import { LowrankError } from "../errors.ts";
import { type Files, MAX_TEXT_BYTES } from "../files.ts";
import type { TrainEvent } from "./trainer.ts";

/** The log of a run, in its output folder. */
export const METRICS_NAME = "metrics.jsonl";

/** A line is written this long after it was logged at the latest, if another follows; and before every checkpoint. */
const FLUSH_SECONDS = 2;
const FLUSH_CHARS = 1 << 16;
/** Longer lines are skipped by the reader. */
const MAX_LINE_CHARS = 1 << 20;
/** Of a longer file only this much is read, from its beginning. */
const MAX_METRICS_BYTES = MAX_TEXT_BYTES;
const READ_BLOCK_BYTES = 1 << 20;

const time = z.string().max(40);
const step = z.int().nonnegative();
/** What JSON has no number for (an infinite perplexity) is null. */
const measured = z.number().nullable();
const examples = z.object({
  count: z.number(),
  tokens: z.number(),
  targets: z.number(),
  longest: z.number().optional(),
  truncated: z.number().optional(),
  dropped: z.number().optional(),
  images: z.number().optional(),
  /** How many; their names would make the line too long. */
  classes: z.number().optional(),
});

/** One schema for each kind of line. Fields that are not named here are dropped. */
const rows = {
  /** First line of every start and of every time the run goes on: what is trained, and by which options (as in run.json). */
  run: z.object({
    type: z.literal("run"),
    time,
    /** Version of the program. */
    lowrank: z.string().max(100).nullable(),
    /** What the program ran on, in words. */
    environment: z.record(z.string(), z.string()).optional(),
    options: z.record(z.string(), z.unknown()),
    prepared: z.object({
      modules: z.number().nullable(),
      trainable: z.number(),
      parameters: z.number(),
      train: examples,
      eval: examples.nullable(),
    }),
  }),
  /** Training begins behind step `step`: what was logged of later steps counts no more. */
  start: z.object({ type: z.literal("start"), time, step, steps: step }),
  step: z.object({
    type: z.literal("step"),
    time,
    step,
    loss: z.number(),
    learningRate: z.number(),
    gradNorm: z.number(),
    tokens: z.number(),
    tokensPerSecond: measured,
    /** Of another task than language modelling. */
    examples: z.number().optional(),
    seconds: z.number(),
    memoryBytes: measured,
  }),
  /** Beside the loss, the figures of the task. */
  eval: z.looseObject({ type: z.literal("eval"), time, step, loss: z.number() }),
  samples: z.object({
    type: z.literal("samples"),
    time,
    step,
    samples: z.array(z.object({ prompt: z.string(), expected: z.string().optional(), text: z.string() })),
  }),
  checkpoint: z.object({ type: z.literal("checkpoint"), time, step }),
  done: z.object({
    type: z.literal("done"),
    time,
    step,
    /** Interrupted: the run can go on. */
    stopped: z.boolean(),
    /** Ended before its last step because evaluations got no better. */
    early: z.boolean(),
    /** The step whose weights are the result. */
    result: step.nullable(),
    seconds: z.number(),
  }),
  /** The run ended on a failure. */
  error: z.object({ type: z.literal("error"), time, code: z.string(), message: z.string() }),
};
type Rows = typeof rows;
const [firstRow, ...otherRows] = Object.values(rows);
const anyRow = z.discriminatedUnion("type", [firstRow!, ...otherRows]);

export type MetricsRow = z.output<typeof anyRow>;
export type RowOf<T extends keyof Rows> = z.output<Rows[T]>;
/** What is logged of a step; of a step that was trained again the last row counts. */
type StepKind = "step" | "eval" | "samples" | "checkpoint";

/** Figures of an evaluation that are shown. */
export const MAX_FIGURES = 8;

/** The figures of the task in an evaluation, by name, beside its loss. */
export const figuresOf = ({
  type: _type,
  time: _time,
  step: _step,
  loss: _loss,
  ...others
}: Record<string, unknown>): Map<string, number> =>
  new Map(
    Object.entries(others)
      .filter((entry): entry is [string, number] => typeof entry[1] === "number")
      .slice(0, MAX_FIGURES),
  );

/** What a log says, each step once. */
export interface RunMetrics {
  /** The start of the run, and each time it went on. */
  runs: RowOf<"run">[];
  /** Where training last began, and the run's length. */
  start: RowOf<"start"> | null;
  /** In order of steps, like the three after it. */
  steps: RowOf<"step">[];
  evals: RowOf<"eval">[];
  samples: RowOf<"samples">[];
  checkpoints: RowOf<"checkpoint">[];
  /** How it ended; null if it is at work, or ended without a word. */
  end: RowOf<"done"> | RowOf<"error"> | null;
  /** Lines that say nothing: torn by a crash, or not from a run. */
  skipped: number;
  /** The file is longer than is read. */
  cut: boolean;
}

/**
 * Reads the log in `folder`; null if there is none. Lines that can't be read are counted and passed over; of a step that was
 * trained again after a crash the last row counts. Fails with `file/*` only.
 */
export async function readMetrics(files: Files, folder: string): Promise<RunMetrics | null> {
  const file = `${folder}/${METRICS_NAME}`;
  if (!(await files.exists(file))) return null;
  let runs: RowOf<"run">[] = [];
  let start: RowOf<"start"> | null = null;
  let end: RunMetrics["end"] = null;
  let skipped = 0;
  /** By kind and step. */
  const found = new Map<string, RowOf<StepKind>>();
  const take = (row: MetricsRow): void => {
    if (row.type === "run") runs.push(row);
    else if (row.type === "done" || row.type === "error") end = row;
    else if (row.type !== "start") found.set(`${row.type} ${row.step}`, row);
    else {
      [start, end] = [row, null];
      if (row.step === 0) runs = runs.slice(-1);
      for (const [key, { step }] of found) if (step > row.step) found.delete(key);
    }
  };
  for await (const line of lines(files, file)) {
    const row = line === null ? undefined : parseRow(line);
    if (row) take(row);
    else if (line !== "") skipped++;
  }
  const inOrder = <T extends StepKind>(type: T): RowOf<T>[] =>
    [...found.values()].filter((row): row is RowOf<T> => row.type === type).sort((a, b) => a.step - b.step);
  return {
    runs,
    start,
    steps: inOrder("step"),
    evals: inOrder("eval"),
    samples: inOrder("samples"),
    checkpoints: inOrder("checkpoint"),
    end,
    skipped,
    cut: (await files.size(file)) > MAX_METRICS_BYTES,
  };
}

function parseRow(line: string): MetricsRow | undefined {
  try {
    return anyRow.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}

/** The lines of a file, the last one too if it has no end; null for one that is too long. */
async function* lines(files: Files, file: string): AsyncGenerator<string | null, void, void> {
  const decoder = new TextDecoder();
  const size = Math.min(await files.size(file), MAX_METRICS_BYTES);
  let rest = "";
  let isTooLong = false;
  for (let offset = 0; offset < size; offset += READ_BLOCK_BYTES) {
    const block = await files.read(file, offset, Math.min(READ_BLOCK_BYTES, size - offset));
    const [first, ...others] = decoder.decode(block, { stream: true }).split("\n");
    rest += first;
    for (const next of others) {
      yield isTooLong || rest.length > MAX_LINE_CHARS ? null : rest;
      rest = next;
      isTooLong = false;
    }
    isTooLong ||= rest.length > MAX_LINE_CHARS;
    if (isTooLong) rest = "";
  }
  rest += decoder.decode();
  if (isTooLong || rest !== "") yield isTooLong ? null : rest;
}

/** What is logged, without the time. */
export type LoggedRow = { [T in MetricsRow["type"]]: Omit<z.input<Rows[T]>, "time"> }[MetricsRow["type"]];

export interface RunLog {
  add(row: LoggedRow): Promise<void>;
  /** Makes what was logged durable. */
  flush(): Promise<void>;
}

/** Opens the log in `folder`. What a crash left of a line is closed by a line break, so that it harms no other line. */
export async function openRunLog(files: Files, folder: string): Promise<RunLog> {
  const file = `${folder}/${METRICS_NAME}`;
  const size = (await files.exists(file)) ? await files.size(file) : 0;
  const torn = size > 0 && (await files.read(file, size - 1, 1))[0] !== 0x0a;
  let pending = torn ? "\n" : "";
  const isDue = pace(FLUSH_SECONDS);
  const flush = async (): Promise<void> => {
    if (pending === "") return;
    const bytes = new TextEncoder().encode(pending);
    pending = "";
    await files.append(file, bytes).catch((error) => {
      // A part of it may be there: the next row begins a line of its own.
      pending = `\n${pending}`;
      throw error;
    });
  };
  return {
    async add({ type, ...row }) {
      pending += `${JSON.stringify({ type, time: new Date().toISOString(), ...row })}\n`;
      if (pending.length > FLUSH_CHARS || isDue()) await flush();
    },
    flush,
  };
}

/** Passes events on and logs them. The log has its last row when the events end, or are not asked for any more. */
export async function* logEvents(log: RunLog, events: AsyncIterable<TrainEvent>): AsyncGenerator<TrainEvent, void, void> {
  try {
    for await (const event of events) {
      await log.add(loggedOf(event));
      yield event;
    }
  } catch (error) {
    const { code, message } = error instanceof LowrankError ? error : { code: "internal", message: String(error) };
    // On a full disk there is no room for this row either; what failed first is reported.
    await log.add({ type: "error", code, message }).catch(() => {});
    await log.flush().catch(() => {});
    throw error;
  }
  await log.flush();
}

/** The event without what only its receiver needs: folders of this machine, and what follows from other rows. */
function loggedOf(event: TrainEvent): LoggedRow {
  const { etaSeconds, folder, best, parameters, resumedFrom, ...row } = event as TrainEvent & Record<string, unknown>;
  return row as LoggedRow;
}
