// An adapter, or a whole model, from one format to another.
import { z } from "zod";
import { type AdapterHost, writeFilledFolder } from "../../adapters/adapter-folder.ts";
import { LowrankError } from "../../errors.ts";
import { checkOutputFile, type Files } from "../../files.ts";
import { hasWeights } from "../../formats/checkpoint.ts";
import type { AdapterFormat } from "../../interop/adapters/format.ts";
import * as adapterTable from "../../interop/adapters/index.ts";
import type { ModelFormat, ModelOptions } from "../../interop/models/format.ts";
import * as modelTable from "../../interop/models/index.ts";
import { openBase } from "../../models/base.ts";
import { type Given, option, reworded } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { prepareBase } from "../../tasks/index.ts";
import { runOptions } from "../../train/options.ts";

const adapterFormats: Record<string, AdapterFormat> = adapterTable;
const modelFormats: Record<string, ModelFormat> = modelTable;

/** The formats that something can be converted to. */
const targets = [
  ...new Set([...Object.keys(adapterFormats).filter((name) => adapterFormats[name]!.write), ...Object.keys(modelFormats)]),
].sort() as [string, ...string[]];

const dtypesHelp = Object.entries(modelFormats)
  .map(([name, { dtypes }]) => `${name}: ${dtypes.names.join(", ")} (${dtypes.usual.join(", ") || "as they are"})`)
  .join("; ");

export const convertOptions = {
  input: option(z.string(), { value: "IN", model: "or a file", help: "an adapter in any format that is read, or a model" }),
  output: option(z.string(), { value: "OUT", help: "a new file or folder" }),
  to: option(z.enum(targets).optional(), {
    value: "FORMAT",
    help: "the format; by default the one that OUT ends like (.gguf, .onnx, .onnx_adapter), and PEFT if like none",
  }),
  base: reworded(runOptions.base.optional(), { help: "the base that the adapter is for: names and shapes are its own" }),
  anyBase: reworded(runOptions.anyBase, { help: "convert an adapter that says that it was made for another base of this shape" }),
  dtype: option(z.string().optional(), {
    value: "DTYPES",
    help: `what a model's weights are stored in, separated by commas where there are several. ${dtypesHelp}`,
  }),
};
export type ConvertOptions = Given<typeof convertOptions> & Pick<ModelOptions, "onProgress" | "maxFileBytes">;

/** What of the host is used. `openSession` is for models whose weights are put into blocks. */
export type ConvertHost = AdapterHost & Partial<Pick<Platform, "adapterLimits" | "timeLimit" | "openSession">>;

/** The format whose files' names end as this one does, or PEFT's. */
function targetOf(output: string): string {
  const endings = Object.entries(adapterFormats).map(([name, { write }]) => ({ name, ending: write?.ending }));
  const all = [...endings, ...Object.entries(modelFormats).map(([name, { ending }]) => ({ name, ending }))];
  return all.find(({ ending }) => ending !== undefined && hasEnding(output, ending))?.name ?? "peft";
}

const hasEnding = (path: string, ending: string): boolean => path.toLowerCase().endsWith(ending);

/** What was converted to what. */
export interface Converted {
  from: string;
  to: string;
  /** Paths that were written. */
  outputs: string[];
}

/**
 * Writes an adapter or a model in another format, whole or not at all. Codes of errors: `convert/*`, those of what reads the input,
 * and `adapter/*` for one that does not fit the base.
 */
export async function convert(files: Files, options: ConvertOptions, host: ConvertHost = {}): Promise<Converted> {
  const { input, output } = options;
  const to = options.to ?? targetOf(output);
  for (const [name, format] of Object.entries(adapterFormats)) {
    if (await format.isAt(files, input)) return convertAdapter(files, { ...options, to }, name, host);
  }
  if (await hasWeights(files, input)) return convertModel(files, { ...options, to }, host);
  throw new LowrankError("convert/unknown", "there is neither an adapter nor a model in a format that is read", {
    subject: input,
    expected: `an adapter (${Object.values(adapterFormats)
      .map(({ title }) => title)
      .join(", ")}) or a checkpoint`,
    next: "Give the folder or the file itself. docs/formats.md has what each format consists of.",
  });
}

type Chosen = ConvertOptions & { to: string };

async function convertAdapter(
  files: Files,
  { input, output, to, base: baseFolder, anyBase, dtype }: Chosen,
  from: string,
  host: ConvertHost,
): Promise<Converted> {
  const format = adapterFormats[from]!;
  const target = adapterFormats[to];
  if (!target?.write)
    throw notFor(
      "an adapter",
      to,
      Object.keys(adapterFormats).filter((name) => adapterFormats[name]!.write),
    );
  if (dtype !== undefined) throw unusable("dtype", "an adapter is written in float32", dtype);
  const { ending, run } = target.write;
  checkEnding(output, ending);
  const opened = baseFolder === undefined ? null : await openBase(files, baseFolder, host.timeLimit);
  const read = await format.read(files, input, opened, host.adapterLimits);
  const { base, adapter } = opened
    ? await prepareBase("convert/option", opened, read, { anyBase })
    : { base: null, adapter: read };
  if (ending !== undefined) {
    await checkOutputFile(files, output, { inputs: [input, baseFolder] });
    await run(files, output, adapter!, base, input);
  } else await writeFilledFolder(files, output, (to, folder) => run(to, folder, adapter!, base, input), host);
  return { from: format.title, to: target.title, outputs: [output] };
}

async function convertModel(
  files: Files,
  { input, output, to, dtype, onProgress, maxFileBytes, ...rest }: Chosen,
  { timeLimit, openSession, digest, lock }: ConvertHost,
): Promise<Converted> {
  const target = modelFormats[to];
  if (!target) throw notFor("a model", to, Object.keys(modelFormats));
  if (rest.base !== undefined) throw unusable("base", "a whole model needs no base", rest.base);
  checkEnding(output, target.ending);
  const dtypes = dtypesOf(target, dtype);
  const outputs = target.outputs(output);
  if (target.ending !== undefined) for (const path of outputs) await checkOutputFile(files, path, { inputs: [input] });
  const host = { digest, lock };
  await target.write(files, output, await openBase(files, input, timeLimit), {
    ...{ dtypes, openSession, host, maxFileBytes, onProgress },
  });
  return { from: "checkpoint", to: target.title, outputs };
}

/** What weights are written in. */
function dtypesOf({ dtypes: { names, usual, most } }: ModelFormat, given: string | undefined): readonly string[] {
  if (given === undefined) return usual;
  const chosen = [...new Set(given.split(",").map((one) => one.trim()))];
  const isFine = chosen.every((one) => names.includes(one)) && chosen.length <= (most ?? names.length);
  if (isFine) return chosen;
  throw new LowrankError("convert/option", "the format's weights cannot be stored in this", {
    subject: "dtype",
    expected: `${most === 1 ? "one" : "some"} of ${names.join(", ")}`,
    got: given,
    next: "Choose one of these (--dtype), or leave it out.",
  });
}

/** A file's name says what it is, and other programs go by it. */
function checkEnding(output: string, ending: string | undefined): void {
  if (ending === undefined || hasEnding(output, ending)) return;
  throw new LowrankError("convert/option", "the name of the output is not one of its format", {
    subject: output,
    expected: `a name that ends in ${ending}`,
    next: "Change the name, or the format (--to).",
  });
}

const notFor = (what: string, got: string, names: readonly string[]): LowrankError =>
  new LowrankError("convert/option", `${what} cannot be written in this format`, {
    subject: "to",
    expected: names.join(", "),
    got,
    next: "Choose one of these (--to). An adapter becomes a model by merging: lowrank merge.",
  });

const unusable = (subject: string, expected: string, got: string): LowrankError =>
  new LowrankError("convert/option", "this option does nothing here", { subject, expected, got, next: `Leave out ${subject}.` });
