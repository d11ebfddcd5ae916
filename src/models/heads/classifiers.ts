// Heads that classify: a sequence by one state, each token by its own, an image by its class token. One linear layer each.
import type { Dim } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { equal, where } from "../../graph/ops/elementwise.ts";
import { constant, iota } from "../../graph/ops/leaves.ts";
import { reduceMax } from "../../graph/ops/reduction.ts";
import { broadcastTo } from "../../graph/ops/shape.ts";
import { projection } from "../layers/blocks.ts";
import { tokensWhere } from "../layers/encoder.ts";
import type { Classifier, Head, ModelConfig } from "./head.ts";

const logits = (x: Value, { labels }: ModelConfig, { path, bias }: Classifier): Value => projection(x, path, labels.length, bias);

/** Logits [batch, labels] of what an encoder pools, or of a decoder's last token that is not padding. */
export const sequenceClassifier: Head = {
  use: "lowrank classify, or openClassifier",
  classes: /ForSequenceClassification$/,
  savedAs: "ForSequenceClassification",
  outputs: (c, { hidden, pooled }, { inputIds }, classifier) => ({
    logits: logits(pooled ?? lastTokens(c, hidden!, inputIds!), c, classifier!),
  }),
};

/** Logits [batch*seq, labels]. */
export const tokenClassifier: Head = {
  use: "lowrank classify, or openClassifier",
  classes: /ForTokenClassification$/,
  savedAs: "ForTokenClassification",
  outputs: (c, { hidden }, _, classifier) => ({ logits: logits(hidden!, c, classifier!) }),
};

/** Logits [batch, labels] of the class token. */
export const imageClassifier: Head = {
  use: "lowrank classify, or openClassifier",
  classes: /ForImageClassification$/,
  savedAs: "ForImageClassification",
  outputs: (c, { pooled }, _, classifier) => ({ logits: logits(pooled!, c, classifier!) }),
};

/**
 * The state of the last id of each row that is not `padId`, whatever the attention mask says, as Transformers'
 * GenericForSequenceClassification reads it; without a `padId` that of the last token: [batch*seq, hidden] → [batch, hidden].
 */
function lastTokens({ padId }: ModelConfig, hidden: Value, inputIds: Value): Value {
  const [batch, seq] = inputIds.shape as [Dim, Dim];
  const place = broadcastTo(iota(seq), [batch, seq]);
  const int = (n: number) => constant("int32", [], [n]);
  const places = padId === null ? place : where(equal(inputIds, int(padId)), int(0), place);
  return tokensWhere(hidden, equal(place, reduceMax(places, [1])));
}
