// node scripts/run.mjs bench/page.ts: the measured part of docs/performance.md, and its plots, from docs/performance.jsonl.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { isProgram } from "../scripts/compile.mjs";
import { bytes, grouped, percent } from "../src/units.ts";
import { fitted } from "./fit.ts";
import { plotted } from "./plot.ts";
import { fastest, type Install, isMeasured, type Line, readResults, type Summary, summaries } from "./results.ts";
import { isShape } from "./shapes.ts";

const PAGE = "docs/performance.md";
const RESULTS = "docs/performance.jsonl";
const BEGIN = "<!-- From here on made by bench/page.ts -->";

export interface Page {
  text: string;
  /** By the name of the file beside the page. */
  images: Map<string, string>;
}

type Cells = readonly (string | number)[];
const table = (head: Cells, rows: readonly Cells[]): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

const names: Record<string, string> = { lowrank: "lowrank", peft: "PEFT" };
const isOurs = ({ side }: { side: string }): boolean => side === "lowrank";
const seconds = (value: number): string => `${value < 10 ? value.toFixed(2) : value.toFixed(1)} s`;
const megabytes = (value: number): string => `${grouped(Math.round(value))} MB`;
const ratio = (value: number): string => `${value.toFixed(2)}×`;
const orDash = <T>(value: T | null | undefined, write: (value: T) => string): string =>
  value === null || value === undefined ? "–" : write(value);
const slug = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");

function groupsOf<T>(items: readonly T[], key: (item: T) => string): [string, T[]][] {
  const groups = new Map<string, T[]>();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return [...groups];
}

const sizeText = ({ batch, tokens }: { batch: number; tokens: number }): string => `${batch} × ${grouped(tokens)}`;
const bySize = (a: Summary, b: Summary): number => a.batch - b.batch || a.tokens - b.tokens;
/** The median with the range over the rounds; a star marks what ran once. */
const stepText = ({ seconds: median, spread: [low, high], rounds }: Summary): string =>
  rounds > 1 ? `${seconds(median)} (${low.toFixed(2)}–${high.toFixed(2)})` : `${seconds(median)} \\*`;

/** A row for each size, side and mode. Ratios are to the peer's fastest mode. */
function stepTable(rows: readonly Summary[]): string {
  const head = ["batch × tokens", "", "step", "tokens/s", "peak memory", "first step after", "cores", "speed", "memory"];
  const lines = groupsOf([...rows].sort(bySize), sizeText).flatMap(([size, all]) => {
    const theirs = all.filter((row) => !isOurs(row));
    const best = fastest(theirs.filter(({ isScreen }) => !isScreen)) ?? fastest(theirs);
    return [...all.filter(isOurs), ...theirs.sort((a, b) => a.seconds - b.seconds)].map((row, i) => [
      i === 0 ? size : "",
      `${names[row.side]}, ${row.mode}${row === best ? " (fastest)" : ""}`,
      stepText(row),
      row.tokensPerSecond.toFixed(0),
      megabytes(row.megabytes),
      orDash(row.coldStart, seconds),
      orDash(row.cores, (value) => value.toFixed(1)),
      orDash(best, ({ tokensPerSecond }) => ratio(row.tokensPerSecond / tokensPerSecond)),
      orDash(best, (other) => ratio(row.megabytes / other.megabytes)),
    ]);
  });
  return table(head, lines);
}

/** Lines over the sequence length at batch 1, one for each mode that has several. */
function plotOf(title: string, rows: readonly Summary[], y: string, pick: (row: Summary) => number): string | null {
  const single = rows.filter(({ batch }) => batch === 1).sort(bySize);
  const lines = groupsOf(single, ({ side, mode }) => `${names[side]} ${mode}`)
    .filter(([, all]) => all.length > 1)
    .map(([label, all]) => ({ label, isOurs: isOurs(all[0]!), points: all.map((row) => [row.tokens, pick(row)] as const) }));
  return lines.length > 0 ? plotted({ title, x: "tokens", y, lines }) : null;
}

/** What a token costs: of the line through all lengths at batch 1. */
function tokenSlopes(rows: readonly Summary[]): string {
  const single = rows.filter(({ batch }) => batch === 1);
  const lines = groupsOf(single, ({ model, side, mode }) => [model, names[side], mode].join(" | ")).flatMap(([key, all]) => {
    const time = fitted(all.map((row) => [row.tokens, row.seconds]));
    const memory = fitted(all.map((row) => [row.tokens, row.megabytes]));
    if (!time || !memory) return [];
    const range = `${Math.min(...all.map(({ tokens }) => tokens))}–${Math.max(...all.map(({ tokens }) => tokens))}`;
    return [
      [
        key,
        range,
        `${(1000 * time.slope).toFixed(2)} ms`,
        percent(time.deviation),
        `${memory.slope.toFixed(2)} MB`,
        megabytes(memory.intercept),
      ],
    ];
  });
  const head = [
    "model",
    "side",
    "mode",
    "tokens",
    "time per token",
    "largest deviation",
    "memory per token",
    "memory at 0 tokens",
  ];
  return lines.length > 0 ? table(head, lines) : "";
}

/** What a layer costs, over models that differ in depth alone; what a gigabyte of weights costs, over all models. */
function sizeSlopes(rows: readonly Summary[]): string {
  const over = (all: readonly Summary[], what: string, unit: (row: Summary) => number) =>
    groupsOf(all, (row) => [sizeText(row), names[row.side], row.mode].join(" | ")).flatMap(([key, same]) => {
      const time = fitted(same.map((row) => [unit(row), row.seconds]));
      const memory = fitted(same.map((row) => [unit(row), row.megabytes]));
      return time && memory ? [[key, what, `${time.slope.toFixed(3)} s`, percent(time.deviation), megabytes(memory.slope)]] : [];
    });
  const ofShape = groupsOf(rows, ({ model }) => model.split("@")[0]!);
  const lines = [
    ...ofShape.flatMap(([shape, all]) => over(all, `a layer of ${shape}`, ({ layers }) => layers)),
    ...over(rows, "a GB of stored weights", ({ bytes }) => bytes / 1e9),
  ];
  return lines.length > 0 ? table(["batch × tokens", "side", "mode", "for", "time", "largest deviation", "memory"], lines) : "";
}

function decodeTable(lines: readonly Line[]): string {
  const rows = summaries(lines, "decode").map((row) => [
    row.model,
    row.side,
    row.mode,
    row.tokensPerSecond.toFixed(1),
    megabytes(row.megabytes),
    orDash(row.coldStart, seconds),
    orDash(row.cores, (value) => value.toFixed(1)),
    row.rounds,
  ]);
  const head = ["model", "", "weights", "tokens/s", "peak memory", "first token after", "cores", "rounds"];
  return rows.length > 0 ? table(head, rows) : "";
}

function installTable(installs: readonly Install[]): string {
  const rows = installs.map(({ side, megabytes: all, gpuMegabytes, packages }) => {
    const versions = Object.entries(packages).map(([name, version]) => `${name} ${version}`);
    return [names[side] ?? side, megabytes(all), gpuMegabytes > 0 ? megabytes(gpuMegabytes) : "–", versions.join(", ")];
  });
  return table(["", "on the disk", "of it for GPUs", "versions"], rows);
}

/** What each failed command ended with. */
function failures(lines: readonly Line[]): string {
  const failed = lines.flatMap((line) =>
    "failed" in line ? [`- ${line.model}, ${sizeText(line)}, ${names[line.side] ?? line.side} ${line.mode}: ${line.failed}`] : [],
  );
  return [...new Set(failed)].join("\n");
}

function modelSection(rows: readonly Summary[], machine: string, images: Map<string, string>): string[] {
  const { model, parameters, layers, bytes: stored } = rows[0]!;
  const title = `${model}, ${(parameters / 1e6).toFixed(0)}M parameters`;
  const sizes = [...new Set([...rows].sort(bySize).map(({ batch, tokens }) => (batch > 1 ? `${batch}x${tokens}` : `${tokens}`)))];
  const rounds = Math.max(...rows.map((row) => row.rounds));
  const modes = [...new Set(rows.filter(isOurs).map(({ mode }) => mode))].join(";");
  const plots = [
    plotOf(model, rows, "tokens per second", (row) => row.tokensPerSecond),
    plotOf(model, rows, "peak memory, MB", (row) => row.megabytes),
  ];
  const shown = plots.flatMap((svg, i) => {
    if (svg === null) return [];
    const name = `images/${slug(`performance ${machine} ${model} ${i === 0 ? "speed" : "memory"}`)}.svg`;
    images.set(name, svg);
    return [`![${i === 0 ? "Tokens per second" : "Peak memory"} against the sequence length, ${model}](${name})`];
  });
  const isRandom = isShape(model.split("@")[0]!);
  return [
    `### ${title}`,
    `${layers} layers, ${bytes(stored)} of stored weights${isRandom ? ", which are random" : ""}.`,
    `\`\`\`sh\nnpm run bench -- ${isRandom ? model : `./${model}`} --sizes ${sizes.join(",")} --modes "${modes}" --rounds ${rounds} --python PYTHON\n\`\`\``,
    stepTable(rows),
    shown.join("\n"),
  ];
}

/** The part of the page that is made from results. */
export function pageOf(lines: readonly Line[]): Page {
  const images = new Map<string, string>();
  const sections = groupsOf(lines, ({ machine }) => machine).flatMap(([machine, all]) => {
    const steps = summaries(all, "step");
    const [slopes, perSize, decoding] = [tokenSlopes(steps), sizeSlopes(steps), decodeTable(all)];
    const hasPeer = steps.some((row) => !isOurs(row));
    const dates = all
      .filter(isMeasured)
      .map(({ date }) => date.slice(0, 10))
      .sort();
    const commits = [
      ...new Set(
        all
          .filter(isMeasured)
          .filter(isOurs)
          .map(({ commit }) => commit),
      ),
    ];
    return [
      `## ${machine}`,
      `Measured from ${dates[0]} to ${dates.at(-1)}, lowrank at ${commits.join(", ")}.${hasPeer ? "" : " PEFT was not measured: no `--python` was given."}`,
      ...groupsOf(steps, ({ model }) => model).flatMap(([, rows]) => modelSection(rows, machine, images)),
      ...(slopes ? ["### Cost of a token", "The slope of a straight line through all lengths at batch 1.", slopes] : []),
      ...(perSize ? ["### Cost of a layer and of a gigabyte of weights", perSize] : []),
      ...(decoding
        ? [
            "### Decoding",
            "Greedy, 64 tokens of prompt, 128 new tokens, batch 1.",
            "```sh\nnpm run bench -- FOLDER --decode --onnx FOLDER --gguf FILE --packages FOLDER\n```",
            decoding,
          ]
        : []),
      "### Installation",
      installTable(all.flatMap((line) => (line.phase === "install" ? [line] : []))),
      ...(failures(all) ? ["### What did not run", failures(all)] : []),
    ];
  });
  return {
    text: sections
      .filter(Boolean)
      .map((section) => `\n${section}\n`)
      .join(""),
    images,
  };
}

/** What of the page is made, and what is written by hand before it. */
export const madePart = (page: string): string => page.slice(writtenPart(page).length);
const writtenPart = (page: string): string => page.slice(0, page.indexOf(BEGIN) + BEGIN.length + 1);

/** Writes what is made into the page, behind what is written by hand, and the plots beside it. */
export function writePage(file: string, lines: readonly Line[]): void {
  const { text, images } = pageOf(lines);
  writeFileSync(file, writtenPart(readFileSync(file, "utf8")) + text);
  for (const [name, svg] of images) writeFileSync(path.join(path.dirname(file), name), svg);
}

if (isProgram(import.meta.url)) writePage(PAGE, readResults(RESULTS));
