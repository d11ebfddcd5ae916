// What a run came to, in words: the rows of a report's tables, each with one value a run.
import type { AdapterDescription } from "../adapters/describe.ts";
import { finetuneDefaults } from "../train/options.ts";
import { figuresOf, MAX_FIGURES, type RunMetrics } from "../train/run-log.ts";
import { bytes, duration, figureText, grouped } from "../units.ts";
import { curve, smoothed } from "./series.ts";

/** A run as it is reported. */
export interface ReportedRun {
  /** What the report calls it. */
  name: string;
  metrics: RunMetrics;
  /** What the run made, as far as it has come; null for full fine-tuning, or when there is no adapter to read. */
  adapter: AdapterDescription | null;
}

/** A row: its name, and the value of each run; undefined where a run does not have it. */
export interface Fact {
  name: string;
  values: (string | undefined)[];
  /** Of an option: the runs do not agree on it or, where there is only one, it is not the default. */
  marked?: boolean;
}

/** Options of a run that are listed, and facts about its machine. */
const MAX_OPTIONS = 200;
const MAX_ENVIRONMENT = 20;

type FactOf = (run: ReportedRun) => string | undefined;

const lastRun = ({ metrics }: ReportedRun) => metrics.runs.at(-1);
const lastStep = ({ metrics }: ReportedRun) => metrics.steps.at(-1);
const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

/** What speed is counted in: tokens, or the examples of another task than language modelling. */
export const countedIn = ({ metrics }: ReportedRun): "token" | "example" =>
  metrics.steps.some(({ examples }) => examples !== undefined) ? "example" : "token";

/** Of these, how many a step did in a second. */
export const rateOf = ({ examples, seconds, tokensPerSecond }: RunMetrics["steps"][number]): number | null =>
  examples === undefined ? tokensPerSecond : seconds > 0 ? examples / seconds : null;

/** How many all steps did. */
const countOf = ({ metrics }: ReportedRun): number => total(metrics.steps.map(({ tokens, examples }) => examples ?? tokens));

/** The names of the figures that evaluations have beside the loss. */
export const figureNames = (runs: readonly ReportedRun[]): string[] =>
  [...new Set(runs.flatMap(({ metrics }) => metrics.evals.flatMap((row) => [...figuresOf(row).keys()])))].slice(0, MAX_FIGURES);

const secondsOf = ({ metrics }: ReportedRun): number => total(metrics.steps.map(({ seconds }) => seconds));

const lossText = (value: number | undefined): string | undefined => value?.toFixed(4);

/** The figures of an evaluation, each behind a comma. */
export const figuresText = (row: object): string =>
  [...figuresOf(row)].map(([name, value]) => `, ${name} ${figureText(name, value)}`).join("");

/** The loss of an evaluation, its step, and the task's figures. */
const evalText = (row: RunMetrics["bestEval"] | undefined): string | undefined =>
  row ? `${lossText(row.loss)} at step ${grouped(row.step)}${figuresText(row)}` : undefined;

/** A rate, to three figures where it is small. */
export const rateText = (rate: number): string => (rate < 100 ? String(Number(rate.toPrecision(3))) : grouped(Math.round(rate)));

/** Whether the run is finished, and if not, where it stands. */
export function statusOf(run: ReportedRun): { text: string; kind: "good" | "open" | "bad" } {
  const { end, start } = run.metrics;
  const step = lastStep(run)?.step ?? start?.step ?? 0;
  const where = start ? `step ${grouped(step)} of ${grouped(start.steps)}` : `step ${grouped(step)}`;
  if (end?.type === "error") return { text: `failed at ${where}`, kind: "bad" };
  if (!end) return { text: `at work or cut off at ${where}`, kind: "open" };
  if (end.stopped) return { text: `stopped at ${where}`, kind: "open" };
  if (end.early) return { text: `finished at ${where}: evaluations got no better`, kind: "good" };
  return { text: `finished, ${grouped(step)} steps`, kind: "good" };
}

/** What matters most, for the top of the page. The training loss is the mean of the last steps, as the smoothed curve ends. */
const headlines: Record<string, FactOf> = {
  "training loss": ({ metrics }) => lossText(smoothed(curve(metrics.steps, ({ loss }) => loss)).y.at(-1)),
  "best evaluation loss": ({ metrics }) => evalText(metrics.bestEval),
  "trained for": (run) => duration(secondsOf(run)),
  speed: (run) => {
    const seconds = secondsOf(run);
    return seconds > 0 ? `${rateText(countOf(run) / seconds)} ${countedIn(run)}s/s` : undefined;
  },
  "highest memory": ({ metrics }) => {
    const highest = metrics.steps.reduce((most, { memoryBytes }) => Math.max(most, memoryBytes ?? 0), 0);
    return highest > 0 ? bytes(highest) : undefined;
  },
  "trained parameters": (run) => {
    const prepared = lastRun(run)?.prepared;
    if (!prepared) return undefined;
    const share = `${((100 * prepared.trainable) / prepared.parameters).toPrecision(2)} %`;
    return `${grouped(prepared.trainable)} (${share})`;
  },
};

const details: Record<string, FactOf> = {
  status: (run) => statusOf(run).text,
  failure: ({ metrics: { end } }) => (end?.type === "error" ? `${end.message} (${end.code})` : undefined),
  result: ({ metrics: { end } }) => {
    const isOfAnotherStep = end?.type === "done" && end.result !== null && end.result !== end.step;
    return isOfAnotherStep ? `the weights of step ${grouped(end.result!)}` : undefined;
  },
  started: ({ metrics }) => metrics.runs[0]?.time,
  "last step": (run) => lastStep(run)?.time,
  "went on": ({ metrics }) => (metrics.resumes > 0 ? `${metrics.resumes} times` : undefined),
  "last training loss": (run) => lossText(lastStep(run)?.loss),
  "last evaluation": ({ metrics }) => evalText(metrics.evals.at(-1)),
  "tokens trained on": (run) => (countedIn(run) === "token" ? grouped(countOf(run)) : undefined),
  "examples trained on": (run) => (countedIn(run) === "example" ? grouped(countOf(run)) : undefined),
  "adapted modules": (run) => lastRun(run)?.prepared.modules?.toString(),
  "parameters of the model": (run) => lastRun(run) && grouped(lastRun(run)!.prepared.parameters),
  "norm of the update": ({ adapter }) => adapter?.normDelta.toPrecision(4),
  checkpoints: ({ metrics }) => metrics.checkpoints.length.toString(),
  "unreadable log lines": ({ metrics }) => (metrics.skipped > 0 ? metrics.skipped.toString() : undefined),
  log: ({ metrics: { bytes: of } }) =>
    of.read < of.size ? `${bytes(of.size)}, of which ${bytes(of.read)} were read, spread evenly` : undefined,
  "version of lowrank": (run) => lastRun(run)?.lowrank ?? undefined,
};

type Examples = NonNullable<ReturnType<typeof lastRun>>["prepared"]["train"];

function dataText(data: Examples | null | undefined): string | undefined {
  if (!data) return undefined;
  const { count, tokens, targets, longest, truncated, dropped, images, classes } = data;
  const isLanguage = images === undefined && classes === undefined;
  return [
    `${grouped(count)} examples`,
    tokens > 0 && `${grouped(tokens)} tokens`,
    tokens > 0 && isLanguage && `${grouped(targets)} of them targets`,
    images !== undefined && `${grouped(images)} images`,
    classes !== undefined && `${grouped(classes)} classes`,
    longest && `longest ${grouped(longest)}`,
    truncated && `${grouped(truncated)} truncated to the maximum length`,
    dropped && `${grouped(dropped)} without a target left out`,
  ]
    .filter(Boolean)
    .join(", ");
}

const data: Record<string, FactOf> = {
  "training data": (run) => optionText(lastRun(run)?.options, "data"),
  "trained on": (run) => dataText(lastRun(run)?.prepared.train),
  "evaluation data": (run) => optionText(lastRun(run)?.options, "evalData"),
  "evaluated on": (run) => dataText(lastRun(run)?.prepared.eval),
};

const table = (rows: Readonly<Record<string, FactOf>>, runs: readonly ReportedRun[]): Fact[] =>
  Object.entries(rows)
    .map(([name, of]) => ({ name, values: runs.map(of) }))
    .filter(({ values }) => values.some((value) => value !== undefined));

export const headlineFacts = (runs: readonly ReportedRun[]): Fact[] => table(headlines, runs);
export const detailFacts = (runs: readonly ReportedRun[]): Fact[] => [...table(details, runs), ...environmentFacts(runs)];
export const dataFacts = (runs: readonly ReportedRun[]): Fact[] => table(data, runs);

/** What the runs ran on, by the names that their logs give it. */
function environmentFacts(runs: readonly ReportedRun[]): Fact[] {
  const found = runs.map((run) => new Map(Object.entries(lastRun(run)?.environment ?? {})));
  const names = [...new Set(found.flatMap((one) => [...one.keys()]))].slice(0, MAX_ENVIRONMENT);
  return names.map((name) => ({ name, values: found.map((one) => one.get(name)) }));
}

/** An option's value as it would be written in a config file, without the quotes around a text; undefined if it is not set. */
export function optionText(options: Readonly<Record<string, unknown>> | undefined, name: string): string | undefined {
  const value = options && Object.hasOwn(options, name) ? options[name] : undefined;
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The options of the runs, the marked ones first; without those that have no value by default and were given none. */
export function optionFacts(runs: readonly ReportedRun[]): Fact[] {
  const options = runs.map((run) => lastRun(run)?.options ?? {});
  const names = [...new Set(options.flatMap((of) => Object.keys(of)))].slice(0, MAX_OPTIONS);
  const isUnset = (name: string) =>
    optionText(finetuneDefaults, name) === "null" && options.every((of) => (of[name] ?? null) === null);
  const facts = names
    .filter((name) => !isUnset(name))
    .map((name) => {
      const values = options.map((of) => optionText(of, name));
      const differs = values.some((value) => value !== values[0]);
      return { name, values, marked: runs.length > 1 ? differs : values[0] !== optionText(finetuneDefaults, name) };
    });
  return [...facts.filter(({ marked }) => marked), ...facts.filter(({ marked }) => !marked)];
}
