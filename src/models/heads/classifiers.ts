// Heads that classify: a sequence by one state, each token by its own, an image by its class token. One linear layer each.
import type { Dim } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { equal, where } from "../../graph/ops/elementwise.ts";
import { iota, scalar } from "../../graph/ops/leaves.ts";
import { reduceMax } from "../../graph/ops/reduction.ts";
import { broadcastTo } from "../../graph/ops/shape.ts";
import { projection } from "../layers/blocks.ts";
import { tokensWhere } from "../layers/encoder.ts";
import type { Head, ModelConfig } from "./head.ts";

/** A head with a layer over states [n, hidden]: logits [n, labels]. */
const classifier = (task: string, states: (...given: Parameters<Head["outputs"]>) => Value): Head => ({
  use: "lowrank classify, or openClassifier",
  classes: new RegExp(`For${task}$`),
  savedAs: `For${task}`,
  outputs: (...given) => {
    const [{ labels }, , , layer] = given;
    return { logits: projection(states(...given), layer!.path, labels.length, layer!.bias) };
  },
});

/** Logits [batch, labels] of what an encoder pools, or of a decoder's last token that is not padding. */
export const sequenceClassifier = classifier(
  "SequenceClassification",
  (c, { hidden, pooled }, { inputIds }) => pooled ?? lastTokens(c, hidden!, inputIds!),
);
/** Logits [batch*seq, labels]. */
export const tokenClassifier = classifier("TokenClassification", (_, { hidden }) => hidden!);
/** Logits [batch, labels] of the class token. */
export const imageClassifier = classifier("ImageClassification", (_, { pooled }) => pooled!);

/**
 * The state of the last id of each row that is not `padId`, whatever the attention mask says, as Transformers'
 * GenericForSequenceClassification reads it; without a `padId` that of the last token: [batch*seq, hidden] → [batch, hidden].
 */
function lastTokens({ padId }: ModelConfig, hidden: Value, inputIds: Value): Value {
  const [batch, seq] = inputIds.shape as [Dim, Dim];
  const place = broadcastTo(iota(seq), [batch, seq]);
  const places = padId === null ? place : where(equal(inputIds, scalar(padId, inputIds)), scalar(0, inputIds), place);
  return tokensWhere(hidden, equal(place, reduceMax(places, [1])));
}
