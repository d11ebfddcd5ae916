// A command: its options and its work. The program, --help, config files and docs/cli.md are made from these objects.
import { z } from "zod";
import type { Files } from "../files.ts";
import { baseDtypes } from "../graph/pack.ts";
import { type Given, type Options, option, pick, reworded } from "../options.ts";
import type { Platform } from "../platform/platform.ts";
import type { Classifier, Embedder, EmbedOptions, PredictorOptions } from "../predict/types.ts";
import type { ReportOptions } from "../report/report.ts";
import type { DeviceChoice } from "../runtime/devices.ts";
import { runOptions } from "../train/options.ts";
import type { DemoEvent } from "./demo/demo.ts";
import type { Plan, PlanOptions } from "./plan/plan.ts";
import type { VerifyEvent } from "./verify/verify.ts";

/** How a model is opened for predictions, its adapter by its folder. */
type PredictionValues = Pick<PredictorOptions, "anyBase" | "task" | "threads"> & { adapter?: string; device?: DeviceChoice };

/** What a command runs in. */
export interface Context {
  platform: Platform;
  /** What commands use of the public API on that platform. */
  api: {
    demo(options: { output: string }): AsyncIterable<DemoEvent>;
    openClassifier(base: string, options: PredictionValues): Promise<Classifier>;
    openEmbedder(base: string, options: PredictionValues & EmbedOptions): Promise<Embedder>;
    plan(model: string | Record<string, unknown>, options: PlanOptions): Promise<Plan>;
    reportRuns(options: ReportOptions): Promise<string>;
    verify(folder: string): AsyncIterable<VerifyEvent>;
  };
  /** Print JSON, one object a line. */
  json: boolean;
}

export interface Command<O extends Options = Options, V = Record<string, unknown>> {
  /** What it does, in lower case and without a full stop. */
  summary: string;
  options: O;
  /** The option that is given without a flag, or several in their order; an array takes all that is left of the command line. */
  argument?: (keyof O & string) | readonly (keyof O & string)[];
  /** Command lines, without `lowrank` and the command's name. */
  examples: readonly string[];
  /** The options that must be given beside `values`, where these are not all that are required. */
  required?(values: V): readonly string[];
  /** The processes of an MPI job can do it together. */
  processes?: true;
  /** Does the work and prints it; resolves to the exit status. The names of models among `values` are folders already. */
  run(values: V, context: Context): Promise<number>;
}

/** A command, whose work gets its values with the types of its options. */
export const defineCommand = <O extends Options>(command: Command<O, Given<O>>): Command => command as unknown as Command;

/** Options that most commands have, with the words of `lowrank train`. */
export const { base, anyBase, device, threads } = pick(runOptions, "base", "anyBase", "device", "threads");

/** What the base's weights are kept in while it runs. */
export const baseDtype = option(z.enum(baseDtypes).default("float32"), {
  help: "what the base's weights are kept in (docs/quantised-bases.md)",
});

/** An adapter beside the base. */
export const adapterOption = (help: string) => reworded(runOptions.adapter, { help });

/** The first of `name`, `name-2`, `name-3`, … that does not exist. */
export async function freeName(files: Files, name: string): Promise<string> {
  let free = name;
  for (let i = 2; await files.exists(free); i++) free = `${name}-${i}`;
  return free;
}
