// lowrank inspect: what an adapter or a base model is.

import { z } from "zod";
import { type DecoderModel, headModule, type ModelConfig } from "../../models/registry.ts";
import { option, reworded } from "../../options.ts";
import { ownTask, taskOf } from "../../tasks/index.ts";
import { list, table } from "../../terminal/columns.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { bytes, grouped } from "../../units.ts";
import { anyBase, base, defineCommand } from "../command.ts";
import { type AdapterInspection, type BaseInspection, inspect } from "./inspect.ts";

export const command = defineCommand({
  summary: "describe an adapter or a base model: parameters, modules, ranks, norms",
  options: {
    folder: option(z.string(), {
      model: true,
      help: "an adapter or a base model: its folder, embedded, or owner/name[@revision] on the hub",
    }),
    base: reworded(base.optional(), { help: "check the adapter against this base" }),
    anyBase,
    spectrum: option(z.boolean().default(false), {
      help: "of an adapter, the singular values of each module's update, and the rank that they suggest",
    }),
  },
  argument: "folder",
  examples: ["my-adapter --base embedded", "my-adapter --spectrum"],
  async run({ folder, spectrum = false, ...options }, { platform, json }) {
    const found = await inspect(platform.files, folder, options);
    if (found.kind === "base") {
      if (json) printJson(found);
      else print(...baseLines(found));
    } else if (json) {
      const modules = spectrum ? found.modules : found.modules.map(({ spectrum: _, ...module }) => module);
      printJson({ ...found, ranks: Object.fromEntries(found.ranks), modules });
    } else print(...adapterLines(found), ...(spectrum ? ["", ...spectrumLines(found)] : []));
    return 0;
  },
});

function adapterLines(adapter: AdapterInspection): string[] {
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
    ...(config.targetParameters?.length ? [["parameters adapted", config.targetParameters.join(", ")]] : []),
    ...(config.layerReplication ? [["layers", config.layerReplication.map((range) => range.join(":")).join(",")]] : []),
    ["norm of A", adapter.normA.toPrecision(4)],
    ["norm of B", adapter.normB.toPrecision(4)],
    ["norm of the update", adapter.normDelta.toPrecision(4)],
    ["effective rank", rangeOf(modules.flatMap(({ effectiveRank }) => effectiveRank ?? []))],
  ];
  if (madeForBase !== null) facts.push(["made for this base", madeForBase ? "yes" : "no: its settings or weights differ"]);
  const names = Object.keys(modules[0]?.norms ?? {});
  const head = ["module", "rank", "scale", "parameters", "|A|", "|B|", "|s·B·A|", ...names.map((name) => `|${name}|`)];
  const rows = modules.map(({ path, rank, scale, parameters, normA, normB, normDelta, norms, effectiveRank }) => [
    ...[path, String(rank), scale.toPrecision(3), grouped(parameters)],
    ...[normA, normB, normDelta, ...names.map((name) => norms![name]!)].map((norm) => norm.toPrecision(4)),
    effectiveRank?.toFixed(2) ?? "-",
  ]);
  return [...list(facts), "", ...table([[...head, "effective rank"], ...rows])];
}

/** Singular values that a line shows. */
const SHOWN_VALUES = 8;

function spectrumLines({ modules }: AdapterInspection): string[] {
  const head = ["module", "rank", "90 % energy", "99 % energy: suggested", "singular values"];
  const rows = modules.map(({ path, rank, spectrum }) => {
    if (!spectrum) return [path, String(rank), "-", "-", "-"];
    const { values, rank90, rank99 } = spectrum;
    const shown = values.slice(0, SHOWN_VALUES).map((value) => value.toPrecision(3));
    return [
      path,
      String(rank),
      String(rank90),
      String(rank99),
      [...shown, ...(values.length > SHOWN_VALUES ? ["…"] : [])].join(" "),
    ];
  });
  return table([head, ...rows]);
}

function baseLines({ config, parameters, modules, weights }: BaseInspection): string[] {
  const stored = weights && `${weights.tensors} tensors, ${bytes(weights.bytes)}, ${weights.dtypes.join(" and ")}`;
  const facts = [
    [`${config.modelType} model for ${taskOf(ownTask(config)).what}`, ""],
    ["parameters", grouped(parameters)],
    ...sizeFacts(config),
    ["weights", stored ?? "none in the folder"],
  ];
  return [...list(facts), "", ...table([["module", "in", "out", "count"], ...kindsOf(modules)])];
}

/** Labels that are shown; ImageNet has 1000. */
const SHOWN_LABELS = 8;

/** What a config says of its sizes and its head, each where it has it. */
function sizeFacts(config: ModelConfig): string[][] {
  const { layers, heads, kvHeads, headDim, tieWordEmbeddings } = config as Partial<DecoderModel>;
  const isClassifier = headModule(config) !== null;
  const facts: (string[] | false)[] = [
    layers !== undefined && ["layers", String(layers)],
    ["hidden size", String(config.hiddenSize)],
    kvHeads !== undefined && ["heads", `${heads}, ${kvHeads} of keys and values, ${headDim} wide`],
    config.vocabSize > 0 && ["vocabulary", grouped(config.vocabSize)],
    ["positions", grouped(config.maxPositions)],
    tieWordEmbeddings !== undefined && ["output layer", tieWordEmbeddings ? "tied to the embedding" : "of its own"],
    config.head === "embedding" && ["pooling", config.pooling],
    config.maxTokens !== null && ["longest text", `${grouped(config.maxTokens)} tokens`],
    isClassifier && config.uninitializedHead !== null && ["classifier", "none yet: training adds it"],
    isClassifier && config.uninitializedHead === null && ["classes", labelsText(config.labels)],
  ];
  return facts.filter((fact) => fact !== false);
}

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
  const ends = [Math.min, Math.max].map((end) => values.reduce((a, b) => end(a, b), values[0] ?? 0).toFixed(2));
  return values.length === 0 ? "not counted" : [...new Set(ends)].join(" to ");
}
