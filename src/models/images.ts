// What decoders with images share: how features of images reach the tokens, and what the vision side of a family is.
import { type Dim, mulDims } from "../graph/dims.ts";
import type { Value } from "../graph/graph.ts";
import { less, sub, where } from "../graph/ops/elementwise.ts";
import { embedding, scatterAddRows } from "../graph/ops/indexing.ts";
import { constant, input } from "../graph/ops/leaves.ts";
import { broadcastTo, reshape } from "../graph/ops/shape.ts";
import type { Tensor } from "../tensor.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** What a decoder reads of its images. */
export interface ImageInputs {
  /** What the vision side makes of them: [image tokens, hidden]; where text attends to images, [batch, images·latents, width]. */
  features: Value;
  /** int32 [image tokens]: the row of [batch*seq, hidden] whose place each feature takes. */
  rows?: Value;
  /** int32 [batch, seq, images]: 1 where a token attends to an image. */
  seen?: Value;
}

/** Images as a processor makes them, under Transformers' names. */
export interface ImageTensors {
  /** float32; [images, channels, side, side], or [rows, images, …] with all-zero images up to the row with most. */
  pixelValues: Tensor;
  /** [rows, images, side, side], 1 where a pixel is no padding. */
  pixelAttentionMask?: Tensor;
  /** [rows, width, images], 1 where a token attends to an image. */
  imageAttentionMask?: Tensor;
}

/** The tokens that images stand among: [rows, width]. */
export interface ImageTokens {
  rows: number;
  width: number;
  inputIds: Int32Array;
}

/** How a processor split an image: 0 rows and 0 columns if it is whole. */
export interface ImageGrid {
  rows: number;
  columns: number;
}

/** How images stand in a text, as Transformers' processor of the family writes it. */
export interface ImageText {
  /** What a chat template writes for an image. */
  token: string;
  /** Its id: where the features of an image belong, or from where on text attends to it. */
  id: number;
  /** What the text has in the place of `token`. `before` is what comes before it, with its images written so; `after` what follows. */
  written(image: ImageGrid, before: string, after: string): string;
  /** Where text attends to images: of each of these ids the image that it attends to, counted from 0, or -1. */
  attended?(ids: Int32Array): Int32Array;
}

/** The vision side of a family `C`. */
export interface Vision<C> {
  /** Whether tokens attend to features; if not, features take the place of image tokens. */
  attends: boolean;
  /** Features that an image has, and the width of each. */
  features(c: C): { perImage: number; width: number };
  /** What `encode` reads, by name. */
  pixels(c: C): Record<string, Value>;
  /** From pixels to the features of ImageInputs. `unread`: see DecoderOutputs. */
  encode(c: C, pixels: Record<string, Value>): { features: Value; unread?: Value[] };
  /** Values for the inputs of `pixels` and `placed`; null stands for no image at all. Fails with `data/images`. */
  feeds(c: C, tokens: ImageTokens, images: ImageTensors | null): Record<string, Tensor>;
  /** How images stand in text. Fails with `data/image-token` if the tokenizer has no token for them. */
  text(c: C, tokenizer: Tokenizer): ImageText;
}

/** What a decoder reads of images with these features: the inputs `imageAttention` or `imageRows` say where they belong. */
export function placed({ attends }: Pick<Vision<never>, "attends">, features: Value): ImageInputs {
  return attends
    ? { features, seen: input("imageAttention", "int32", ["batch", "seq", "images"]) }
    : { features, rows: input("imageRows", "int32", [features.shape[0]!]) };
}

/** `placed` where the features are computed apart, and are the input `imageFeatures`. */
export function placedApart<C>(vision: Vision<C>, c: C): ImageInputs {
  const { perImage, width } = vision.features(c);
  const shape = vision.attends ? ["batch", mulDims("images", perImage), width] : ["imageTokens", width];
  return placed(vision, input("imageFeatures", "float32", shape));
}

/** x [n, dim] with the rows at int32 `rows` [r] replaced by those of `features` [r, dim]; no row twice. */
export function placeRows(x: Value, features: Value, rows: Value): Value {
  const [n] = x.shape as [Dim];
  const ones = broadcastTo(constant("float32", [], [1]), [rows.shape[0]!, 1]);
  const replaced = less(constant("float32", [], [0]), scatterAddRows(ones, rows, n)); // [n, 1]
  return where(replaced, scatterAddRows(features, rows, n), x);
}

/** The embedding of int32 ids [n] by two tables, each with its module's path: ids from the first one's length on are the second's. */
export function embeddingOfTwo(ids: Value, first: [Value, string], second: [Value, string]): Value {
  const length = constant("int32", [], [first[0].shape[0] as number]);
  const isFirst = less(ids, length);
  const zero = constant("int32", [], [0]);
  return where(
    reshape(isFirst, [ids.shape[0]!, 1]),
    embedding(where(isFirst, ids, zero), ...first),
    embedding(where(isFirst, zero, sub(ids, length)), ...second),
  );
}
