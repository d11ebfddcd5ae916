// A model's graph under the names of Optimum's ONNX exports, which transformers.js feeds: ids, mask and cache in, logits and cache out.
import { LowrankError } from "../../errors.ts";
import { addDims, type Dim, mulDims } from "../../graph/dims.ts";
import { type Graph, nodesOf, type Value } from "../../graph/graph.ts";
import { cast } from "../../graph/ops/elementwise.ts";
import { lastOf } from "../../graph/ops/indexing.ts";
import { input, iota } from "../../graph/ops/leaves.ts";
import { reshape } from "../../graph/ops/shape.ts";
import { type AnyBase, onBase } from "../../models/base.ts";
import type { HeadName } from "../../models/heads/head.ts";
import type { ModelInputs } from "../../models/layers/blocks.ts";
import {
  type DecoderModel,
  forward,
  headNames,
  logitsOf,
  type ModelConfig,
  modelInputs,
  modelOutputs,
  visionOf,
} from "../../models/registry.ts";

/** Dims that inputs have. transformers.js knows the batch by this name when it makes an empty cache. */
const BATCH = "batch_size";
const SEQUENCE = "sequence_length";
const PAST = "past_sequence_length";
/** Of the logits, if not all of the sequence have one. */
const KEPT = "num_logits";

/** A graph, and its inputs in the order that an export has. */
export interface ExportGraph {
  graph: Graph;
  inputs: Value[];
}

/** Inputs by their names in an export. */
const inputNames: Partial<Record<keyof ModelInputs, string>> = {
  inputIds: "input_ids",
  attentionMask: "attention_mask",
  tokenTypeIds: "token_type_ids",
  pixelValues: "pixel_values",
};

type Exporter = (config: ModelConfig, options: ExportOptions) => ExportGraph;

export interface ExportOptions {
  /** A language model has an input num_logits_to_keep, int64 []: only so many of the last places have logits, all if it is 0. */
  keepsLogits?: boolean;
}

/** The graph of each head that there is an export of. */
const exporters: Partial<Record<HeadName, Exporter>> = {
  lm: (config, options) => cachedDecoder(config as DecoderModel, options),
  "sequence-classifier": (config) => uncached(config, ({ logits }) => ({ logits: logits! })),
  "token-classifier": (config) =>
    uncached(config, ({ logits }, [batch, seq]) => ({ logits: reshape(logits!, [batch, seq, config.labels.length]) })),
  "image-classifier": (config) => uncached(config, ({ logits }) => ({ logits: logits! })),
  embedding: (config) =>
    uncached(config, ({ hidden }, [batch, seq]) => ({
      last_hidden_state: reshape(hidden!, [batch, seq, config.hiddenSize]),
    })),
};

/** A model that lacks the weights of its classifier gives its hidden states, where it is one that can. */
export const withOwnHead = (base: AnyBase): AnyBase =>
  base.config.uninitializedHead !== null && headNames(base.config).includes("embedding")
    ? onBase(base, { head: "embedding" })
    : base;

/** The graph of a model. Fails with `convert/unsayable` where there is none. */
export function exportOf(base: AnyBase, options: ExportOptions = {}): ExportGraph {
  const { head, uninitializedHead } = base.config;
  const exporter = exporters[head];
  if (!exporter) throw unsayable(base, "there is no ONNX export of this head", Object.keys(exporters).join(", "), head);
  if (visionOf(base.config))
    throw unsayable(base, "there is no ONNX export of a model that reads images", "texts", base.config.modelType);
  if (uninitializedHead === null) return exporter(base.config, options);
  throw unsayable(base, "the model has no weights of its classifier", `the weights of ${uninitializedHead}`, "none");
}

export const unsayable = ({ checkpoint }: AnyBase, message: string, expected: string, got: string): LowrankError =>
  new LowrankError("convert/unsayable", message, {
    subject: checkpoint.folder,
    expected,
    got,
    next: "Use the model's folder, in a program that reads Transformers' checkpoints.",
  });

/**
 * A decoder with a cache: input_ids and position_ids int64 [batch, seq], attention_mask int64 [batch, past+seq], past_key_values.N.key and
 * .value [batch, kvHeads, past, headDim] → logits [batch, seq, vocab], present.N.key and .value [batch, kvHeads, past+seq, headDim].
 */
function cachedDecoder(config: DecoderModel, { keepsLogits = false }: ExportOptions): ExportGraph {
  const ids = (name: string, length: Dim) => input(name, "int64", [BATCH, length]);
  const given = {
    inputIds: ids("input_ids", SEQUENCE),
    attentionMask: ids("attention_mask", addDims(PAST, SEQUENCE)),
    positionIds: ids("position_ids", SEQUENCE),
  };
  const cache = (name: string) => input(name, "float32", [BATCH, config.kvHeads, PAST, config.headDim]);
  const past = Array.from({ length: config.layers }, (_, i) => ({
    key: cache(`past_key_values.${i}.key`),
    value: cache(`past_key_values.${i}.value`),
  }));
  const { hidden, output, present } = forward(config, {
    inputIds: cast(given.inputIds, "int32"),
    attentionMask: cast(given.attentionMask, "int32"),
    positionIds: cast(given.positionIds, "int32"),
    cachePositions: iota(SEQUENCE, PAST),
    past,
  });
  const { hiddenSize, vocabSize } = config;
  const count = keepsLogits ? [input("num_logits_to_keep", "int64", [])] : [];
  const places = keepsLogits ? KEPT : SEQUENCE;
  const kept = count.map((one) =>
    reshape(lastOf(reshape(hidden, [BATCH, SEQUENCE, hiddenSize]), one, KEPT), [mulDims(BATCH, KEPT), hiddenSize]),
  );
  const outputs: Record<string, Value> = { logits: reshape(logitsOf(kept[0] ?? hidden, output), [BATCH, places, vocabSize]) };
  for (const [i, { key, value }] of present.entries()) {
    outputs[`present.${i}.key`] = key;
    outputs[`present.${i}.value`] = value;
  }
  return read({ outputs }, [...Object.values(given), ...count, ...past.flatMap(({ key, value }) => [key, value])]);
}

/** A model that reads whole sequences or images: the inputs of its family, token ids and masks as int64. */
function uncached(
  config: ModelConfig,
  outputsOf: (outputs: Record<string, Value>, shape: [Dim, Dim]) => Record<string, Value>,
): ExportGraph {
  const given: Value[] = [];
  const fed = Object.entries(modelInputs(config)).map(([name, { dtype, shape }]): [string, Value] => {
    const exported = input(inputNames[name as keyof ModelInputs] ?? name, dtype === "int32" ? "int64" : dtype, shape);
    given.push(exported);
    return [name, dtype === "int32" ? cast(exported, dtype) : exported];
  });
  const outputs = outputsOf(modelOutputs(config, Object.fromEntries(fed)), given[0]!.shape as [Dim, Dim]);
  return read({ outputs }, given);
}

/** The graph with those of the inputs that it reads. */
function read(graph: Graph, inputs: readonly Value[]): ExportGraph {
  const nodes = new Set(nodesOf(graph));
  return { graph, inputs: inputs.filter(({ node }) => nodes.has(node)) };
}
