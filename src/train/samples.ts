// What the model in training writes for a few held-out prompts, greedily, beside what it should write.

import type { Adapter } from "../adapters/peft-files.ts";
import { type ImageSpan, imageNote } from "../data/record-images.ts";
import { type Example, IGNORE } from "../data/types.ts";
import { type Generator, openGenerator } from "../generate/generator.ts";
import type { EncodedPrompt } from "../generate/prompts.ts";
import type { Base } from "../models/base.ts";
import type { ImageReading } from "../multimodal/images.ts";
import type { Engine } from "../runtime/open-graph.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { DataReader } from "./datasets.ts";

/** Most prompts of a run. */
export const MAX_SAMPLES = 16;
/** A text is generated up to its expected length and a little more, but not longer than this. */
const MAX_NEW_TOKENS = 128;
const MORE_TOKENS = 16;
/** Longer texts are cut: prompts at their beginning, the others at their end. */
const MAX_TEXT_CHARS = 4000;

export interface Sample {
  prompt: string;
  expected: string;
  /** What the model wrote. */
  text: string;
}

export interface Sampler {
  /** The samples of the adapter that `theta` is. The first call opens the base a second time, for generation. */
  sample(theta: Float32Array): Promise<Sample[]>;
  close(): Promise<void>;
}

export interface SamplerOptions extends Engine {
  /** What reads the base's folder where its images are prepared. */
  reading?: ImageReading;
  adapterOf: (theta: Float32Array) => Adapter;
  /** The images of examples. */
  images: Pick<DataReader, "imageSpans" | "imageOf">;
}

/** A sampler of the first examples. It holds a session from the first call on; close it to free the weights. */
export function makeSampler(
  base: Base,
  examples: readonly Example[],
  { adapterOf, images, ...options }: SamplerOptions,
): Sampler {
  const split = examples.map((example) => {
    const parts = splitExample(example);
    return { ...parts, images: images.imageSpans?.(example).filter(({ to }) => to <= parts.prompt.length) ?? [] };
  });
  const maxNewTokens = Math.min(MAX_NEW_TOKENS, Math.max(...split.map(({ expected }) => expected.length)) + MORE_TOKENS);
  let generator: Generator | undefined;
  return {
    async sample(theta) {
      const adapter = adapterOf(theta);
      if (generator) await generator.useAdapter(adapter);
      else generator = await openGenerator(base, { ...options, adapter });
      const texts: string[] = [];
      const prompts: EncodedPrompt[] = [];
      for (const { prompt, images: own } of split) {
        prompts.push({ ids: prompt, images: await Promise.all(own.map(({ image }) => images.imageOf(image))) });
      }
      for await (const event of generator.generate(prompts, { maxNewTokens })) {
        if (event.type === "done") texts[event.row] = event.text;
      }
      const tokenizer = await base.tokenizer();
      return split.map(({ prompt, expected, images: own }, i) => ({
        prompt: promptText(tokenizer, prompt, own).slice(-MAX_TEXT_CHARS),
        expected: tokenizer.decode(expected, { skipSpecialTokens: true }).slice(0, MAX_TEXT_CHARS),
        text: texts[i]!.slice(0, MAX_TEXT_CHARS),
      }));
    },
    close: async () => generator?.close(),
  };
}

/** An example where its last answer begins; where every token is a target (a text), in its middle. */
export function splitExample({ ids, labels }: Example): { prompt: Int32Array; expected: Int32Array } {
  let end = labels.length;
  while (end > 0 && labels[end - 1] === IGNORE) end--;
  let start = end;
  while (start > 0 && labels[start - 1] !== IGNORE) start--;
  const border = start > 1 ? start : Math.ceil(ids.length / 2);
  return { prompt: ids.slice(0, border), expected: ids.slice(border, end) };
}

/** The text of a prompt, with a note in the place of each image. */
function promptText(tokenizer: Tokenizer, prompt: Int32Array, images: readonly ImageSpan[]): string {
  let text = "";
  let from = 0;
  for (const span of images) {
    text += tokenizer.decode(prompt.subarray(from, span.from)) + imageNote(span);
    from = span.to;
  }
  return text + tokenizer.decode(prompt.subarray(from));
}
