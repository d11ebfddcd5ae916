// From the folders of runs to the report: their logs, the newest adapter of each, and the page that shows them.

import { type AdapterDescription, describeAdapter } from "../adapters/describe.ts";
import { ADAPTER_CONFIG_NAME, readAdapter } from "../adapters/peft-files.ts";
import { LowrankError } from "../errors.ts";
import { checkOutputFile, type Files } from "../files.ts";
import type { ChartLibrary } from "../platform/platform.ts";
import { isSweep, readSweep } from "../sweep/record.ts";
import { METRICS_NAME, type RunMetrics, readMetrics } from "../train/run-log.ts";
import type { ReportedRun } from "./facts.ts";
import { isReport, reportPage } from "./page.ts";
import { sweepPage } from "./sweep-page.ts";

/** The report of a run, in its output folder. */
export const REPORT_NAME = "report.html";
/** As many runs as the charts have colours. */
export const MAX_RUNS = 8;

export interface ReportOptions {
  /** Output folders of training: one to report, several to compare; or that of a sweep. */
  folders: readonly string[];
  /** File to write; report.html in the folder if there is one run, in the current folder if there are several. */
  output?: string;
  /** Replace the file also if it is no report. */
  force?: boolean;
}

/**
 * Writes the report and returns the path of its file. A report that is there is replaced, another file only with `force`
 * (`file/exists`); in the folders of runs only pages are written (`file/input`). Throws `report/no-log` when a folder is not that of a run, and
 * `adapter/*` when its adapter is damaged.
 */
export async function writeReport(
  files: Files,
  { folders, output, force }: ReportOptions,
  library: ChartLibrary,
  made: string,
): Promise<string> {
  if (folders.length < 1 || folders.length > MAX_RUNS) {
    throw new LowrankError("report/runs", "a report shows one run, or some beside each other", {
      expected: `1 to ${MAX_RUNS} folders`,
      got: String(folders.length),
      next: "Give the output folders of fewer runs.",
    });
  }
  const names = shortNames(folders);
  const [first] = folders;
  const isOfSweep = folders.length === 1 && (await isSweep(files, first!));
  const runs: ReportedRun[] = [];
  if (!isOfSweep) for (const [at, folder] of folders.entries()) runs.push(await readReported(files, folder, names[at]!));
  const file = output ?? (folders.length === 1 ? `${first!.replace(/\/+$/, "")}/${REPORT_NAME}` : REPORT_NAME);
  const inputs = file.endsWith(".html") ? [] : folders;
  await checkOutputFile(files, file, { inputs, force: force || (await isReport(files, file)) });
  const page = isOfSweep
    ? await sweepPage(names[0]!, await readSweep(files, first!), library, made)
    : await reportPage(runs, library, made);
  await files.write(file, new TextEncoder().encode(page));
  return file;
}

async function readReported(files: Files, folder: string, name: string): Promise<ReportedRun> {
  const metrics = await readMetrics(files, folder);
  if (metrics) return { name, metrics, adapter: await newestAdapter(files, folder, metrics) };
  throw new LowrankError("report/no-log", "the folder has no log of a run", {
    subject: folder,
    expected: METRICS_NAME,
    got: (await files.exists(folder)) ? "a folder without it" : "no such folder",
    next: "Give the output folder of lowrank train.",
  });
}

/** The adapter of a finished run, or that of the newest checkpoint of another. */
async function newestAdapter(files: Files, folder: string, { end, checkpoints }: RunMetrics): Promise<AdapterDescription | null> {
  const finished = end?.type === "done" && !end.stopped ? [folder] : [];
  const places = [...finished, ...checkpoints.map(({ step }) => `${folder}/checkpoint-${step}`).reverse()];
  for (const place of places) {
    if (await files.exists(`${place}/${ADAPTER_CONFIG_NAME}`)) return describeAdapter(await readAdapter(files, place));
  }
  return null;
}

/** The last part of each path, with as many before it as make them distinct. */
export function shortNames(folders: readonly string[]): string[] {
  const parts = folders.map((folder) => folder.split("/").filter((part) => part !== "" && part !== "."));
  const longest = Math.max(1, ...parts.map(({ length }) => length));
  for (let count = 1; count <= longest; count++) {
    const names = parts.map((part, at) => part.slice(-count).join("/") || folders[at]!);
    if (new Set(names).size === names.length) return names;
  }
  return folders.map((folder, at) => `${folder} (${at + 1})`);
}
