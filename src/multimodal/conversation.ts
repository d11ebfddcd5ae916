// Which images a conversation has, and where: parts that name a file, parts without that take listed ones, or a list alone, as in
// Transformers' processors and TRL's data sets with images.
import { LowrankError } from "../errors.ts";
import { imagePath } from "../images/image.ts";
import type { ContentPart, ImagePart } from "../text/parts.ts";
import { imagePartsOf, textOf } from "../text/parts.ts";
import type { ChatMessage } from "../text/template.ts";
import type { ImageReference } from "./images.ts";

/**
 * Messages whose every image has its place, and the images in order. A part that names none takes the next of `listed`. Where no message has a part or
 * an image `token`, the listed ones come before the text of the first turn of the user, as in TRL.
 * Fails with `data/image-count` if parts and listed images are not as many.
 */
export function illustrated(
  messages: readonly ChatMessage[],
  listed: readonly ImageReference[],
  token: string,
): { messages: readonly ChatMessage[]; images: ImageReference[] } {
  const parts = imagePartsOf(messages);
  if (parts.length === 0) {
    const placed = listed.length === 0 || messages.some(({ content }) => textOf(content).includes(token));
    return { messages: placed ? messages : withImagesFirst(messages, listed.length), images: [...listed] };
  }
  const own = parts.map(referenceOf);
  const open = own.filter((reference) => reference === undefined).length;
  if (open !== listed.length) {
    throw new LowrankError("data/image-count", "the conversation has another number of images than are listed", {
      expected: `${listed.length} parts of the type image that name none`,
      got: `${open}`,
      next: "List an image for each such part, in order, or name each part's image in it.",
    });
  }
  const rest = [...listed];
  return { messages, images: own.map((reference) => reference ?? rest.shift()!) };
}

/** Messages whose images are named relative to `folder`, with paths as `imagePath` gives them; `subject` is where they stand. */
export const locatedIn = (folder: string | null, messages: readonly ChatMessage[], subject?: string): ChatMessage[] =>
  messages.map((message) => {
    if (!Array.isArray(message.content)) return message;
    const content = (message.content as readonly ContentPart[]).map((part): ContentPart => {
      const given = part.type === "image" ? referenceOf(part) : undefined;
      return typeof given === "string" ? { type: "image", image: imagePath(given, folder, subject) } : part;
    });
    return { ...message, content };
  });

/** What an image part names, if it names something. Fails with `data/value` if that is neither a path nor an image. */
function referenceOf({ image, path, url }: ImagePart): ImageReference | undefined {
  const given: unknown = image ?? path ?? url;
  if (given === undefined || typeof given === "string" || isImage(given)) return given;
  throw new LowrankError("data/value", "an image part names no image", {
    expected: "the path of a file, or an image as readImage gives it",
    got: typeof given,
    next: "Write the image's path under image, or list the images beside the messages.",
  });
}

const isImage = (value: unknown): value is Exclude<ImageReference, string> =>
  typeof value === "object" && value !== null && "data" in value && value.data instanceof Uint8Array && "channels" in value;

function withImagesFirst(messages: readonly ChatMessage[], count: number): ChatMessage[] {
  const first = messages.findIndex(({ role }) => role === "user");
  const images = Array.from({ length: count }, (): ContentPart => ({ type: "image" }));
  return messages.map((message, i) => {
    if (i !== first) return message;
    const { content } = message;
    const own: readonly ContentPart[] = typeof content === "string" ? [{ type: "text", text: content }] : content;
    return { ...message, content: [...images, ...own] };
  });
}
