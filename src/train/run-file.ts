// run.json: the options of a run, kept in its output folder, from which it is resumed and the trained model is asked.
import { z } from "zod";
import type { PromptFormat } from "../data/prompts.ts";
import { LowrankError, valueText } from "../errors.ts";
import type { Files } from "../files.ts";
import { readJsonObject, readVersioned } from "../formats/json.ts";
import { describeOptions } from "../options.ts";
import { taskOptions } from "../tasks/index.ts";
import type { WeightRecords } from "./base-watch.ts";
import { columnOptions, completeOptions, finetuneDefaults, isAdapterOption, type RunOptions, runOptions } from "./options.ts";

export const RUN_NAME = "run.json";
export const RUN_VERSION = 1;

/**
 * The options of a run, complete and checked: those given, for a resumed run over those its output folder keeps.
 * Throws `train/option` that names the option, or `train/no-run` when there is nothing to resume.
 */
export const readOptions = async (files: Files, given: Record<string, unknown>): Promise<RunOptions> =>
  completeOptions(given, given["resume"] === true ? await readRun(files, given) : {});

/**
 * Keeps the options in the output folder, how the trained model is asked, and the base's weight files; paths are made absolute, so that the run can
 * be resumed from anywhere. Returns the options as kept.
 */
export async function writeRun(
  files: Files,
  options: RunOptions,
  prompts: PromptFormat | undefined,
  weights: WeightRecords,
): Promise<Record<string, unknown>> {
  const record = { version: RUN_VERSION, options: await keptOf(files, options), prompts, weights };
  await files.write(`${options.output}/${RUN_NAME}`, new TextEncoder().encode(`${JSON.stringify(record, null, 2)}\n`));
  return record.options;
}

const weightRecords = z.record(z.string(), z.object({ stamp: z.string(), sha256: z.string().nullable() }));

/** What the run in `output` remembers of the base's weight files; nothing if no run.json says it. */
export async function readWeightRecords(files: Files, output: string): Promise<WeightRecords> {
  return weightRecords.safeParse((await runOf(files, output))["weights"]).data ?? {};
}

/** The options that run.json has, with absolute paths. */
async function keptOf(files: Files, options: RunOptions): Promise<Record<string, unknown>> {
  const { resume, force, output, ...given } = options;
  const kept = await withAbsolutePaths(files, given);
  return Object.fromEntries(Object.entries(kept).filter(([name]) => !(kept.adapter && isAdapterOption(name))));
}

/** Options whose paths lead to the same files from any working folder. */
export async function withAbsolutePaths<T extends object>(files: Files, options: T): Promise<T> {
  const paths: Record<string, string> = {};
  for (const name of ["base", "data", "evalData", "adapter", "samples"]) {
    const given = (options as Record<string, unknown>)[name];
    if (typeof given === "string") paths[name] = await absolute(files, given);
  }
  return { ...options, ...paths };
}

/** Options that make no other run of it. */
const incidental = new Set(["date", "device", "threads", "baseName"]);

/**
 * In what `options` differ from those kept in their output folder, as in "rank 8, here 16" (there the first); null if the
 * folder keeps none.
 */
export async function differencesFromKept(files: Files, options: RunOptions): Promise<string[] | null> {
  if (!(await files.exists(`${options.output}/${RUN_NAME}`))) return null;
  const there = await readRun(files, { output: options.output });
  const here = await keptOf(files, options);
  const shown = (value: unknown) => (value === undefined ? "none" : JSON.stringify(value));
  return [...new Set([...Object.keys(there), ...Object.keys(here)])]
    .filter((name) => !incidental.has(name) && JSON.stringify(there[name]) !== JSON.stringify(here[name]))
    .map((name) => `${name} ${shown(there[name])}, here ${shown(here[name])}`);
}

/** A word of a command line that a shell takes for one. */
const quoted = (text: string): string => (/^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** Options that a command line need not have to train the same. */
const unsaid = new Set(["force", "resume", "threads", "checkpointEvery", "checkpointMinutes", "keepCheckpoints"]);

/** The command line that trains with `options`: each that is not the default, with the base by its name. */
export function trainCommand(options: Partial<RunOptions>): string {
  const base = options.baseName ?? options.base;
  const values: Record<string, unknown> = { ...options, base, baseName: undefined };
  const flags = describeOptions(runOptions).flatMap(({ name, flag, isSwitch }) => {
    const value = values[name];
    if (value === undefined || unsaid.has(name)) return [];
    if (JSON.stringify(value) === JSON.stringify(finetuneDefaults[name as keyof RunOptions])) return [];
    if (isSwitch) return [value ? flag : flag.replace("--", "--no-")];
    const isJson = typeof value === "object" && value !== null && !Array.isArray(value);
    const text = isJson ? JSON.stringify(value) : Array.isArray(value) ? value.join(",") : String(value ?? "default");
    return [`${flag} ${quoted(text)}`];
  });
  return `npx lowrank train ${flags.join(" ")}`;
}

/** What goes on with the run in `output`, on the command line. */
export const resumeCommand = (output: string, more = ""): string =>
  `npx lowrank train --resume${more} --output ${quoted(output)}`;

const promptFormat = z.union([
  z.object({ kind: z.enum(["messages", "text"]) }),
  z.object({ kind: z.literal("completion"), before: z.string(), after: z.string() }),
]);

/** How the model trained in `folder`, or in the run that `folder` is a checkpoint of, is asked; null if nothing there says it. */
export async function readPromptFormat(files: Files, folder: string): Promise<PromptFormat | null> {
  return promptFormat.safeParse((await runOf(files, folder))["prompts"]).data ?? null;
}

/** The run.json of the run whose result, or one of whose checkpoints, lies in `folder`; empty if there is none. */
async function runOf(files: Files, folder: string): Promise<Record<string, unknown>> {
  for (const file of [`${folder}/${RUN_NAME}`, `${folder}/../${RUN_NAME}`]) {
    if (await files.exists(file)) return readVersioned(files, file, RUN_VERSION);
  }
  return {};
}

const readingChoices = z.object({ ...columnOptions, ...taskOptions });

/** How the run that trained `folder` read its records: its columns, its task's own options; none if nothing there says it. */
export async function readRunChoices(files: Files, folder: string): Promise<z.output<typeof readingChoices>> {
  return readingChoices.safeParse((await runOf(files, folder))["options"]).data ?? {};
}

/** The options kept in the output folder; none if the run can start without them. */
async function readRun(files: Files, given: Record<string, unknown>): Promise<Record<string, unknown>> {
  const file = `${given["output"]}/${RUN_NAME}`;
  if (!(await files.exists(file))) {
    if (given["base"] !== undefined && given["data"] !== undefined) return {};
    throw new LowrankError("train/no-run", "there is no run to resume in the folder", {
      subject: String(given["output"]),
      expected: RUN_NAME,
      next: "Give the output folder of the run, or base and data to start one.",
    });
  }
  const { version, options } = await readJsonObject(files, file);
  if (version === RUN_VERSION && typeof options === "object" && options !== null) return { ...options };
  throw new LowrankError("train/no-run", "the file does not hold the options of a run", {
    subject: file,
    expected: `{"version": ${RUN_VERSION}, "options": {…}}`,
    got: `version ${valueText(version)}`,
    next: "Give the options again, with a lowrank of the version that wrote the file.",
  });
}

/** The folder of `file` with links resolved; the name as it is, since it has the kind of file. */
async function absolute(files: Files, file: string): Promise<string> {
  const [, folder, name] = /^(.*?)([^/]+)\/*$/.exec(file) ?? ["", file, ""];
  const real = await files.realPath(folder || ".");
  return `${real.replace(/\/$/, "")}/${name}`;
}
