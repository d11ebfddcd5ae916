// The language model inside a model of several parts: any family that is laid out as Llama is, read from `text_config`.
import { z } from "zod";
import { llama } from "../families/llama.ts";
import { mistral } from "../families/mistral.ts";
import { olmo2 } from "../families/olmo2.ts";
import { phi3 } from "../families/phi3.ts";
import { qwen2 } from "../families/qwen2.ts";
import { qwen3 } from "../families/qwen3.ts";
import { smollm3 } from "../families/smollm3.ts";
import type { Family } from "../family.ts";
import { type DecoderConfig, unsupported } from "./config.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { readJson, shown } from "./schema.ts";

/** Those whose paths all begin where `llamaLayout` says. */
const families: Record<string, Family<LlamaConfig>> = {
  llama,
  mistral,
  qwen2,
  qwen3,
  smollm3: smollm3 as Family<LlamaConfig>,
  olmo2,
  phi3,
};

/** A config whose language model is one of several parts; what all decoders have is the language model's. */
export interface WithText extends DecoderConfig {
  text: LlamaConfig;
}

const partKeys = z.object({ model_type: z.string().default("llama") });
const wholeKeys = z.object({
  text_config: z.record(z.string(), z.unknown()).nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  dtype: z.unknown().optional(),
  torch_dtype: z.unknown().optional(),
  quantization_config: z.unknown().optional(),
});

/**
 * The language model of a config.json, at module `root`: its `text_config` (`absent` if it has none), with the dtype and the
 * tying of embeddings of the whole.
 */
export function textModel(json: unknown, file: string, modelType: string, root: string, absent: object = {}): WithText {
  const { text_config: given, tie_word_embeddings: tied, ...whole } = readJson(wholeKeys, json, file);
  const { model_type: textType } = readJson(partKeys, given ?? {}, file, "text_config");
  if (!Object.hasOwn(families, textType)) {
    throw unsupported(file, "text_config.model_type", `a ${modelType} around this language model is not supported`, {
      expected: Object.keys(families).join(", "),
      got: shown(textType),
    });
  }
  const keys = { ...(given ?? absent), ...whole, tie_word_embeddings: tied ?? false };
  const text = { ...families[textType]!.config(keys, `${file}: text_config`), root };
  const { vocabSize, hiddenSize, layers, heads, kvHeads, headDim, maxPositions } = text;
  const { tieWordEmbeddings, dtype, bosId, eosIds, padId } = text;
  const sizes = { vocabSize, hiddenSize, layers, heads, kvHeads, headDim, maxPositions };
  return { modelType, ...sizes, tieWordEmbeddings, dtype, bosId, eosIds, padId, text };
}

/** The language model's forward pass. */
export const textForward = ({ text }: WithText, inputs: Parameters<Family["forward"]>[1]): ReturnType<Family["forward"]> =>
  families[text.modelType]!.forward(text, inputs);
