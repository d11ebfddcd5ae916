// The content of a chat message: a text, or texts and images one after another, as Transformers' processors take them.
import { LowrankError, valueText } from "../errors.ts";

/** An image in a message. Where it is, one of these says; none of them where the images are listed beside the messages. */
export interface ImagePart {
  type: "image";
  /** A file's path, or an image in memory. */
  image?: unknown;
  path?: string;
  url?: string;
}
export type ContentPart = { type: "text"; text: string } | ImagePart;
export type Content = string | readonly ContentPart[];

/** Most parts of a message. */
export const MAX_PARTS = 4096;

/** The texts of a content, without its images. */
export const textOf = (content: Content): string =>
  typeof content === "string" ? content : content.map((part) => (part.type === "text" ? part.text : "")).join("");

/** The images of messages, in order. */
export const imagePartsOf = (messages: readonly { content: Content }[]): ImagePart[] =>
  messages.flatMap(({ content }) => (typeof content === "string" ? [] : content.filter((part) => part.type === "image")));

/**
 * A value as the content of a message: a string, or a list of {type: "text", text} and {type: "image"}; OpenAI's
 * {type: "image_url"} becomes the latter, and keys that are null count as absent. Fails with `data/value`: `key` is what the
 * error calls the value, `subject` where it is.
 */
export function contentIn(value: unknown, key: string, subject: string): Content {
  if (typeof value === "string") return value;
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_PARTS) {
    throw wrongPart(key, `a string, or a list of 1 to ${MAX_PARTS} parts`, value, subject);
  }
  return value.map((part: unknown, i) => partIn(part, `${key}[${i}]`, subject));
}

function partIn(value: unknown, key: string, subject: string): ContentPart {
  if (typeof value !== "object" || value === null) throw wrongPart(key, "an object {type, …}", value, subject);
  const { type, text, image, path, url, image_url: linked } = value as Record<string, unknown>;
  if (type === "text") {
    if (typeof text !== "string") throw wrongPart(`${key}.text`, "a string", text, subject);
    return { type, text };
  }
  if (type === "image") return imagePart({ image, path, url });
  if (type === "image_url") return imagePart({ url: (linked as { url?: unknown } | null | undefined)?.url ?? linked });
  throw wrongPart(`${key}.type`, '"text" or "image"', type, subject);
}

function imagePart(given: Record<string, unknown>): ImagePart {
  const present = Object.entries(given).filter(([, value]) => (value ?? null) !== null);
  return { type: "image", ...Object.fromEntries(present) };
}

const wrongPart = (key: string, expected: string, value: unknown, subject: string): LowrankError =>
  wrongValue(key, expected, valueText(value).slice(0, 80), subject);

/** The error for a value of a record, under `key`, that is not what is expected. */
export const wrongValue = (key: string, expected: string, got: string, subject: string): LowrankError =>
  new LowrankError("data/value", `${key} cannot be used`, { subject, expected, got, next: "correct the record, or remove it" });
