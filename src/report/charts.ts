// What is drawn: for each chart its curves, as the JSON that the page's script reads, and a line of text that says the same.
import { figuresOf, type RunMetrics } from "../train/run-log.ts";
import { bytes } from "../units.ts";
import { visible } from "./escape.ts";
import { countedIn, figureNames, type ReportedRun, rateOf } from "./facts.ts";
import { type Curve, curve, rounded, smoothed, smoothSteps, spacing, thinned } from "./series.ts";

/** Longest label in a legend. */
const MAX_LABEL_CHARS = 120;

/** How numbers on the y axis are written. */
export type Unit = "plain" | "small" | "whole" | "bytes";

export interface ChartSeries extends Curve {
  label: string;
  /** Which of the runs it belongs to: decides the colour. */
  run: number;
  style: "faint" | "line" | "dotted";
}

export interface Chart {
  id: string;
  title: string;
  unit: Unit;
  /** What the x axis counts, where it is not steps; learning rates are on a logarithmic one. */
  x?: "rate" | "seconds";
  series: ChartSeries[];
  /** First, last, lowest and highest value of the main curve, for those who see no chart; empty with several runs. */
  text: string;
}

type Steps = RunMetrics["steps"][number];

interface ChartOf extends Omit<Chart, "series" | "text"> {
  of: (row: Steps) => number | null;
  /** It jumps from step to step: shown smoothed, over the steps themselves where there is one run. */
  smooth?: boolean;
}

/** What is measured at each step; speed in what the runs are counted in. */
const perStep = (runs: readonly ReportedRun[]): ChartOf[] => {
  const speed = oneUnit(runs, { token: "Tokens per second", example: "Examples per second" });
  return [
    { id: "rate", title: "Learning rate", unit: "small", of: ({ learningRate }) => learningRate },
    { id: "gradient", title: "Gradient norm, before clipping", unit: "plain", of: ({ gradNorm }) => gradNorm, smooth: true },
    {
      id: "speed",
      title: speed || "Tokens or examples per second",
      unit: runs.every((run) => countedIn(run) === "token") ? "whole" : "plain",
      of: rateOf,
      smooth: true,
    },
    { id: "memory", title: "Resident memory", unit: "bytes", of: ({ memoryBytes }) => memoryBytes },
  ];
};

/** The charts that have anything to show. */
export function chartsOf(runs: readonly ReportedRun[]): Chart[] {
  const several = runs.length > 1;
  const curves = (run: number, { of, smooth }: Pick<ChartOf, "of" | "smooth">, what: string): ChartSeries[] => {
    const name = runs[run]!.name;
    const every = curve(runs[run]!.metrics.steps, of);
    if (!smooth) return [{ label: several ? name : what || "each step", run, style: "line", ...every }];
    const label = `${what ? `${what}, ` : ""}mean of about ${Math.round(smoothSteps(every.x.length) * spacing(every))} steps`;
    return [
      ...(several ? [] : [{ label: "each step", run, style: "faint" as const, ...every }]),
      { label: several ? `${name}: ${label}` : label, run, style: "line", ...smoothed(every) },
    ];
  };
  const loss = runs.flatMap(({ name, metrics }, run): ChartSeries[] => [
    ...curves(run, { of: (row) => row.loss, smooth: true }, "training"),
    { label: several ? `${name}: evaluation` : "evaluation", run, style: "dotted", ...curve(metrics.evals, (row) => row.loss) },
  ]);
  // A perplexity is a function of the loss.
  const figures = figureNames(runs).filter((figure) => figure !== "perplexity");
  const evaluated = (figure: string, run: number): ChartSeries => {
    const points = curve(runs[run]!.metrics.evals, (row) => figuresOf(row).get(figure) ?? null);
    return { label: several ? runs[run]!.name : "evaluation", run, style: "dotted", ...points };
  };
  const charts: Omit<Chart, "text">[] = [
    {
      id: "loss",
      title: `Loss (nats${oneUnit(runs, { token: " a token", example: " an example" })})`,
      unit: "plain",
      series: loss,
    },
    ...figures.map((figure, i) => {
      const title = `${figure.charAt(0).toUpperCase()}${figure.slice(1)}`;
      return { id: `figure-${i}`, title, unit: "plain" as const, series: runs.map((_, run) => evaluated(figure, run)) };
    }),
    ...perStep(runs).map(({ id, title, unit, ...how }) => {
      return { id, title, unit, series: runs.flatMap((_, run) => curves(run, how, "")) };
    }),
  ];
  return charts.flatMap(({ series, ...chart }) => {
    const drawn = series.filter(({ x }) => x.length > 0);
    const described = several ? [] : drawn.filter(({ style }) => style !== "faint");
    const text = described.map((one) => curveText(one, chart.unit)).join("; ");
    return drawn.length === 0 ? [] : [{ ...chart, text, series: drawn.map(forScript) }];
  });
}

/** The word for what all runs are counted in; nothing where they differ. */
function oneUnit(runs: readonly ReportedRun[], words: Record<"token" | "example", string>): string {
  const [first, ...others] = new Set(runs.map(countedIn));
  return first === undefined || others.length > 0 ? "" : words[first];
}

/** A number as the text under a chart has it. */
export function unitText(value: number, unit: Unit): string {
  if (unit === "bytes") return bytes(value);
  if (unit === "whole") return Math.round(value).toLocaleString("en-US");
  return unit === "small" && value !== 0 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

export function curveText({ label, x, y }: ChartSeries, unit: Unit): string {
  const [low, high] = y.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [y[0]!, y[0]!]);
  const text = (value: number) => unitText(value, unit);
  if (x.length === 1) return `${label}: ${text(y[0]!)} at step ${x[0]}`;
  const ends = `${text(y[0]!)} at step ${x[0]}, ${text(y.at(-1)!)} at step ${x.at(-1)}`;
  return `${label}: ${ends}, lowest ${text(low!)}, highest ${text(high!)}`;
}

export function forScript(series: ChartSeries): ChartSeries {
  const { x, y } = thinned(series);
  return { ...series, label: visible(series.label.slice(0, MAX_LABEL_CHARS)), x, y: y.map(rounded) };
}
