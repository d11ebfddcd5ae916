// The report as one HTML page that needs no network: numbers and tables as they are, charts by uPlot, which is in the page.
import type { Files } from "../files.ts";
import type { ChartLibrary } from "../platform/platform.ts";
import { figuresOf, type RunMetrics } from "../train/run-log.ts";
import { bytes, grouped } from "../units.ts";
import { type Chart, chartsOf, unitText } from "./charts.ts";
import { escapeHtml, scriptJson } from "./escape.ts";
import {
  countedIn,
  dataFacts,
  detailFacts,
  type Fact,
  figureNames,
  headlineFacts,
  optionFacts,
  type ReportedRun,
  rateOf,
  rateText,
  statusOf,
} from "./facts.ts";
import { heatMaps } from "./heat-map.ts";
import { pageScript } from "./script.ts";
import { curve, smoothed, spacing } from "./series.ts";
import { pageStyle } from "./style.ts";

/** Longest text in a cell. */
export const MAX_CELL_CHARS = 600;
const MAX_NAME_CHARS = 200;
/** Rows of the tables of numbers. */
const MAX_NUMBER_ROWS = 50;
/** Prompts of the samples, their steps, and characters of their texts. */
const MAX_PROMPTS = 8;
const MAX_STEPS = 10;
const MAX_TEXT_CHARS = 1500;

/** As far as a page is looked at to recognize it. */
const HEAD_BYTES = 4096;

/** Whether a file is there and begins as `reportPage` writes it. */
export async function isReport(files: Files, file: string): Promise<boolean> {
  if (!(await files.exists(file)) || (await files.isFolder(file))) return false;
  const head = await files.read(file, 0, Math.min(HEAD_BYTES, await files.size(file)));
  return /^<!doctype html>[\s\S]* · lowrank<\/title>/.test(new TextDecoder().decode(head));
}

/** The page for one run, or for several side by side. `made` says when and with what it was made. */
export function reportPage(runs: readonly ReportedRun[], library: ChartLibrary, made: string): Promise<string> {
  const title = runs.length === 1 ? runs[0]!.name : `${runs.length} runs compared`;
  const charts = chartsOf(runs);
  const samples = perRun(runs, ({ metrics }) => samplesHtml(metrics));
  const updates = perRun(runs, ({ adapter }) => (adapter ? heatMaps(adapter) : ""));
  const content = [
    header(title, runs),
    chartSection(charts),
    section("Samples during training", samples),
    section("What training changed", updates),
    section("Data", factTable(dataFacts(runs), runs)),
    section("Run", factTable(detailFacts(runs), runs)),
    optionSection(runs),
    runs.map((run) => numbers(run, runs.length > 1)).join("\n"),
  ];
  return htmlPage({ title, content, charts }, library, made);
}

/**
 * A page with charts (those of `chartSection`). The page's own policy lets no script run but the two that are written into it, and lets
 * nothing be fetched.
 */
export async function htmlPage(
  { title, content, charts }: { title: string; content: readonly string[]; charts: readonly Chart[] },
  library: ChartLibrary,
  made: string,
): Promise<string> {
  const scripts = [`/*\n${library.license}\n*/\n${library.script}`, pageScript];
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src ${(await Promise.all(scripts.map(hashOf))).join(" ")}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title, MAX_NAME_CHARS)} · lowrank</title>
<style>${library.style}${pageStyle}</style>
</head>
<body>
<main>
${content.join("\n")}
<footer>${escapeHtml(made)}</footer>
</main>
<script type="application/json" id="chart-data">${scriptJson(charts.map(({ text: _, title: __, ...chart }) => chart))}</script>
${scripts.map((script) => `<script>${script}</script>`).join("\n")}
</body>
</html>
`;
}

/** How a policy names a script: by its SHA-256. */
async function hashOf(script: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(script)));
  return `'sha256-${btoa(String.fromCharCode(...digest))}'`;
}

export const section = (title: string, content: string): string =>
  content === "" ? "" : `<section><h2>${title}</h2>\n${content}</section>`;

function header(title: string, runs: readonly ReportedRun[]): string {
  const name = `<h1>${escapeHtml(title, MAX_NAME_CHARS)}</h1>`;
  const facts = headlineFacts(runs);
  if (runs.length > 1) return `<header>${name}</header>\n${factTable(facts, runs)}`;
  const [run] = runs;
  const { text, kind } = statusOf(run!);
  const options = run!.metrics.runs.at(-1)?.options;
  const base = typeof options?.["base"] === "string" ? ` · ${escapeHtml(options["base"], MAX_NAME_CHARS)}` : "";
  return `<header>${name}
<p class="lead"><span class="status ${kind}">${text}</span>${base}</p></header>
${tiles(facts.map(({ name, values }) => [name, values[0]!]))}`;
}

export const tiles = (facts: readonly (readonly [name: string, value: string])[]): string => {
  const each = facts.map(
    ([name, value]) => `<div class="tile"><dt>${name}</dt><dd>${escapeHtml(value, MAX_CELL_CHARS)}</dd></div>`,
  );
  return `<dl class="tiles">${each.join("\n")}</dl>`;
};

export function chartSection(charts: readonly Chart[]): string {
  if (charts.length === 0) return section("Curves", `<p class="note">No step is done yet.</p>`);
  const figures = charts.map(
    ({ id, title, text }) =>
      `<figure><figcaption>${escapeHtml(title, MAX_NAME_CHARS)}<small>${escapeHtml(text)}</small></figcaption><div class="chart" id="chart-${id}"></div></figure>`,
  );
  const note = `<noscript><p class="note">The curves need JavaScript; here they are summarized in words, and the numbers are at the end.</p></noscript>`;
  return section("Curves", `${note}<div class="charts">${figures.join("\n")}</div>`);
}

/** Content for each run that has any, under its name where there are several. */
function perRun(runs: readonly ReportedRun[], content: (run: ReportedRun) => string): string {
  return runs
    .map((run) => ({ name: run.name, html: content(run) }))
    .filter(({ html }) => html !== "")
    .map(({ name, html }) =>
      runs.length > 1 ? `<details><summary>${escapeHtml(name, MAX_NAME_CHARS)}</summary>${html}</details>` : html,
    )
    .join("\n");
}

function optionSection(runs: readonly ReportedRun[]): string {
  const facts = optionFacts(runs);
  if (facts.length === 0) return "";
  const note = runs.length > 1 ? "Bold: the runs do not agree." : "Bold: not the default.";
  return section("Options", `<p class="note">${note}</p>${factTable(facts, runs)}`);
}

function factTable(facts: readonly Fact[], runs: readonly ReportedRun[]): string {
  if (facts.length === 0) return "";
  const names = runs.map(({ name }) => `<th scope="col">${escapeHtml(name, MAX_NAME_CHARS)}</th>`);
  const head = runs.length > 1 ? `<thead><tr><th scope="col"></th>${names.join("")}</tr></thead>` : "";
  const rows = facts.map(({ name, values, marked }) => {
    const cells = values.map((value) => `<td>${escapeHtml(value ?? "–", MAX_CELL_CHARS)}</td>`);
    return `<tr${marked ? ` class="marked"` : ""}><th scope="row">${escapeHtml(name, 80)}</th>${cells.join("")}</tr>`;
  });
  return `<div class="card wide"><table class="facts">${head}<tbody>${rows.join("\n")}</tbody></table></div>`;
}

/** The curves as numbers: some of the steps, and the evaluations. */
function numbers(run: ReportedRun, several: boolean): string {
  const { name, metrics } = run;
  const of = several ? ` of ${escapeHtml(name, MAX_NAME_CHARS)}` : "";
  const measured = figureNames([run]);
  const every = curve(metrics.steps, ({ loss }) => loss);
  const smooth = smoothed(every).y;
  const steps = spread(
    metrics.steps.map((row, at) => ({ ...row, smooth: smooth[at] })),
    MAX_NUMBER_ROWS,
  );
  return [
    numberTable(
      `Steps${of}`,
      ["step", "loss", "smoothed", "learning rate", "gradient norm", `${countedIn(run)}s/s`, "memory"],
      steps.map((row) => [
        grouped(row.step),
        row.loss.toFixed(4),
        row.smooth?.toFixed(4) ?? "–",
        unitText(row.learningRate, "small"),
        unitText(row.gradNorm, "plain"),
        rateOf(row) === null ? "–" : rateText(rateOf(row)!),
        row.memoryBytes === null ? "–" : bytes(row.memoryBytes),
      ]),
      Math.round(metrics.steps.length * spacing(every)),
    ),
    numberTable(
      `Evaluations${of}`,
      ["step", "loss", ...measured.map((name) => escapeHtml(name, MAX_NAME_CHARS))],
      spread(metrics.evals, MAX_NUMBER_ROWS).map((row: RunMetrics["evals"][number]) => [
        grouped(row.step),
        row.loss.toFixed(4),
        ...measured.map((name) => figuresOf(row).get(name)?.toPrecision(5) ?? "–"),
      ]),
      metrics.evals.length,
    ),
  ].join("\n");
}

function numberTable(title: string, head: readonly string[], rows: readonly (readonly string[])[], all: number): string {
  if (rows.length === 0) return "";
  const line = (cells: readonly string[]) => `<tr>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  const note =
    rows.length < all ? `<p class="note">${rows.length} of ${grouped(all)}; all of them are in metrics.jsonl.</p>` : "";
  return `<details><summary>${title} in numbers</summary>${note}<div class="card wide"><table class="numbers">
<thead><tr>${head.map((name) => `<th scope="col">${name}</th>`).join("")}</tr></thead>
<tbody>${rows.map(line).join("\n")}</tbody></table></div></details>`;
}

/** At most `count` items: the first, the last, and between them as evenly as it goes. */
function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))]!);
}

/** What the model wrote while it was trained: for each prompt its texts from the first step to the last; empty if it has none. */
function samplesHtml({ samples }: RunMetrics): string {
  const byPrompt = new Map<string, { expected?: string; texts: { step: number; text: string }[] }>();
  for (const { step, samples: ofStep } of samples) {
    for (const { prompt, expected, text } of ofStep) {
      const found = byPrompt.get(prompt) ?? { texts: [] };
      byPrompt.set(prompt, found);
      if (expected !== undefined) found.expected = expected;
      found.texts.push({ step, text });
    }
  }
  const row = (name: string, value: string) =>
    `<tr><th scope="row">${name}</th><td><pre dir="auto">${escapeHtml(value, MAX_TEXT_CHARS)}</pre></td></tr>`;
  const cards = [...byPrompt].slice(0, MAX_PROMPTS).map(([prompt, { expected, texts }]) => {
    const rows = [
      row("prompt", prompt),
      ...spread(texts, MAX_STEPS).map(({ step, text }) => row(`step ${grouped(step)}`, text)),
      ...(expected === undefined ? [] : [row("expected", expected)]),
    ];
    return `<div class="card"><table class="sample">${rows.join("\n")}</table></div>`;
  });
  const left = byPrompt.size - cards.length;
  return [...cards, ...(left > 0 ? [`<p class="note">${left} more prompts are not shown.</p>`] : [])].join("\n");
}
