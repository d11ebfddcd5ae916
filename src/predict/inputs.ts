// From texts and images to rows of a model's output: batches of texts of like length, images prepared while the engine works.
import { LowrankError } from "../errors.ts";
import { readImage } from "../images/image.ts";
import { type ImageProcessor, loadImageProcessor } from "../images/processor.ts";
import type { AnyBase } from "../models/base.ts";
import { pixelShape } from "../models/registry.ts";
import { paddingOf, textFeeds, wholeImages } from "../tasks/common/record-data.ts";
import type { Classifying } from "../tasks/task.ts";
import { type EncodedPair, encodePair } from "../text/pairs.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { TaskModel } from "./task-model.ts";
import type { ClassifierInput, ImageInput, Outputs, PredictorOptions, TextInput } from "./types.ts";

/** Texts of a batch, and the tokens that they may have with their padding. */
const BATCH_TEXTS = 32;
const BATCH_TOKENS = 4096;
/** Images of a batch. They are decoded as their batch comes, the next one while the engine works on this. */
const BATCH_IMAGES = 8;

/** Runs texts or images through a model. */
type Runner<Input> = (output: string, inputs: readonly Input[]) => Promise<Outputs>;

/** Texts for `model`, encoded by `encode` where it is given; the tokenizer is read at the first. Throws `predict/*`, `tokenizer/*`. */
export function textRunner(base: AnyBase, model: TaskModel, encode?: Classifying["encode"]): Runner<TextInput> {
  return async (output, texts) => {
    const tokenizer = await base.tokenizer();
    const { vocabSize, maxPositions, maxTokens } = model.config();
    const longest = Math.min(maxTokens ?? maxPositions, maxPositions);
    const encoded = texts.map((given, i) => {
      const { text, textPair = null } = typeof given === "string" ? { text: given } : given;
      checkText(text, i);
      if (encode && textPair !== null) throw otherKind(i, "a text", "two texts");
      const pair = encode?.(tokenizer, text, longest) ?? encodePair(tokenizer, text, textPair, longest);
      checkIds(pair, tokenizer, vocabSize, base.checkpoint.folder);
      return pair;
    });
    const padId = paddingOf(model.config(), tokenizer);
    // Where no padding is known, the end of a row would not be either.
    const most = model.config().padId === null && model.config().head === "sequence-classifier" ? 1 : BATCH_TEXTS;
    const rows: Float32Array[] = new Array(texts.length);
    const lengths = encoded.map(({ ids }) => ids.length);
    for (const batch of batches(lengths, most)) {
      const given = batch.map((i) => ({ ids: encoded[i]!.ids, starts: [encoded[i]!.second] }));
      const found = rowsIn(await model.run(output, textFeeds(given, padId)), batch.length);
      for (const [row, i] of batch.entries()) rows[i] = found[row]!;
    }
    return { rows, cut: encoded.map(({ cut }) => cut), encoded };
  };
}

/** An output of so many rows, each by itself. */
export function rowsIn(data: Float32Array, count: number): Float32Array[] {
  const width = data.length / count;
  return Array.from({ length: count }, (_, row) => data.subarray(row * width, (row + 1) * width));
}

/** Rows in batches, the shortest first, so that little is padded. */
function batches(lengths: readonly number[], most: number): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[a]! - lengths[b]! || a - b);
  const found: number[][] = [];
  for (const i of order) {
    const last = found.at(-1);
    const isFull = !last || last.length >= most || (last.length + 1) * lengths[i]! > BATCH_TOKENS;
    if (isFull) found.push([i]);
    else last.push(i);
  }
  return found;
}

function checkText(text: unknown, index: number): void {
  if (typeof text === "string" && text.trim() !== "") return;
  throw new LowrankError("predict/empty-text", "the text is empty", {
    subject: `text ${index + 1}`,
    expected: "a text that is not empty",
    got: typeof text === "string" ? JSON.stringify(text.slice(0, 20)) : typeof text,
    next: "Leave it out.",
  });
}

function checkIds({ ids }: EncodedPair, { padId }: Tokenizer, vocabSize: number, subject: string): void {
  const id = ids.find((one) => one >= vocabSize);
  if (id === undefined && ids.length > 0) return;
  throw new LowrankError("predict/vocabulary", "the tokenizer does not fit the model", {
    subject,
    expected: `at least one token, and ids below ${vocabSize}, the vocab_size of config.json`,
    got: id === undefined ? `no token, with padding ${padId}` : `the id ${id}`,
    next: "Use the tokenizer files that belong to this checkpoint.",
  });
}

/** Images for `model`; how they are prepared is read at the first. Throws `image/*` that names the file. */
export function imageRunner(base: AnyBase, model: TaskModel, { files, decodeImage }: PredictorOptions): Runner<ImageInput> {
  let loading: Promise<ImageProcessor> | undefined;
  return async (output, images) => {
    loading ??= loadImageProcessor(files, base.checkpoint.folder, pixelShape(model.config())!);
    const processor = await loading;
    const prepare = async (given: ImageInput) => {
      const image = typeof given === "string" ? await readImage(files, decodeImage, given) : given;
      return [processor.process(image)];
    };
    const feedsOf = async (from: number) => {
      const examples = await Promise.all(images.slice(from, from + BATCH_IMAGES).map(prepare));
      return { pixelValues: wholeImages(processor.stack(examples).pixelValues) };
    };
    const rows: Float32Array[] = [];
    let next = images.length > 0 ? feedsOf(0) : undefined;
    for (let from = 0; next; from += BATCH_IMAGES) {
      const feeds = await next;
      next = from + BATCH_IMAGES < images.length ? feedsOf(from + BATCH_IMAGES) : undefined;
      next?.catch(() => {}); // it is waited for in the next round; where this one fails nobody waits
      rows.push(...rowsIn(await model.run(output, feeds), feeds.pixelValues.shape[0]!));
    }
    return { rows, cut: images.map(() => false) };
  };
}

/** An input that has to be a text. */
export function asText(input: ClassifierInput, index: number): TextInput {
  if (typeof input === "string" || "text" in input) return input;
  throw otherKind(index, "a text, or {text, textPair}", "an image");
}

/** An input that has to be an image. */
export function asImage(input: ClassifierInput, index: number): ImageInput {
  if (typeof input === "string" || "data" in input) return input;
  throw otherKind(index, "the path of an image, or an image", "a text");
}

const otherKind = (index: number, expected: string, got: string): LowrankError =>
  new LowrankError("predict/input", "the model reads something else", {
    subject: `input ${index + 1}`,
    expected,
    got,
    next: "Give it what it reads, or use another model.",
  });
