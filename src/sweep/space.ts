// What a sweep tries: settings of a trial, the default range of each by the base, and which settings come in which phase.
import { initializations, initialKind } from "../adapters/initializations.ts";
import { methodSwitches } from "../adapters/method-table.ts";
import { LowrankError } from "../errors.ts";
import type { AnyBase } from "../models/base.ts";
import type { ModuleInfo } from "../models/module.ts";
import { countParameters } from "../models/registry.ts";
import { parseNames, type RunOptions, usualLearningRate } from "../train/options.ts";
import type { SweepOptions } from "./options.ts";

interface SweepMethod {
  /** The options of a run with it. */
  options: Partial<RunOptions>;
  /** Its learning rate beside LoRA's, where the sweep has found that. */
  rate: number;
  /** The time of a step beside LoRA's, until one is measured. */
  cost: number;
  /** Whether rank, alpha and targets mean nothing to it. */
  isWhole?: true;
}

/** What a step takes beside LoRA's where the method derives tensors from the frozen weight, or trains that. */
const WEIGHT_COST = 1.6;

/** Beginnings of LoRA that are tried as methods, by their names (docs/initializations.md). */
const beginnings = Object.keys(initializations).flatMap((name) => initialKind(name) ?? []);

/** The methods that can be tried: those of adapters, and others. Full fine-tuning wants about a tenth of LoRA's rate (Schulman et al. 2025). */
const methods: ReadonlyMap<string, SweepMethod> = new Map<string, SweepMethod>([
  ...methodSwitches.map(({ name, fields, method }): [string, SweepMethod] => [
    name,
    { options: fields, rate: 1, cost: method.derived ? WEIGHT_COST : 1 },
  ]),
  ...beginnings.map((init): [string, SweepMethod] => [String(init), { options: { init }, rate: 1, cost: 1 }]),
  ["rslora", { options: { rslora: true }, rate: 1, cost: 1 }],
  ["lora+", { options: { loraPlusRatio: 16 }, rate: 1, cost: 1 }],
  ["lora-fa", { options: { optimizer: "lorafa" }, rate: 1, cost: 1 }],
  ["full", { options: { method: "full" }, rate: 0.1, cost: WEIGHT_COST, isWhole: true }],
]);

/** The one that is tried unless others are asked for. */
const PLAIN = "lora";
export const sweepMethodNames = [...methods.keys()] as [string, ...string[]];
export const sweepMethod = (name: string): SweepMethod => methods.get(name)!;

/** What a trial has of its own, beside its seed. Rank, alpha and targets are null for full fine-tuning. */
export interface Settings {
  method: string;
  rank: number | null;
  alpha: number | null;
  /** As the sweep was given it: see `targetModules`. */
  targets: string | null;
  learningRate: number;
}

export const settingsKey = ({ method, rank, alpha, targets, learningRate }: Settings): string =>
  JSON.stringify([method, rank, alpha, targets, learningRate]);

/** Settings in words, as in "rank 8, alpha 16, all-linear, learning rate 0.001". */
export const settingsText = (settings: Settings): string => `${placeText(settings)}, learning rate ${settings.learningRate}`;

/** The same without the learning rate. */
export function placeText({ method, rank, alpha, targets }: Settings): string {
  const name = method === PLAIN ? "" : method === "full" ? "full fine-tuning" : `${method}, `;
  return rank === null ? name.replace(/, $/, "") : `${name}rank ${rank}, alpha ${alpha}, ${targets}`;
}

/** What is tried of each setting: each list in rising order, or in the order that it was given. */
export interface Space {
  learningRates: number[];
  ranks: number[];
  alphaRatios: number[];
  targets: string[];
  methods: string[];
}

/** Beside the learning rate that is usual for a base of that size. docs/choosing.md has what is measured. */
const RATES = [0.1, 0.3, 1, 3, 10];
const RANKS = [2, 8, 32];
const ALPHA_RATIO = 2;

const rounded = (value: number): number => Number(value.toPrecision(2));
const rising = (values: readonly number[]): number[] => [...new Set(values)].sort((a, b) => a - b);

/** The ranges that the options give, and the default ones for this base. */
export function spaceOf(options: SweepOptions, { config, modules }: AnyBase): Space {
  const tried: string[] = options.methods ?? [PLAIN];
  const usual = usualLearningRate(tried.every((name) => sweepMethod(name).isWhole) ? "full" : "lora", countParameters(config));
  const space: Space = {
    learningRates: rising(options.learningRates ?? RATES.map((factor) => rounded(usual * factor))),
    ranks: rising(options.ranks ?? RANKS),
    alphaRatios: rising(options.alphaRatios ?? [ALPHA_RATIO]),
    targets: options.targets ?? ["all-linear", ...(isSplit(modules) ? ["attention"] : [])],
    methods: [...new Set(tried)],
  };
  for (const targets of space.targets) targetModules(targets, modules);
  return space;
}

/** A module's path behind the number of its layer. */
const endingOf = (path: string): string => path.replace(/^.*?\.\d+\./, "");
const isAttention = ({ path }: ModuleInfo): boolean => /att/i.test(endingOf(path));
const isLayer = ({ kind, path, isOutputEmbedding, isClassifierHead }: ModuleInfo): boolean =>
  (kind === "linear" || kind === "conv1d") && !isOutputEmbedding && !isClassifierHead && /\.\d+\./.test(path);

/** Whether some layers are in attention and some are not. */
const isSplit = (modules: readonly ModuleInfo[]): boolean =>
  new Set(modules.filter(isLayer).map((module) => isAttention(module))).size === 2;

/** Sets of modules that have a name: the layers of attention, and those behind it. */
const groups: Record<string, (module: ModuleInfo) => boolean> = {
  attention: isAttention,
  mlp: (module) => !isAttention(module),
};

/** The option of a run that `targets` stands for. Throws `sweep/targets` where the base has no such modules. */
export function targetModules(targets: string, modules: readonly ModuleInfo[]): RunOptions["targetModules"] {
  if (!Object.hasOwn(groups, targets)) {
    const names = parseNames(targets);
    return names === "default" ? null : names;
  }
  const endings = [
    ...new Set(modules.filter((module) => isLayer(module) && groups[targets]!(module)).map(({ path }) => endingOf(path))),
  ];
  if (endings.length > 0) return endings;
  throw new LowrankError("sweep/targets", "the base has no modules of this kind", {
    subject: targets,
    expected: "layers of attention by that name, and others",
    got: modules
      .slice(0, 4)
      .map(({ path }) => path)
      .join(", "),
    next: "Name the modules (--targets q_proj,v_proj): lowrank inspect BASE lists them.",
  });
}

/** The options of a run with these settings. */
export function settingsOptions({ method, rank, alpha, targets, learningRate }: Settings, modules: readonly ModuleInfo[]) {
  const adapter = rank !== null && { rank, alpha: alpha!, targetModules: targetModules(targets!, modules) };
  return { ...sweepMethod(method).options, ...adapter, learningRate };
}

type Axes = { method: string; rank: number; ratio: number; targets: string; learningRate: number };
const settingsOf = ({ method, rank, ratio, targets, learningRate }: Axes): Settings =>
  sweepMethod(method).isWhole
    ? { method, rank: null, alpha: null, targets: null, learningRate }
    : { method, rank, alpha: rank * ratio, targets, learningRate };

const distinct = (settings: readonly Settings[]): Settings[] => [
  ...new Map(settings.map((one) => [settingsKey(one), one])).values(),
];

const middle = <T>(values: readonly T[]): T => values[(values.length - 1) >> 1]!;

/** What the search begins with: the middle of each range. */
const start = ({ methods, ranks, alphaRatios, targets, learningRates }: Space): Axes => ({
  method: methods[0]!,
  rank: middle(ranks),
  ratio: middle(alphaRatios),
  targets: targets[0]!,
  learningRate: middle(learningRates),
});

/** Every combination, in the order of the ranges. */
export const gridOf = (space: Space): Settings[] =>
  distinct(
    space.methods.flatMap((method) =>
      space.targets.flatMap((targets) =>
        space.alphaRatios.flatMap((ratio) =>
          space.ranks.flatMap((rank) =>
            space.learningRates.map((learningRate) => settingsOf({ method, targets, ratio, rank, learningRate })),
          ),
        ),
      ),
    ),
  );

/** Settings, and the mean loss that they had at some step. */
export interface Scored {
  settings: Settings;
  loss: number;
}

export interface Phase {
  name: string;
  /** The most settings of it that no phase before has. */
  count: number;
  /** What is tried, the most promising first, beside the best so far; `scored`, best first, is empty in the first phase. */
  settings(scored: readonly Scored[]): Settings[];
}

/** The phases of a search: a learning rate, then the rest at that rate, then rates beside it for the best of the rest. */
export function phasesOf(space: Space): Phase[] {
  const from = start(space);
  const { learningRates, ranks, alphaRatios, targets, methods } = space;
  const others = ranks.length + targets.length + alphaRatios.length + methods.length - 4;
  const isCombined = ranks.length > 1 && targets.length > 1;
  return [
    {
      name: "learning rate",
      count: learningRates.length,
      settings: () => {
        const at = learningRates.indexOf(from.learningRate);
        const distance = (rate: number) => Math.abs(learningRates.indexOf(rate) - at);
        const rates = [...learningRates].sort((a, b) => distance(a) - distance(b));
        return rates.map((learningRate) => settingsOf({ ...from, learningRate }));
      },
    },
    {
      name: "rank, targets and method",
      count: others,
      settings: ([best]) => {
        if (!best) return [];
        const at: Axes = { ...from, learningRate: best.settings.learningRate };
        const rateOf = (method: string) => rounded(at.learningRate * sweepMethod(method).rate);
        const changed = [
          ...ranks.map((rank) => ({ ...at, rank })),
          ...targets.map((names) => ({ ...at, targets: names })),
          ...alphaRatios.map((ratio) => ({ ...at, ratio })),
          ...methods.map((method) => ({ ...at, method, learningRate: method === at.method ? at.learningRate : rateOf(method) })),
        ];
        return distinct(changed.map(settingsOf));
      },
    },
    {
      name: "learning rate again",
      count: (learningRates.length > 1 ? 2 : 0) + (isCombined ? 1 : 0),
      settings: (scored) => nearby(space, from, scored),
    },
  ];
}

/** How far the last phase goes from a learning rate that only one was tried of. */
const FACTOR = 3;

/** The best of each range together, and the best settings at rates between those that were tried (beyond them, at a border). */
function nearby({ learningRates }: Space, from: Axes, scored: readonly Scored[]): Settings[] {
  const best = scored[0]?.settings;
  if (!best) return [];
  const first = (isLike: (one: Settings) => boolean): Settings =>
    scored.find(({ settings }) => settings.method === best.method && settings.rank !== null && isLike(settings))?.settings ??
    best;
  const { rank } = first(({ targets }) => targets === from.targets);
  const { targets } = first((one) => one.rank === from.rank);
  const together = rank === null ? best : { ...best, rank, alpha: (rank * best.alpha!) / best.rank!, targets };
  const at = learningRates.indexOf(best.learningRate);
  const beside = (factor: number, other = best.learningRate * factor ** 2): Settings => {
    return { ...best, learningRate: rounded(Math.sqrt(best.learningRate * other)) };
  };
  if (learningRates.length === 1) return [together];
  return distinct([together, beside(FACTOR, learningRates[at + 1]), beside(1 / FACTOR, learningRates[at - 1])]);
}
