// Images in a rendered text: each image's token becomes what the family's processor writes for it, and spans move along
// (get_text_with_replacements in Transformers' processing_utils.py).
import { LowrankError } from "../errors.ts";
import type { ImageGrid, ImageText } from "../models/images.ts";
import { encodeSpans } from "../text/mask.ts";
import { specialPrefix, type Tokenizer } from "../text/tokenizer.ts";
import type { Span } from "../text/turns.ts";

/**
 * The ids of a text with images, and of each token whether it is in one of `spans` (ascending, not overlapping, as
 * `renderWithMask` finds them); tokens of images never are. In front are the tokenizer's special tokens, unless the text
 * begins with its BOS, as in Transformers' processors. Fails with `data/image-count` unless `text` has the image token once for
 * each of `grids`.
 */
export function encodeWithImages(
  tokenizer: Tokenizer,
  images: ImageText,
  text: string,
  spans: readonly Span[],
  grids: readonly ImageGrid[],
): { ids: Int32Array; inside: Uint8Array } {
  const written = writeImages(images, text, spans, grids);
  const bos = tokenizer.bosId === undefined ? undefined : tokenizer.idToToken(tokenizer.bosId);
  const prefix = bos && text.startsWith(bos) ? [] : specialPrefix(tokenizer);
  const { ids, inside } = encodeSpans(tokenizer, written.text, written.spans);
  return { ids: Int32Array.from([...prefix, ...ids]), inside: Uint8Array.from([...prefix.map(() => 0), ...inside]) };
}

/** The text with its images written out, and the spans of it that `spans` were, without the images in them. */
function writeImages(
  { token, written }: ImageText,
  text: string,
  spans: readonly Span[],
  grids: readonly ImageGrid[],
): { text: string; spans: Span[] } {
  const pieces = text.split(token);
  if (pieces.length - 1 !== grids.length) {
    throw new LowrankError("data/image-count", "the text's image tokens do not match the given images", {
      expected: `${token} once for each of ${grids.length} ${grids.length === 1 ? "image" : "images"}`,
      got: `${pieces.length - 1}`,
      next: `Give as many images as the text has places for, in their order, and write none of the model's image tokens as text. A chat template has to write ${token} for each part of the type image.`,
    });
  }
  let out = pieces[0]!;
  /** Where the text between images lies, before and after. */
  const places = [{ from: 0, to: 0, length: out.length }];
  let from = out.length;
  for (const [i, grid] of grids.entries()) {
    const next = pieces[i + 1]!;
    // what follows begins with the next image's token where two images are neighbours
    out += written(grid, out, next === "" && i + 1 < grids.length ? token : next);
    from += token.length;
    places.push({ from, to: out.length, length: next.length });
    from += next.length;
    out += next;
  }
  const moved = spans.flatMap(([start, end]) =>
    places.flatMap(({ from, to, length }): Span[] => {
      const [first, last] = [Math.max(start, from), Math.min(end, from + length)];
      return first < last ? [[to + first - from, to + last - from]] : [];
    }),
  );
  return { text: out, spans: moved };
}
