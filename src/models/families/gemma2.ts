// Gemma 2 (Gemma team 2024): Gemma with norms around each block, capped scores and logits, and a window in every other layer.
import { z } from "zod";
import { add } from "../../graph/ops/elementwise.ts";
import type { LlamaConfig, LlamaDefaults } from "../config/llama-config.ts";
import { readJson } from "../config/schema.ts";
import type { Family } from "../family.ts";
import type { DecoderInputs, DecoderOutputs, SelfAttentionOptions } from "../layers/blocks.ts";
import { decoder, gatedMlp, selfAttention } from "../layers/blocks.ts";
import { gemmaConfig, gemmaLayout, gemmaNorm } from "./gemma.ts";

/** What Gemma 2 and 3 have beyond Gemma. */
export interface Gemma2Config extends LlamaConfig {
  /** Factor of the attention scores. */
  scale: number;
  /** Caps of scores and logits; absent where there is none. */
  attentionSoftcap?: number;
  logitSoftcap?: number;
}

const positive = z.number().positive();

/** Reads the keys of Gemma 2 and 3. `caps` are the defaults of scores and logits. */
export function gemma2Config(
  json: unknown,
  file: string,
  modelType: string,
  caps: [number | null, number | null],
  defaults: Partial<LlamaDefaults>,
): Gemma2Config {
  const sizes = { hiddenSize: 2304, intermediateSize: 9216, layers: 26, heads: 8, kvHeads: 4, window: 2 };
  const config = gemmaConfig(json, file, modelType, { ...sizes, ...defaults });
  const keys = readJson(
    z.object({
      query_pre_attn_scalar: positive.default(256),
      attn_logit_softcapping: positive.nullable().default(caps[0]),
      final_logit_softcapping: positive.nullable().default(caps[1]),
    }),
    json,
    file,
  );
  return {
    ...config,
    scale: keys.query_pre_attn_scalar ** -0.5,
    attentionSoftcap: keys.attn_logit_softcapping ?? undefined,
    logitSoftcap: keys.final_logit_softcapping ?? undefined,
  };
}

/** The layers of Gemma 2 and 3; `attention` says what is different in layer `index`. */
export const gemma2Forward = (
  c: Gemma2Config,
  inputs: DecoderInputs,
  attention: (index: number) => SelfAttentionOptions = () => ({}),
): DecoderOutputs =>
  decoder(c, inputs, gemmaLayout(c, c.logitSoftcap), (x, at, index, context) => {
    const norm = (y: typeof x, name: string) => gemmaNorm(y, `${at}.${name}`, c.rmsNormEps);
    const options = { scale: c.scale, softcap: c.attentionSoftcap, ...attention(index) };
    const attended = selfAttention(c, norm(x, "input_layernorm"), `${at}.self_attn`, index, context, options);
    const h = add(x, norm(attended, "post_attention_layernorm"));
    return add(h, norm(gatedMlp(c, norm(h, "pre_feedforward_layernorm"), `${at}.mlp`), "post_feedforward_layernorm"));
  });

export const gemma2: Family<Gemma2Config> = {
  config: (json, file) => gemma2Config(json, file, "gemma2", [50, 30], {}),
  forward: (c, inputs) => gemma2Forward(c, inputs),
};
