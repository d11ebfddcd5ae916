// metrics.jsonl, the log of a run: one JSON object a line, appended as training goes; and a reader that expects anything in it.
import { z } from "zod";
import { pace } from "../clock.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { readInBlocks } from "../formats/side-files.ts";
import { bestOf, type Eval } from "./evals.ts";
import type { TrainEvent } from "./trainer.ts";

/** The log of a run, in its output folder. */
export const METRICS_NAME = "metrics.jsonl";

/** A line is written this long after it was logged at the latest, if another follows; and before every checkpoint. */
const FLUSH_SECONDS = 2;
const FLUSH_CHARS = 1 << 16;
/** Longer lines are skipped by the reader. */
const MAX_LINE_CHARS = 1 << 20;
/** Of a longer file this much is read: its beginning, its end, and pieces spread evenly between them. */
const MAX_METRICS_BYTES = 64 * 1024 * 1024;
/** Such pieces, the beginning and the end among them. */
const PIECES = 64;
/** Rows that are kept of each kind; of more, neighbours become one. */
const MAX_ROWS = { step: 20_000, eval: 20_000, samples: 100, checkpoint: 20_000, run: 100 };

const time = z.string().max(40);
const step = z.int().nonnegative();
/** What JSON has no number for (an infinite perplexity) is null. */
const measured = z.number().nullable();
/** The best evaluation so far; null if there was none. */
const best = z.object({ step, loss: z.number() }).nullable().optional();
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
  checkpoint: z.object({ type: z.literal("checkpoint"), time, step, best }),
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
    best,
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

/** Figures of an evaluation that are shown. */
export const MAX_FIGURES = 8;

const NO_FIGURES = new Set(["type", "time", "step", "loss"]);

/** The figures of the task in an evaluation, by name, beside its loss. */
export const figuresOf = (row: object): Map<string, number> =>
  new Map(
    Object.entries(row)
      .filter((entry): entry is [string, number] => typeof entry[1] === "number" && !NO_FIGURES.has(entry[0]))
      .slice(0, MAX_FIGURES),
  );

/** What a log says, each step once. */
export interface RunMetrics {
  /** The start of the run, and times it went on: the first, and the last ones. */
  runs: RowOf<"run">[];
  /** How often it went on. */
  resumes: number;
  /** Where training last began, and the run's length. */
  start: RowOf<"start"> | null;
  /**
   * In order of steps, like the three after it. Of a long run a row stands for those since the row before it: its `seconds`,
   * `tokens` and `examples` are theirs together, its memory the highest.
   */
  steps: RowOf<"step">[];
  evals: RowOf<"eval">[];
  samples: RowOf<"samples">[];
  checkpoints: RowOf<"checkpoint">[];
  /** The best of all evaluations, also of those that are not among `evals`. */
  bestEval: RowOf<"eval"> | Eval | null;
  /** How it ended; null if it is at work, or ended without a word. */
  end: RowOf<"done"> | RowOf<"error"> | null;
  /** Lines that say nothing: torn by a crash, or not from a run. */
  skipped: number;
  /** Size of the file, and how much of it was read. */
  bytes: { size: number; read: number };
}

/**
 * Rows in order of their steps; one of a step that is there takes its place and that of all later ones. When there are more than
 * `most`, neighbours become one, so that those that stay are spread evenly over the steps. The first and the last stay as they are.
 */
function inOrder<R extends { step: number }>(most: number, merge: (row: R, next: R) => R = (_, next) => next) {
  let rows: R[] = [];
  let stride = 1;
  const stretch = ({ step }: R): number => Math.ceil((step - rows[0]!.step) / stride);
  /** Puts a row behind the others, with which the last of them is merged if they share a stretch. */
  const append = (row: R): void => {
    const [before, last] = [rows.at(-2), rows.at(-1)];
    if (before && last && stretch(before) === stretch(last)) rows.splice(-2, 2, merge(before, last));
    rows.push(row);
  };
  const cut = (step: number): void => {
    while (rows.length > 0 && rows.at(-1)!.step > step) rows.pop();
    if (rows.length === 0) stride = 1;
  };
  return {
    add(row: R): void {
      cut(row.step - 1);
      append(row);
      while (rows.length > most) {
        stride *= 2;
        const all = rows;
        rows = [];
        for (const one of all) append(one);
      }
    },
    cut,
    last: () => rows.at(-1),
    rows: () => rows,
  };
}

const mergedSteps = (row: RowOf<"step">, next: RowOf<"step">): RowOf<"step"> => ({
  ...next,
  ...added(row, next),
  memoryBytes: row.memoryBytes === null ? next.memoryBytes : Math.max(row.memoryBytes, next.memoryBytes ?? 0),
});

/** What two rows spent together. */
const added = (a: RowOf<"step">, b: RowOf<"step">) => ({
  seconds: a.seconds + b.seconds,
  tokens: a.tokens + b.tokens,
  ...(b.examples !== undefined && { examples: (a.examples ?? 0) + b.examples }),
});

/** A step that stands for `count`, all like it. */
const repeated = (row: RowOf<"step">, count: number): RowOf<"step"> => ({
  ...row,
  seconds: row.seconds * count,
  tokens: row.tokens * count,
  ...(row.examples !== undefined && { examples: row.examples * count }),
});

/**
 * Reads the log in `folder`; null if there is none. Lines that can't be read are counted and passed over; of a step that was
 * trained again after a crash the last row counts. Of a file longer than `maxBytes` only pieces are read, its beginning and its end
 * among them, and what the steps between them took is estimated. Fails with `file/*` only.
 */
export async function readMetrics(files: Files, folder: string, maxBytes = MAX_METRICS_BYTES): Promise<RunMetrics | null> {
  const file = `${folder}/${METRICS_NAME}`;
  if (!(await files.exists(file))) return null;
  const runs: RowOf<"run">[] = [];
  let resumes = 0;
  let start: RowOf<"start"> | null = null;
  let end: RunMetrics["end"] = null;
  let skipped = 0;
  /** The best evaluation that a row named; those that are read count beside it. */
  let named: Eval | null = null;
  /** Whether a part of the file was left out before this line. */
  let isBehindGap = false;
  const steps = inOrder(MAX_ROWS.step, mergedSteps);
  const evals = inOrder<RowOf<"eval">>(MAX_ROWS.eval, (row, next) => (row.loss <= next.loss ? row : next));
  const samples = inOrder<RowOf<"samples">>(MAX_ROWS.samples);
  const checkpoints = inOrder<RowOf<"checkpoint">>(MAX_ROWS.checkpoint);
  const take = (row: MetricsRow): void => {
    if (row.type === "run") {
      resumes = runs.push(row) === 1 ? 0 : resumes + 1;
      if (runs.length > MAX_ROWS.run) runs.splice(1, 1);
    } else if (row.type === "start") {
      [start, end] = [row, null];
      if (row.step === 0) {
        resumes = 0;
        runs.splice(0, runs.length - 1);
      }
      for (const kind of [steps, evals, samples, checkpoints]) kind.cut(row.step);
      if (named && named.step > row.step) named = null;
    } else if (row.type === "error") end = row;
    else {
      end = row.type === "done" ? row : null;
      if (row.type === "step") {
        const missing = isBehindGap ? row.step - (steps.last()?.step ?? row.step) : 1;
        steps.add(missing > 1 ? repeated(row, missing) : row);
        isBehindGap = false;
      } else if (row.type === "eval") evals.add(row);
      else if (row.type === "samples") samples.add(row);
      else {
        if (row.type === "checkpoint") checkpoints.add(row);
        named = row.best ?? named;
      }
    }
  };
  const size = await files.size(file);
  let read = 0;
  for (const { from, to } of piecesOf(size, maxBytes)) {
    read += to - from;
    isBehindGap ||= from > 0;
    for await (const line of lines(files, file, from, to, size)) {
      const row = line === null ? undefined : parseRow(line);
      if (row) take(row);
      else if (line !== "") skipped++;
    }
  }
  const best = bestOf<Eval>([...(named ? [named] : []), ...evals.rows()]);
  return {
    runs,
    resumes,
    start,
    steps: steps.rows(),
    evals: evals.rows(),
    samples: samples.rows(),
    checkpoints: checkpoints.rows(),
    bestEval: evals.rows().find((row) => row.step === best?.step) ?? best,
    end,
    skipped,
    bytes: { size, read },
  };
}

/** The parts of a file that are read: all of it, or pieces of `most` bytes together, from its beginning to its end. */
function piecesOf(size: number, most: number): { from: number; to: number }[] {
  if (size <= most) return [{ from: 0, to: size }];
  const length = Math.floor(most / PIECES);
  return Array.from({ length: PIECES }, (_, i) => {
    const from = Math.round((i * (size - length)) / (PIECES - 1));
    return { from, to: from + length };
  });
}

function parseRow(line: string): MetricsRow | undefined {
  try {
    return anyRow.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}

/**
 * The lines of a part of a file, null for one that is too long. Lines that begin before it or end behind it are left out; the last
 * one of the file counts without an end too.
 */
async function* lines(
  files: Files,
  file: string,
  from: number,
  to: number,
  size: number,
): AsyncGenerator<string | null, void, void> {
  const decoder = new TextDecoder();
  let rest = "";
  let isTooLong = false;
  let isInside = from === 0;
  for await (const block of readInBlocks(files, file, from, to - from)) {
    const [first, ...others] = decoder.decode(block, { stream: true }).split("\n");
    rest += first;
    for (const next of others) {
      if (isInside) yield isTooLong || rest.length > MAX_LINE_CHARS ? null : rest;
      isInside = true;
      rest = next;
      isTooLong = false;
    }
    isTooLong ||= rest.length > MAX_LINE_CHARS;
    if (isTooLong) rest = "";
  }
  rest += decoder.decode();
  if (to === size && isInside && (isTooLong || rest !== "")) yield isTooLong ? null : rest;
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
  const { etaSeconds, folder, parameters, resumedFrom, ...row } = event as TrainEvent & Record<string, unknown>;
  return row as LoggedRow;
}
