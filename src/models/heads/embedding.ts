// A sentence's unit vector, as sentence-transformers makes it: pooled hidden states of the bare backbone, divided by their length.
import type { Dim } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { cast, div, equal, less, mul, sqrt, sub, where } from "../../graph/ops/elementwise.ts";
import { constant, iota } from "../../graph/ops/leaves.ts";
import { reduceMax, reduceSum } from "../../graph/ops/reduction.ts";
import { broadcastTo, reshape } from "../../graph/ops/shape.ts";
import { tokensWhere } from "../layers/encoder.ts";
import type { Head, ModelConfig, Pooling } from "./head.ts";
import { embeddingFiles, readEmbedding } from "./sentence-transformers.ts";

/** `embedding` [batch, hidden], each row of length 1. What an encoder pools by itself stays a part of the model that nothing reads. */
export const embedding: Head = {
  use: "lowrank embed, or openEmbedder",
  classes: /Model$/,
  savedAs: null,
  isBare: true,
  read: readEmbedding,
  filesOf: embeddingFiles,
  outputs: (c, { hidden, pooled }, { attentionMask }) => ({
    embedding: unit(pools[c.pooling](c, hidden!, attentionMask!)),
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
  cls: (c, hidden, mask) => {
    const isToken = less(int(0), mask);
    return tokenOf(hidden, sub(where(isToken, int(c.maxPositions), int(0)), places(mask)));
  },
  last: (_, hidden, mask) => tokenOf(hidden, where(less(int(0), mask), places(mask), int(0))),
};

const int = (n: number): Value => constant("int32", [], [n]);
const places = (mask: Value): Value => broadcastTo(iota(mask.shape[1]!), mask.shape);

/** The state of the token of each row with the greatest rank, int32 [batch, seq]. */
const tokenOf = (hidden: Value, ranks: Value): Value => tokensWhere(hidden, equal(ranks, reduceMax(ranks, [1])));
