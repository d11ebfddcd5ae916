// What every decoder's config.json says, in one form, and the pieces a family's reader is made of.
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import type { ActivationName } from "../layers/activations.ts";
import { activationNames } from "../layers/activations.ts";
import { epsilon, MAX_END_IDS, readJson, shownValue, sizes, tokenId } from "./schema.ts";

/** What the rest of the library reads of any backbone's hyperparameters; each family adds its own. */
export interface BackboneConfig {
  /** `model_type`, by which registry.ts finds the family. */
  modelType: string;
  /** Width of the hidden states; of two towers that of their projections. */
  hiddenSize: number;
  /** Rows of its token embedding; 0 if it reads no text. */
  vocabSize: number;
  /** The longest sequence the model is made for, in tokens; of a model that reads images only, the tokens of an image. */
  maxPositions: number;
  /** The dtype the weights were saved in, where the config says it. */
  dtype: "float32" | "float16" | "bfloat16" | null;
  padId: number | null;
}

/** That of a decoder. */
export interface DecoderConfig extends BackboneConfig {
  layers: number;
  /** Which layer of the checkpoint each layer is, where some are used again. */
  layerSources?: readonly number[];
  /** How many the checkpoint has, then. */
  storedLayers?: number;
  heads: number;
  /** Key and value heads; divides `heads`. */
  kvHeads: number;
  /** Dimensions of one head; `heads * headDim` need not be `hiddenSize`. */
  headDim: number;
  tieWordEmbeddings: boolean;
  bosId: number | null;
  eosIds: number[];
}

const dtypeKey = z.enum(["float32", "float16", "bfloat16"]).nullish();

/** Layers of one size: what a transformer with an MLP and LayerNorms has. */
export interface LayerConfig {
  hiddenSize: number;
  layers: number;
  heads: number;
  intermediateSize: number;
  activation: ActivationName;
  layerNormEps: number;
}

/** Keys of such layers, with the family's own values where they are absent. */
export const layerKeys = (d: Omit<LayerConfig, "activation"> & { activation: string }) => ({
  hidden_size: sizes.hidden.default(d.hiddenSize),
  num_hidden_layers: sizes.layers.default(d.layers),
  num_attention_heads: sizes.heads.default(d.heads),
  intermediate_size: sizes.intermediate.default(d.intermediateSize),
  hidden_act: z.string().default(d.activation),
  layer_norm_eps: epsilon.default(d.layerNormEps),
});

/** The layers that `layerKeys` describe; `at` is the path of these keys inside the file. */
export function layerConfig(keys: z.output<z.ZodObject<ReturnType<typeof layerKeys>>>, file: string, at = ""): LayerConfig {
  const { hidden_size: hiddenSize, num_attention_heads: heads } = keys;
  headDimOf(hiddenSize, heads, file, { hidden: `${at}hidden_size`, heads: "num_attention_heads" });
  return {
    hiddenSize,
    layers: keys.num_hidden_layers,
    heads,
    intermediateSize: keys.intermediate_size,
    activation: activationOf(keys.hidden_act, `${at}hidden_act`, file),
    layerNormEps: keys.layer_norm_eps,
  };
}

/** Keys that every family has, with the family's own ids where they are absent. */
export const commonKeys = (bosId: number | null, eosId: number | null, tied: boolean, padId: number | null = null) => ({
  tie_word_embeddings: z.boolean().default(tied),
  dtype: dtypeKey,
  torch_dtype: dtypeKey,
  bos_token_id: tokenId.nullable().default(bosId),
  eos_token_id: z
    .union([tokenId, z.array(tokenId).max(MAX_END_IDS)])
    .nullable()
    .default(eosId),
  pad_token_id: tokenId.nullable().default(padId),
  quantization_config: z.unknown().optional(),
});

/** The part of a DecoderConfig from `commonKeys`. */
export function commonConfig(
  keys: z.output<z.ZodObject<ReturnType<typeof commonKeys>>>,
  vocabSize: number,
  file: string,
): Pick<DecoderConfig, "tieWordEmbeddings" | "dtype" | "bosId" | "eosIds" | "padId"> {
  if (keys.quantization_config != null) {
    const { quant_method: method } = keys.quantization_config as { quant_method?: unknown };
    throw unsupported(file, "quantization_config", "checkpoints with quantized weights are not supported yet", {
      expected: "weights in float32, float16 or bfloat16",
      got: shownValue(method ?? keys.quantization_config),
      next: "Use the checkpoint that this one was quantized from.",
    });
  }
  if (keys.pad_token_id !== null && keys.pad_token_id >= vocabSize) {
    throw contradiction(file, "pad_token_id", `an id below vocab_size ${vocabSize}`, keys.pad_token_id);
  }
  return {
    tieWordEmbeddings: keys.tie_word_embeddings,
    dtype: keys.dtype ?? keys.torch_dtype ?? null,
    bosId: keys.bos_token_id,
    eosIds: [keys.eos_token_id].flat().filter((id) => id !== null),
    padId: keys.pad_token_id,
  };
}

/** hidden / heads, which has to be whole. */
export function headDimOf(hiddenSize: number, heads: number, file: string, keys: { hidden: string; heads: string }): number {
  if (hiddenSize % heads === 0) return hiddenSize / heads;
  throw contradiction(file, keys.hidden, `a multiple of ${keys.heads} ${heads}`, hiddenSize);
}

/** Transformers' name of an activation as ours. */
export function activationOf(name: string, key: string, file: string): ActivationName {
  const known = Object.hasOwn(activationNames, name) ? activationNames[name] : undefined;
  if (known) return known;
  throw unsupported(file, key, "this activation is not supported", {
    expected: Object.keys(activationNames).join(", "),
    got: shownValue(name),
  });
}

/** Refuses a key that changes the computation in a way that is not built, unless it has the one value that is. */
export function onlyValue(json: unknown, file: string, key: string, built: boolean): void {
  const value = (json as Record<string, unknown>)[key];
  if (value == null || readJson(z.boolean(), value, file, key) === built) return;
  throw unsupported(file, key, "this variant of the architecture is not supported", {
    expected: String(built),
    got: shownValue(value),
  });
}

export const unsupported = (
  file: string,
  key: string,
  message: string,
  failure: { expected: string; got: string; next?: string },
): LowrankError =>
  new LowrankError("model/unsupported", message, { subject: `${file}: ${key}`, next: "Choose another checkpoint.", ...failure });

export const contradiction = (file: string, key: string, expected: string, got: unknown): LowrankError =>
  new LowrankError("model/config", `${key} contradicts the rest of the config`, {
    subject: file,
    expected,
    got: shownValue(got),
    next: "Correct the config, or download it again.",
  });
