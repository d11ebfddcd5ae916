// lowrank inspect: what an adapter or a base model is.

import { list, print, printJson, table } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import type { DecoderConfig } from "../../models/config/config.ts";
import { type TaskConfig, taskText } from "../../models/task.ts";
import { nodeFiles } from "../../platform/node/files.ts";
import { bytes, grouped } from "../../units.ts";
import { type AdapterInspection, type BaseInspection, type InspectAdapterOptions, inspect } from "./inspect.ts";

/** Inspects; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const { folder, ...options } = values as unknown as { folder: string } & InspectAdapterOptions;
  const found = await inspect(nodeFiles, folder, options);
  if (json) printJson(found.kind === "adapter" ? { ...found, ranks: Object.fromEntries(found.ranks) } : found);
  else print(found.kind === "adapter" ? adapterText(found) : baseText(found));
  return 0;
}

function adapterText(adapter: AdapterInspection): string {
  const { config, modules, parameters, ranks, labels, trainedInFull, madeForBase } = adapter;
  const facts = [
    [`${adapter.method} adapter`, adapter.about],
    ["base", config.baseModelNameOrPath ?? "not named"],
    ["parameters", grouped(parameters)],
    ["modules", String(modules.length)],
    ...(trainedInFull > 0 ? [["trained in full", `${grouped(trainedInFull)} parameters beside them`]] : []),
    ...(labels ? [["classes", labelsText(labels)]] : []),
    ["ranks", [...ranks].map(([rank, count]) => `${rank} (${count} modules)`).join(", ")],
    ["alpha", `${config.alpha}${config.useRslora ? ", rank-stabilised" : ""}`],
    ["dropout", String(config.dropout)],
    ["targets", config.targetModules === null ? "the model type's default" : [config.targetModules].flat().join(", ")],
    ["norm of A", adapter.normA.toPrecision(4)],
    ["norm of B", adapter.normB.toPrecision(4)],
    ["norm of the update", adapter.normDelta.toPrecision(4)],
    ["effective rank", rangeOf(modules.flatMap(({ effectiveRank }) => effectiveRank ?? []))],
  ];
  if (madeForBase !== null) facts.push(["made for this base", madeForBase ? "yes" : "no: its settings or weights differ"]);
  const names = Object.keys(modules[0]?.norms ?? {});
  const rows = modules.map((module) => [
    module.path,
    String(module.rank),
    module.scale.toPrecision(3),
    grouped(module.parameters),
    ...[module.normA, module.normB, module.normDelta, ...names.map((name) => module.norms![name]!)].map((norm) =>
      norm.toPrecision(4),
    ),
    module.effectiveRank?.toFixed(2) ?? "-",
  ]);
  return `${list(facts)}\n\n${table([["module", "rank", "scale", "parameters", "|A|", "|B|", "|s·B·A|", ...names.map((name) => `|${name}|`), "effective rank"], ...rows])}`;
}

function baseText({ config, parameters, modules, weights }: BaseInspection): string {
  const facts = [
    [`${config.modelType} model${"task" in config ? ` for ${taskText[config.task]}` : ""}`, ""],
    ["parameters", grouped(parameters)],
    ...("task" in config ? taskFacts(config) : decoderFacts(config)),
    [
      "weights",
      weights ? `${weights.tensors} tensors, ${bytes(weights.bytes)}, ${weights.dtypes.join(" and ")}` : "none in the folder",
    ],
  ];
  return `${list(facts)}\n\n${table([["module", "in", "out", "count"], ...kindsOf(modules)])}`;
}

const decoderFacts = (config: DecoderConfig): string[][] => [
  ["layers", String(config.layers)],
  ["hidden size", String(config.hiddenSize)],
  ["heads", `${config.heads}, ${config.kvHeads} of keys and values, ${config.headDim} wide`],
  ["vocabulary", grouped(config.vocabSize)],
  ["positions", grouped(config.maxPositions)],
  ["output layer", config.tieWordEmbeddings ? "tied to the embedding" : "of its own"],
];

/** Labels that are shown; ImageNet has 1000. */
const SHOWN_LABELS = 8;

const taskFacts = ({ maxPositions, labels, newHead }: TaskConfig): string[][] => [
  ["positions", grouped(maxPositions)],
  ...(newHead !== null
    ? [["classifier", "none yet: training adds it"]]
    : labels.length > 0
      ? [["classes", labelsText(labels)]]
      : []),
];

const labelsText = (labels: readonly string[]): string =>
  `${labels.length}: ${labels.slice(0, SHOWN_LABELS).join(", ")}${labels.length > SHOWN_LABELS ? ", …" : ""}`;

/** Modules that differ by their layer's number only, in one row. */
function kindsOf(modules: BaseInspection["modules"]): string[][] {
  const rows = new Map<string, { inFeatures: number; outFeatures: number; count: number }>();
  for (const { path, inFeatures, outFeatures } of modules) {
    const name = path.replace(/\.\d+\./, ".*.");
    const row = rows.get(name) ?? { inFeatures, outFeatures, count: 0 };
    rows.set(name, { ...row, count: row.count + 1 });
  }
  return [...rows].map(([name, row]) => [name, grouped(row.inFeatures), grouped(row.outFeatures), String(row.count)]);
}

/** The smallest and the largest of some numbers. */
function rangeOf(values: readonly number[]): string {
  const ends = [Math.min(...values), Math.max(...values)].map((value) => value.toFixed(2));
  return values.length === 0 ? "not counted" : [...new Set(ends)].join(" to ");
}
