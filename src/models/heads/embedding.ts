// A sentence's unit vector, as sentence-transformers makes it: pooled hidden states of the bare backbone, divided by their length.
import type { Dim } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { cast, div, equal, less, mul, sqrt, where } from "../../graph/ops/elementwise.ts";
import { iota, scalar } from "../../graph/ops/leaves.ts";
import { reduceMax, reduceSum } from "../../graph/ops/reduction.ts";
import { broadcastTo, reshape } from "../../graph/ops/shape.ts";
import { firstWhere, tokensWhere } from "../layers/encoder.ts";
import type { Head, ModelConfig, Pooling } from "./head.ts";
import { embeddingFiles, readEmbedding } from "./sentence-transformers.ts";

/** `embedding` [batch, hidden], each row of length 1, and the hidden states that it is made of. What an encoder pools by itself stays a part of the model that nothing reads. */
export const embedding: Head = {
  use: "lowrank embed, or openEmbedder",
  classes: /Model$/,
  savedAs: null,
  isBare: true,
  read: readEmbedding,
  filesOf: embeddingFiles,
  outputs: (c, { hidden, pooled }, { attentionMask }) => ({
    embedding: unit(pools[c.pooling](c, hidden!, attentionMask!)),
    hidden: hidden!,
    ...(pooled && { "unread.pooled": pooled }),
  }),
};

/** Rows of length 1. */
export const unit = (x: Value): Value => div(x, sqrt(reduceSum(mul(x, x), [1])));

/** hidden [batch*seq, width] and int32 mask [batch, seq], 1 where a token is → [batch, width]. */
const pools: Record<Pooling, (c: ModelConfig, hidden: Value, mask: Value) => Value> = {
  mean(_, hidden, mask) {
    const [batch, seq] = mask.shape as [Dim, Dim];
    const width = hidden.shape[1]!;
    const seen = cast(mask, "float32"); // [batch, seq]
    const sum = reduceSum(mul(reshape(hidden, [batch, seq, width]), reshape(seen, [batch, seq, 1])), [1]); // [batch, 1, width]
    return div(reshape(sum, [batch, width]), reduceSum(seen, [1]));
  },
  cls: (c, hidden, mask) => tokensWhere(hidden, firstWhere(less(scalar(0, mask), mask), c.maxPositions)),
  last(_, hidden, mask) {
    const places = where(less(scalar(0, mask), mask), broadcastTo(iota(mask.shape[1]!), mask.shape), scalar(0, mask));
    return tokensWhere(hidden, equal(places, reduceMax(places, [1])));
  },
};
