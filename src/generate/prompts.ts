// What generation continues: texts, conversations and ids, with images or without, on their way to ids.
import { LowrankError } from "../errors.ts";
import type { ProcessedImage } from "../images/processor.ts";
import type { TextBase } from "../models/base.ts";
import type { ImageText } from "../models/images.ts";
import { illustrated } from "../multimodal/conversation.ts";
import { encodeWithImages } from "../multimodal/expand.ts";
import { type ImageReference, type ImageSide, noImages } from "../multimodal/images.ts";
import { imagePartsOf } from "../text/parts.ts";
import { type ChatMessage, limitedRendering, renderChat } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/**
 * A text that is continued, and its images: each in the place of an image token of the text, or all before it if it has none.
 * Or a conversation and the images of its parts that name none; without any such part they come before the first question.
 */
export type ImagePrompt =
  | { text: string; images: readonly ImageReference[] }
  | { messages: readonly ChatMessage[]; images: readonly ImageReference[] };

/** Ids with the tokens of the images among them. */
export interface EncodedPrompt {
  ids: Int32Array;
  images: readonly ProcessedImage[];
}

/** Text that is continued as it stands, the messages of a conversation that is answered, token ids, or any of them with images. */
export type Prompt = string | readonly ChatMessage[] | Int32Array | ImagePrompt | EncodedPrompt;

/**
 * The ids and the images of a prompt; `side` is the model's, null if it reads none. Fails with `generate/no-template` on a
 * conversation where the checkpoint has no chat template, with `model/no-images` on images where the model reads none, with
 * `data/image-count` where there are more or fewer than the text has places for, and with `image/…` on what is none.
 */
export async function encodePrompt(
  base: TextBase,
  tokenizer: Tokenizer,
  side: ImageSide | null,
  prompt: Prompt,
): Promise<EncodedPrompt> {
  if (prompt instanceof Int32Array) return { ids: prompt, images: [] };
  if (typeof prompt === "string") return { ids: tokenizer.encode(prompt), images: [] };
  if ("ids" in prompt) return prompt;
  if ("text" in prompt) {
    if (prompt.images.length === 0) return { ids: tokenizer.encode(prompt.text), images: [] };
    if (!side) throw noImages(base);
    const images = await preparedBy(side, prompt.images);
    const { token } = side.text;
    const text = prompt.text.includes(token) ? prompt.text : token.repeat(images.length) + prompt.text;
    return { ids: encodeWithImages(tokenizer, side.text, text, [], images).ids, images };
  }
  const given = "messages" in prompt ? prompt : { messages: prompt, images: [] };
  if (!side) {
    if (given.images.length > 0 || imagePartsOf(given.messages).length > 0) throw noImages(base);
    return { ids: encodeChat(tokenizer, given.messages), images: [] };
  }
  const { messages, images: references } = illustrated(given.messages, given.images, side.text.token);
  const images = await preparedBy(side, references);
  return { ids: encodeChat(tokenizer, messages, { text: side.text, images }), images };
}

/** One by one, so that no more than one decoded image is held. */
async function preparedBy(side: ImageSide, references: readonly ImageReference[]): Promise<ProcessedImage[]> {
  const images: ProcessedImage[] = [];
  for (const reference of references) images.push(await side.prepare(reference));
  return images;
}

/**
 * The ids of a conversation up to the header of the answer. The template writes its special tokens itself; in front of that of
 * a model that reads images (`side`) come the tokenizer's, as `encodeWithImages` says. Fails with `generate/no-template` where
 * the checkpoint has none, and with the template's own errors.
 */
export function encodeChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  side?: { text: ImageText; images: readonly ProcessedImage[] },
): Int32Array {
  if (!tokenizer.template) {
    throw new LowrankError("generate/no-template", "the checkpoint has no chat template", {
      subject: "messages",
      expected: "chat_template in tokenizer_config.json, or chat_template.jinja",
      next: "Give the prompt as text, or use an instruction-tuned checkpoint.",
    });
  }
  const { template } = tokenizer;
  const text = limitedRendering(tokenizer, template, messages, () =>
    renderChat(template, messages, { addGenerationPrompt: true }),
  );
  if (!side) return tokenizer.encode(text, { addSpecialTokens: false });
  return encodeWithImages(tokenizer, side.text, text, [], side.images).ids;
}
