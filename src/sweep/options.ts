// The options of a sweep: those of a run that all trials share, and what is tried of the others.
import { z } from "zod";
import { type Given, omit, option, pick, reworded } from "../options.ts";
import { methodOptions, optionError, runOptions } from "../train/options.ts";
import { sweepMethodNames } from "./space.ts";

const several = <T extends z.ZodType>(type: T) => z.array(type).min(1).optional();

export const sweepOptions = {
  ...pick(runOptions, "base", "data"),
  output: reworded(runOptions.output, { help: "folder for sweep.json, the report, and a folder for each trial" }),
  ...pick(runOptions, "evalData"),
  evalSplit: reworded(runOptions.evalSplit, { help: "evaluate on this share of the training records instead (0.1)" }),
  minutes: option(z.number().positive().optional(), { help: "how long the sweep may take in all (30; with --grid no limit)" }),
  learningRates: option(several(z.number().positive()), {
    value: "X,X,…",
    commas: true,
    expected: "numbers with commas between them",
    help: "learning rates (a tenth to ten times the one that train has for the base's size)",
  }),
  ranks: option(several(z.int().min(1)), { value: "N,N,…", commas: true, help: "ranks of the adapter (2,8,32)" }),
  alphaRatios: option(several(z.number().positive()), {
    value: "X,X,…",
    commas: true,
    expected: "numbers with commas between them",
    help: "alpha, as a multiple of the rank (2)",
  }),
  targets: option(several(z.string().min(1)), {
    value: "NAMES",
    help: "modules: attention, mlp, or as train's --target-modules; can be repeated (all-linear, and attention)",
  }),
  methods: option(several(z.enum(sweepMethodNames)), {
    value: "NAME,…",
    commas: true,
    help: `methods, of ${sweepMethodNames.join(", ")} (lora)`,
  }),
  seeds: option(several(z.int()), { value: "N,N,…", commas: true, help: "seeds; losses are means over them (0)" }),
  groupSize: option(z.int().min(1).default(1), {
    help: "processes that train a trial together, where the sweep is run by several (docs/sweep.md)",
  }),
  grid: option(z.boolean().default(false), {
    help: "train every combination to the end, instead of halving the number of trials",
  }),
  ...omit(
    runOptions,
    ...(Object.keys(methodOptions) as (keyof typeof methodOptions)[]),
    ...(["base", "data", "output", "evalData", "evalSplit", "method", "adapter", "anyBase", "rank", "alpha"] as const),
    ...(["targetModules", "rankPattern", "alphaPattern", "ranksFrom", "rslora", "learningRate", "loraPlusRatio"] as const),
    ...(["schedule", "warmup", "evalEvery", "seed", "samples", "patience", "minDelta", "loadBest"] as const),
    ...(["checkpointEvery", "checkpointMinutes", "keepCheckpoints", "resume", "force"] as const),
  ),
  schedule: option(runOptions.schedule.unwrap().default("cosine"), { help: "the learning rate's schedule, over a whole trial" }),
  warmup: option(runOptions.warmup.unwrap().default(0.1), { help: "warm-up steps, or below 1 a share of a trial" }),
  resume: reworded(runOptions.resume, { help: "resume the sweep in --output, with the options stored there" }),
};

const schema = z.strictObject(sweepOptions);

/** The options of a sweep, complete. */
export type SweepOptions = z.output<typeof schema>;
type GivenOptions = Given<typeof sweepOptions>;

/** The options of `sweep`. One that is resumed needs its folder only. */
export type SweepGiven = (GivenOptions | (Partial<GivenOptions> & { output: string; resume: true })) & {
  /** When it fires, the step at work is finished and saved, and the sweep ends; it can be resumed. */
  signal?: AbortSignal;
};

/** Minutes that a sweep takes at most, unless it is given others. */
const MINUTES = 30;
const EVAL_SPLIT = 0.1;

/** The options complete and checked. Throws `train/option` that names the option. */
export function completeSweep(given: Record<string, unknown>): SweepOptions & { date: string } {
  const parsed = schema.safeParse(given, { reportInput: true });
  if (!parsed.success) throw optionError(parsed.error.issues[0]!, schema);
  const { data: options } = parsed;
  const { steps, evalData, grid, date = new Date().toISOString().slice(0, 10) } = options;
  return {
    ...options,
    date,
    ...(steps === undefined && { epochs: options.epochs ?? 3 }),
    ...(evalData === undefined && { evalSplit: options.evalSplit ?? EVAL_SPLIT }),
    ...(!grid && { minutes: options.minutes ?? MINUTES }),
  };
}

/** The options of a trial that are the same in all of them. */
export function sharedOptions(options: SweepOptions) {
  const { minutes, learningRates, ranks, alphaRatios, targets, methods, seeds, groupSize, grid, output, resume, ...shared } =
    options;
  return shared;
}

/** Options of a sweep that can change when it is resumed. */
export const changeable: ReadonlySet<string> = new Set([
  ...["minutes", "groupSize", "threads", "device", "output", "resume", "baseName", "date"],
]);
