// Where the tokens of images are in an example, for those who look at it: previews and samples.
import type { RecordImages } from "./record-images.ts";
import type { Example } from "./types.ts";

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
