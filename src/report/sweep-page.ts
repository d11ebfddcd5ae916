// The page about a sweep: what won and why, losses by learning rate, by steps and by time, and what went on at each rung.
import type { ChartLibrary } from "../platform/platform.ts";
import { lossTable, type Outcome, outcomeOf, spentText } from "../sweep/outcome.ts";
import { cellsOf, hasFailed, lossAt, meanAt, type Rung, type SweepRecord, trialName } from "../sweep/record.ts";
import { placeText, settingsText } from "../sweep/space.ts";
import { duration, grouped } from "../units.ts";
import { type Chart, type ChartSeries, curveText, forScript } from "./charts.ts";
import { escapeHtml } from "./escape.ts";
import { chartSection, htmlPage, MAX_CELL_CHARS, section, tiles } from "./page.ts";

/** Curves of one chart. */
const MAX_CURVES = 40;

/** The page; `name` is what the sweep is called, `made` says when and with what the page was made. */
export function sweepPage(name: string, kept: SweepRecord, library: ChartLibrary, made: string): Promise<string> {
  const charts = sweepCharts(kept);
  const outcome = kept.trials.some(({ losses }) => losses.length > 0) ? outcomeOf(kept) : null;
  const content = [
    header(name, kept, outcome),
    outcome ? section("Why", `<ul>${outcome.why.map((sentence) => `<li>${cell(sentence)}</li>`).join("\n")}</ul>`) : "",
    kept.command === null ? "" : section("To train it", `<pre class="card">${escapeHtml(kept.command)}</pre>`),
    chartSection(charts),
    section("Losses at the end", lossesHtml(kept)),
    section(
      "Halving",
      phasesOf(kept)
        .map((phase) => halvingHtml(kept, phase))
        .join("\n"),
    ),
    section("Trials", trialsHtml(kept)),
    section("Options", optionsHtml(kept)),
  ];
  return htmlPage({ title: name, content, charts }, library, made);
}

const cell = (text: string): string => escapeHtml(text, MAX_CELL_CHARS);

const states = {
  finished: { text: "finished", kind: "good" },
  budget: { text: "the time is over", kind: "open" },
  none: { text: "at work, or interrupted", kind: "open" },
} as const;

function header(name: string, kept: SweepRecord, outcome: Outcome | null): string {
  const { text, kind } = states[kept.ended ?? "none"];
  const { base } = kept.options;
  const lead = `<span class="status ${kind}">${text}</span>${typeof base === "string" ? ` · ${cell(base)}` : ""}`;
  const facts: [string, string][] = outcome
    ? [
        ["lowest loss", `${outcome.winner.loss.toFixed(4)} at step ${grouped(outcome.winner.step)}`],
        ["settings", placeText(outcome.winner.settings)],
        ["learning rate", String(outcome.winner.settings.learningRate)],
        ["its folder", outcome.winner.folder],
        ["spent", spentText(kept)],
      ]
    : [["spent", duration(kept.seconds)]];
  return `<header><h1>${cell(name)}</h1>\n<p class="lead">${lead}</p></header>\n${tiles(facts)}`;
}

function sweepCharts(kept: SweepRecord): Chart[] {
  const charts: Omit<Chart, "text">[] = [
    { id: "loss", title: "Evaluation loss by learning rate (mean over seeds)", unit: "plain", x: "rate", series: byRate(kept) },
    { id: "steps", title: "Evaluation loss by steps", unit: "plain", series: byProgress(kept, ({ step }) => step) },
    {
      id: "seconds",
      title: "Evaluation loss by time in steps",
      unit: "plain",
      x: "seconds",
      series: byProgress(kept, ({ seconds }) => seconds),
    },
  ];
  return charts.flatMap(({ series, ...chart }) => {
    const drawn = series.filter(({ x }) => x.length > 0).slice(0, MAX_CURVES);
    if (drawn.length === 0) return [];
    const text = chart.id === "steps" ? drawn.map((one) => curveText(one, chart.unit)).join("; ") : "";
    return [{ ...chart, text, series: drawn.map(forScript) }];
  });
}

/** A curve for each place at each rung: of those with one learning rate, at their last. */
function byRate(kept: SweepRecord): ChartSeries[] {
  const cells = cellsOf(kept);
  const rungs = kept.plan?.rungs ?? [];
  return [...new Set(cells.map(({ settings }) => placeText(settings)))].flatMap((place, run) => {
    const own = cells
      .filter(({ settings }) => placeText(settings) === place)
      .sort((a, b) => a.settings.learningRate - b.settings.learningRate);
    const curves = rungs.map((step): ChartSeries => {
      const points = own.flatMap((one) => {
        const loss = hasFailed(kept, one) ? undefined : meanAt(kept, one, step);
        return loss === undefined ? [] : [[one.settings.learningRate, loss] as const];
      });
      const [x, y] = [points.map(([rate]) => rate), points.map(([, loss]) => loss)];
      return { label: `${place}, step ${step}`, run, style: "dotted", x, y };
    });
    const several = curves.filter(({ x }) => x.length > 1);
    return several.length > 0 ? several : curves.filter(({ x }) => x.length > 0).slice(-1);
  });
}

const byProgress = (kept: SweepRecord, of: (loss: { step: number; seconds: number }) => number): ChartSeries[] =>
  kept.trials.map(({ settings, seed, losses }, run) => ({
    label: `${trialName(run)}: ${settingsText(settings)}, seed ${seed}`,
    run,
    style: "dotted",
    x: losses.map(of),
    y: losses.map(({ loss }) => loss),
  }));

const phasesOf = (kept: SweepRecord): string[] => [...new Set(kept.rungs.map(({ phase }) => phase))];

/** A row for each setting of a phase, a column for each rung; what went on has a loss in the next column. */
function halvingHtml(kept: SweepRecord, phase: string): string {
  const rungs = kept.rungs.filter((rung) => rung.phase === phase && rung.trials.length > 0);
  if (rungs.length === 0) return "";
  const lossIn = (rung: Rung, trials: readonly number[]): number | undefined =>
    trials.every((index) => rung.trials.includes(index))
      ? meanAt(kept, { settings: settingsIn(trials), trials: [...trials] }, rung.step)
      : undefined;
  const settingsIn = (trials: readonly number[]) => kept.trials[trials[0]!]!.settings;
  const rows = cellsOf(kept, rungs[0]!.trials).map((one) => ({ one, losses: rungs.map((rung) => lossIn(rung, one.trials)) }));
  const order = (losses: readonly (number | undefined)[]) => losses.filter((loss) => loss !== undefined).length;
  rows.sort((a, b) => order(b.losses) - order(a.losses) || (lastOf(a.losses) ?? 0) - (lastOf(b.losses) ?? 0));
  const lines = rows.map(({ one, losses }) => [
    settingsText(one.settings),
    ...losses.map((loss) => lossText(loss, hasFailed(kept, one))),
  ]);
  return `<h3>${cell(phase)}</h3>${tableHtml(["settings", ...rungs.map(({ step }) => `step ${step}`)], lines)}`;
}

const lastOf = (losses: readonly (number | undefined)[]) => losses.filter((loss) => loss !== undefined).at(-1);
const lossText = (loss: number | null | undefined, failed = false): string => loss?.toFixed(4) ?? (failed ? "diverged" : "–");

function lossesHtml(kept: SweepRecord): string {
  const { rates, rows } = lossTable(kept);
  if (rows.length === 0) return "";
  return tableHtml(
    ["settings", ...rates.map(String)],
    rows.map(({ place, losses }) => [place, ...losses.map((loss) => lossText(loss))]),
  );
}

function trialsHtml(kept: SweepRecord): string {
  const rungs = kept.plan?.rungs ?? [];
  const head = [
    "folder",
    "settings",
    "seed",
    "trained parameters",
    "s/step",
    ...rungs.map((step) => `loss at ${step}`),
    "failure",
  ];
  const rows = kept.trials.map((trial, index) => [
    ...[trialName(index), settingsText(trial.settings), String(trial.seed)],
    ...[trial.trainable === null ? "–" : grouped(trial.trainable), trial.stepSeconds?.toPrecision(3) ?? "–"],
    ...[...rungs.map((step) => lossText(lossAt(trial, step))), trial.failure ?? ""],
  ]);
  return rows.length === 0 ? "" : tableHtml(head, rows);
}

const optionsHtml = ({ options }: SweepRecord): string =>
  tableHtml(
    ["option", "value"],
    Object.entries(options).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
  );

function tableHtml(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((text) => `<${tag}>${cell(text)}</${tag}>`).join("")}</tr>`;
  return `<div class="card wide"><table><thead>${line(head, "th")}</thead>\n<tbody>${rows.map((row) => line(row, "td")).join("\n")}</tbody></table></div>`;
}
