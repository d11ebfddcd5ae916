// What differs between golden cases by task: the batches their inputs stand for, what the forward pass is fed, which numbers count.
import { type Batch, IGNORE } from "../../src/data/types.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import type { AnyBase } from "../../src/models/base.ts";
import { type DecoderModel, type ModelConfig, modelInputs } from "../../src/models/registry.ts";
import type { TaskName } from "../../src/tasks/index.ts";
import { pairFeeds, withReference } from "../../src/tasks/preference/data.ts";
import type { TaskOptions } from "../../src/tasks/task.ts";
import { float32, int32, type Tensor } from "../../src/tensor.ts";
import { batchOf, batchPrefixes, integers } from "./golden.ts";

type Tensors = ReadonlyMap<string, Tensor>;

/** A golden's task: ours, and from the tensors behind a prefix of the io file to what is fed and counted. */
export interface CaseTask {
  task: TaskName;
  /** The batch behind a prefix, `options` as meta.json has them. */
  batch(io: Tensors, prefix: string, config: ModelConfig): Batch;
  /** What of a batch the loss reads beside the forward pass. */
  targets: readonly string[];
  /** Our options, from meta.json's `task_options`; those if absent. */
  options?(theirs: Record<string, unknown>): TaskOptions;
  /** Outputs of the loss graph that the golden has in parts under names of its own. */
  lossOutputs?: Record<string, { of: string; part(output: Tensor): Tensor }>;
  /** The batch with what the base's outputs of the loss graph add to it. */
  prepare?(batch: Batch, base: Record<string, Tensor>): Batch;
  /** Of an output, ours or the golden one, the numbers that are defined; all if absent. */
  defined?(output: Tensor, io: Tensors, prefix: string, config: ModelConfig): Float32Array;
}

const continued: CaseTask = {
  task: "causal-lm",
  batch: (io, prefix, config) => batchOf(io, prefix, config as DecoderModel),
  targets: ["lossRows", "lossLabels"],
  // A padded query may have nothing to attend to, which no definition covers (Transformers mixes all values evenly there).
  defined: (output, io, prefix) => attended(output, io, prefix),
};

/** One row of labels for a row of inputs. */
const labelled = (task: TaskName, labels: (given: Tensor) => Tensor): CaseTask => ({
  task,
  batch(io, prefix, config) {
    const given = labels(io.get(`${prefix}labels`)!);
    return { feeds: { ...inputsOf(io, prefix, config), labels: given }, targets: given.shape[0]!, tokens: 1 };
  },
  targets: ["labels"],
});

/** One half of the rows: the chosen answers, or the rejected ones behind them. */
const half =
  (which: 0 | 1) =>
  ({ shape: [rows], data }: Tensor): Tensor =>
    float32([rows! / 2], (data as Float32Array).slice((which * rows!) / 2, ((which + 1) * rows!) / 2));

/** The rows are the chosen answers, then the rejected ones. */
const preferred: CaseTask = {
  task: "preference",
  batch(io, prefix, config) {
    const batch = batchOf(io, prefix, config as DecoderModel);
    const [rows, width] = batch.feeds["inputIds"]!.shape as [number, number];
    const pairs = rows / 2;
    return { ...batch, feeds: { ...batch.feeds, ...pairFeeds(pairs, width, batch.feeds["lossRows"]!) }, targets: pairs };
  },
  targets: [],
  options: ({ loss, beta, label_smoothing }) => ({ preferenceLoss: loss, beta, labelSmoothing: label_smoothing }),
  lossOutputs: { chosen_logps: { of: "logps", part: half(0) }, rejected_logps: { of: "logps", part: half(1) } },
  prepare: (batch, { logps }) => withReference(batch, logps!.data as Float32Array),
  defined: (output, io, prefix) => (output.shape.length === 1 ? toFloat32(output) : attended(output, io, prefix)),
};

const classes = (given: Tensor): Tensor => int32(given.shape, integers(given));
/** A number a row, whether they are [rows] or [rows, 1]. */
const numbers = (given: Tensor): Tensor => float32([given.shape[0]!], toFloat32(given));

/** By meta.json's `task`. */
export const caseTasks: Record<string, CaseTask> = {
  causal: continued,
  packed: continued,
  llava: continued,
  idefics: continued,
  idefics3: continued,
  "sequence-class": labelled("sequence-classification", classes),
  "image-class": labelled("image-classification", classes),
  "token-class": {
    task: "token-classification",
    batch(io, prefix, config) {
      const all = integers(io.get(`${prefix}labels`)!);
      const rows = [...all.keys()].filter((row) => all[row] !== IGNORE);
      const labels = rows.map((row) => all[row]!);
      const targets = { lossRows: int32([rows.length], rows), labels: int32([rows.length], labels) };
      return { feeds: { ...inputsOf(io, prefix, config), ...targets }, targets: rows.length, tokens: 1 };
    },
    targets: ["lossRows", "labels"],
    defined: (output, io, prefix) => attended(output, io, prefix),
  },
  "multi-label": labelled("multi-label-classification", (given) => float32(given.shape, toFloat32(given))),
  regression: labelled("regression", numbers),
  preference: preferred,
  contrastive: {
    task: "contrastive",
    batch: (io, prefix, config) => {
      const feeds = inputsOf(io, prefix, config);
      return { feeds, targets: feeds["inputIds"]!.shape[0]!, tokens: 1 };
    },
    targets: [],
  },
  embedding: {
    task: "sentence-embedding",
    batch(io, prefix, config) {
      const [anchors, positives] = ["anchor_", "positive_"].map((side) => inputsOf(io, prefix + side, config));
      const feeds = below(anchors!, positives!);
      const rows = anchors!["inputIds"]!.shape[0]!;
      const own = Array.from({ length: rows }, (_, i) => i);
      return {
        feeds: {
          ...feeds,
          anchorRows: int32([rows], own),
          candidateRows: int32(
            [rows],
            own.map((i) => rows + i),
          ),
          similarities: float32([rows], new Float32Array(rows)),
          isScored: float32([], new Float32Array(1)),
        },
        targets: rows,
        tokens: 1,
      };
    },
    targets: [],
    lossOutputs: Object.fromEntries(
      ["anchor_embedding", "positive_embedding", "scores"].map((name) => [
        name,
        { of: outputName(name), part: (whole) => whole },
      ]),
    ),
  },
};

/** Inputs of rows above those of others, padded on the right with what is masked. */
function below(above: Record<string, Tensor>, others: Record<string, Tensor>): Record<string, Tensor> {
  const width = Math.max(above["inputIds"]!.shape[1]!, others["inputIds"]!.shape[1]!);
  const widened = (name: string, { shape, data }: Tensor): number[] =>
    Array.from({ length: shape[0]! * width }, (_, i) => {
      const [row, column] = [Math.floor(i / width), i % width];
      const padding = name === "positionIds" ? column : 0;
      return column < shape[1]! ? Number(data[row * shape[1]! + column]) : padding;
    });
  return Object.fromEntries(
    Object.entries(above).map(([name, tensor]) => {
      const both = [...widened(name, tensor), ...widened(name, others[name]!)];
      return [name, int32([both.length / width, width], both)];
    }),
  );
}

/** What the forward pass reads of a batch. */
export const forwardFeeds = ({ targets }: CaseTask, { feeds }: Batch): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(feeds).filter(([name]) => !targets.includes(name)));

/** Transformers' names of inputs as ours. */
const inputNames: Record<string, string> = {
  input_ids: "inputIds",
  attention_mask: "attentionMask",
  token_type_ids: "tokenTypeIds",
  pixel_values: "pixelValues",
};

/** The inputs of a model that reads whole texts or images; positions of a decoder count columns, as Transformers' classifiers do. */
export function inputsOf(io: Tensors, prefix: string, config: ModelConfig): Record<string, Tensor> {
  const given = Object.entries(inputNames).flatMap(([theirs, ours]): [string, Tensor][] => {
    const tensor = io.get(prefix + theirs);
    if (!tensor) return [];
    return [[ours, theirs === "pixel_values" ? float32(tensor.shape, toFloat32(tensor)) : int32(tensor.shape, integers(tensor))]];
  });
  const feeds = Object.fromEntries(given);
  const tokens = feeds["inputIds"];
  if (tokens) {
    const [rows, width] = tokens.shape as [number, number];
    const rectangle = (value: (i: number) => number) =>
      int32(
        [rows, width],
        Int32Array.from({ length: rows * width }, (_, i) => value(i)),
      );
    feeds["attentionMask"] ??= rectangle(() => 1);
    feeds["positionIds"] ??= rectangle((i) => i % width);
    feeds["segmentIds"] ??= rectangle(() => 0);
    feeds["tokenTypeIds"] ??= rectangle(() => 0);
  }
  const read = modelInputs(config);
  return Object.fromEntries(Object.entries(feeds).filter(([name]) => read[name]));
}

/** The name that the graph gives to an output: imageEmbeds for image_embeds. */
export function outputName(theirs: string): string {
  return theirs.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** The batches of an io file that have labels. */
export const labelledPrefixes = (io: Tensors): string[] => batchPrefixes(io).filter((prefix) => io.has(`${prefix}labels`));

/** The rows of [tokens, width] whose token is no padding. */
function attended(output: Tensor, io: Tensors, prefix: string): Float32Array {
  const mask = io.get(`${prefix}attention_mask`);
  const data = toFloat32(output);
  if (!mask) return data;
  const flags = integers(mask);
  const width = data.length / flags.length;
  const rows = [...flags.keys()].filter((row) => flags[row] === 1);
  const kept = new Float32Array(rows.length * width);
  for (const [at, row] of rows.entries()) kept.set(data.subarray(row * width, (row + 1) * width), at * width);
  return kept;
}

/** The task that a base is opened with for a case. */
export function caseTask(name: string, { checkpoint }: Pick<AnyBase, "checkpoint">): CaseTask {
  const found = Object.hasOwn(caseTasks, name) ? caseTasks[name] : undefined;
  if (found) return found;
  throw new Error(`${checkpoint.folder}: no task is built for cases of ${name}`);
}
