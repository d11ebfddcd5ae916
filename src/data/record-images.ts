// The images of a language model's records: read into a store, in the order of their places in the text, and where their tokens are.
import type { LowrankError } from "../errors.ts";
import type { ImageText } from "../models/images.ts";
import { illustrated } from "../multimodal/conversation.ts";
import { imagePartsOf } from "../text/parts.ts";
import { withPlace } from "./examples.ts";
import { addImage, type ImageStore } from "./images.ts";
import type { DataRecord, NumberedRecord } from "./records.ts";
import type { Example } from "./types.ts";

/** How the images of records stand in their texts, and where they are. */
export interface RecordImages {
  text: ImageText;
  store: ImageStore;
}

/** The records of the file `source` with their images in the store. Fails with `image/…` and `data/image-count`, and the place. */
export async function* withImages(
  records: AsyncIterable<NumberedRecord>,
  { text, store }: RecordImages,
  source: string,
): AsyncGenerator<NumberedRecord, void, void> {
  for await (const { record, place } of records) {
    try {
      yield { place, ...(await read(record, text.token, store)) };
    } catch (error) {
      throw withPlace(error, `${source}, ${place}`);
    }
  }
}

async function read(record: DataRecord, token: string, store: ImageStore): Promise<Omit<NumberedRecord, "place">> {
  const listed = record.images ?? [];
  const numbersOf = (paths: readonly string[]) => Promise.all(paths.map((path) => addImage(store, path)));
  if ("messages" in record) {
    const { messages, images } = illustrated(record.messages, listed, token);
    const paths = images as string[];
    return { record: { messages: [...messages], ...(paths.length > 0 && { images: paths }) }, images: await numbersOf(paths) };
  }
  const images = await numbersOf(listed);
  const before = (start: string): string =>
    images.length === 0 || start.includes(token) ? start : token.repeat(images.length) + start;
  if ("text" in record) return { record: { ...record, text: before(record.text) }, images };
  return { record: { ...record, prompt: before(record.prompt) }, images };
}

/** The records of a base that reads no images: one with images is refused. */
export async function* withoutImages(
  records: AsyncIterable<NumberedRecord>,
  refusal: () => LowrankError,
  source: string,
): AsyncGenerator<NumberedRecord, void, void> {
  for await (const one of records) {
    const { record, place } = one;
    if (record.images || ("messages" in record && imagePartsOf(record.messages).length > 0))
      throw withPlace(refusal(), `${source}, ${place}`);
    yield one;
  }
}

/** From the first token of an image to behind its last one; those of its tiles' markers between them count. */
export interface ImageSpan {
  from: number;
  to: number;
  /** The number of the image in the store, and its file. */
  image: number;
  path: string;
}

/** The spans of an example's images, in order. Every tile has as many tokens. */
export function imageSpansOf({ ids, images = [] }: Pick<Example, "ids" | "images">, { text, store }: RecordImages): ImageSpan[] {
  const places = [...ids.keys()].filter((at) => ids[at] === text.id);
  const tiles = images.map((image) => store.gridOf(image).tiles);
  const perTile = places.length / tiles.reduce((sum, count) => sum + count, 0);
  let done = 0;
  return images.map((image, i) => {
    const [first, last] = [done * perTile, (done + tiles[i]!) * perTile - 1];
    done += tiles[i]!;
    return { from: places[first]!, to: places[last]! + 1, image, path: store.pathOf(image) };
  });
}

/** What a person is shown in the place of an image's tokens. */
export const imageNote = ({ from, to, path }: ImageSpan): string => `[image ${path.split(/[\\/]/).at(-1)}, ${to - from} tokens]`;
