// The language model inside a model of several parts: any family that is laid out as Llama is, read from `text_config`.
import { z } from "zod";
import { type DecoderConfig, unsupported } from "./config/config.ts";
import type { LlamaConfig } from "./config/llama-config.ts";
import { readJson, shownValue } from "./config/schema.ts";
import * as table from "./families/index.ts";
import type { Family } from "./family.ts";

/** The families that can be a part. */
const parts = (): Record<string, Family<LlamaConfig>> =>
  Object.fromEntries(Object.entries<Pick<Family, "isPart">>(table).filter(([, { isPart }]) => isPart)) as never;

/** A config whose language model is one of several parts; what all decoders have is the language model's. */
export interface WithText extends DecoderConfig {
  text: LlamaConfig;
}

const wholeKeys = z.object({
  text_config: z.looseObject({ model_type: z.string().nullish() }).nullish(),
  tie_word_embeddings: z.boolean().nullish(),
  dtype: z.unknown().optional(),
  torch_dtype: z.unknown().optional(),
  quantization_config: z.unknown().optional(),
});

/** Where the language model is in a model of several parts. */
interface TextPart {
  /** The whole's. */
  modelType: string;
  /** Its module. */
  root: string;
  /** Its family, where `text_config` names none. */
  usual: string;
  /** Its keys, where there is no `text_config`. */
  absent?: object;
}

/** The language model of a config.json, from its `text_config`, with the dtype and the tying of embeddings of the whole. */
export function textModel(json: unknown, file: string, { modelType, root, usual, absent = {} }: TextPart): WithText {
  const { text_config: given, tie_word_embeddings: tied, ...whole } = readJson(wholeKeys, json, file);
  const [textType, families] = [given?.model_type ?? usual, parts()];
  if (!Object.hasOwn(families, textType)) {
    throw unsupported(file, "text_config.model_type", `a ${modelType} around this language model is not supported`, {
      expected: Object.keys(families).join(", "),
      got: shownValue(textType),
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
  parts()[text.modelType]!.forward(text, inputs);
