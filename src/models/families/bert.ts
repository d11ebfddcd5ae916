// BERT (Devlin et al. 2019): norms after the sums, learned positions, token types.
import { z } from "zod";
import { type Dim, mulDims } from "../../graph/dims.ts";
import type { Value } from "../../graph/graph.ts";
import { add, less, tanh } from "../../graph/ops/elementwise.ts";
import { iota, scalar } from "../../graph/ops/leaves.ts";
import { broadcastTo, reshape } from "../../graph/ops/shape.ts";
import {
  type BackboneConfig,
  commonConfig,
  commonKeys,
  type LayerConfig,
  layerConfig,
  layerKeys,
  onlyValue,
  unsupported,
} from "../config/config.ts";
import { readJson, shownValue, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { layerNormed, lookup, type ModelInputs, mlp, projection, tokenInputs } from "../layers/blocks.ts";
import { mixHeads, paddingMask, tokensWhere } from "../layers/encoder.ts";

interface BertConfig extends BackboneConfig, LayerConfig {
  tokenTypes: number;
}

const keysOfConfig = z.object({
  vocab_size: sizes.vocab.default(30522),
  ...layerKeys({ hiddenSize: 768, layers: 12, heads: 12, intermediateSize: 3072, activation: "gelu", layerNormEps: 1e-12 }),
  max_position_embeddings: sizes.positions.default(512),
  type_vocab_size: sizes.vocab.default(2),
  position_embedding_type: z.string().default("absolute"),
  ...commonKeys(null, null, true, 0),
});

export const bert: Family<BertConfig, ModelInputs> = {
  prefix: "bert",
  heads: {
    "sequence-classifier": { path: "classifier", bias: true },
    "token-classifier": { path: "classifier", bias: true },
    embedding: null,
  },
  config(json, file) {
    onlyValue(json, file, "is_decoder", false);
    onlyValue(json, file, "add_cross_attention", false);
    const keys = readJson(keysOfConfig, json, file);
    if (keys.position_embedding_type !== "absolute") {
      const got = shownValue(keys.position_embedding_type);
      throw unsupported(file, "position_embedding_type", "relative positions are not supported", { expected: "absolute", got });
    }
    const { vocab_size: vocabSize, type_vocab_size: tokenTypes, max_position_embeddings: maxPositions } = keys;
    const { dtype, padId } = commonConfig(keys, vocabSize, file);
    const { layerNormEps, ...layers } = layerConfig(keys, file);
    return { modelType: "bert", dtype, vocabSize, ...layers, maxPositions, tokenTypes, layerNormEps, padId };
  },
  inputs: () => tokenInputs("inputIds", "attentionMask", "tokenTypeIds"),
  forward(c, { inputIds, attentionMask, tokenTypeIds }) {
    const [batch, seq] = inputIds!.shape as [Dim, Dim];
    const context = { heads: c.heads, mask: paddingMask(attentionMask!) };
    let x = embeddings(c, inputIds!, tokenTypeIds!); // [batch*seq, hidden]
    for (let i = 0; i < c.layers; i++) {
      const at = `bert.encoder.layer.${i}`;
      const part = (name: string) => projection(x, `${at}.attention.self.${name}`, c.hiddenSize, true);
      const mixed = mixHeads(part("query"), part("key"), part("value"), context);
      const h = afterSum(c, projection(mixed, `${at}.attention.output.dense`, c.hiddenSize, true), x, `${at}.attention.output`);
      x = afterSum(c, mlp(c, h, `${at}.intermediate.dense`, `${at}.output.dense`), h, `${at}.output`);
    }
    const isFirst = broadcastTo(less(iota(seq), scalar(1, iota(seq))), [batch, seq]);
    const pooled = tanh(projection(tokensWhere(x, isFirst), "bert.pooler.dense", c.hiddenSize, true)); // [batch, hidden]
    return { hidden: x, pooled };
  },
  // Checkpoints from TensorFlow, as the first ones on the hub were.
  olderNames: [(name) => name.replace(/LayerNorm\.weight$/, "LayerNorm.gamma").replace(/LayerNorm\.bias$/, "LayerNorm.beta")],
};

/** Word, position and token type, added and normed: int32 [batch, seq] → [batch*seq, hidden]. */
function embeddings(c: BertConfig, inputIds: Value, tokenTypeIds: Value): Value {
  const [batch, seq] = inputIds.shape as [Dim, Dim];
  const at = "bert.embeddings";
  const tokens = lookup(inputIds, `${at}.word_embeddings`, c.vocabSize, c.hiddenSize, c.padId); // [batch, seq, hidden]
  const places = lookup(iota(seq), `${at}.position_embeddings`, c.maxPositions, c.hiddenSize); // [seq, hidden]
  const sum = add(add(tokens, lookup(tokenTypeIds, `${at}.token_type_embeddings`, c.tokenTypes, c.hiddenSize)), places);
  return layerNormed(reshape(sum, [mulDims(batch, seq), c.hiddenSize]), `${at}.LayerNorm`, c.layerNormEps);
}

const afterSum = (c: BertConfig, x: Value, residual: Value, at: string): Value =>
  layerNormed(add(x, residual), `${at}.LayerNorm`, c.layerNormEps);
