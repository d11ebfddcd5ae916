// Drawings of one shape in one colour at one place, and what each language says of them: data that some of the examples make.
import { mkdirSync } from "node:fs";
import sharp from "sharp";

export const words = {
  English: {
    shapes: ["circle", "square", "triangle", "diamond"],
    colours: ["red", "green", "blue", "yellow"],
    places: ["on the left", "on the right", "at the top", "at the bottom"],
    caption: (shape: string, colour: string, place: string) => `a ${colour} ${shape} ${place}`,
  },
  Spanish: {
    shapes: ["circulo", "cuadrado", "triangulo", "rombo"],
    colours: ["rojo", "verde", "azul", "amarillo"],
    places: ["a la izquierda", "a la derecha", "arriba", "abajo"],
    caption: (shape: string, colour: string, place: string) => `un ${shape} ${colour} ${place}`,
  },
};
export type Language = keyof typeof words;

/** Pixels of an edge. */
export const SIDE = 16;
const inks = ["#d02020", "#20a030", "#2040d0", "#e0c010"];
const centres = [
  [4.5, 8],
  [11.5, 8],
  [8, 4.5],
  [8, 11.5],
] as const;
const outlines: ((x: number, y: number, r: number) => string)[] = [
  (x, y, r) => `<circle cx="${x}" cy="${y}" r="${r}"/>`,
  (x, y, r) => `<rect x="${x - r}" y="${y - r}" width="${2 * r}" height="${2 * r}"/>`,
  (x, y, r) => `<polygon points="${x},${y - r} ${x + r},${y + r} ${x - r},${y + r}"/>`,
  (x, y, r) => `<polygon points="${x},${y - r} ${x + r},${y} ${x},${y + r} ${x - r},${y}"/>`,
];

export interface Drawing {
  /** Relative to the folder. */
  file: string;
  /** Which of the shapes, the colours and the places. */
  of: [shape: number, colour: number, place: number];
}

/** Draws every shape in every colour at every place `each` times into `folder`/drawings, none like another in size and position. */
export async function drawings(folder: string, part: "train" | "test", each: number): Promise<Drawing[]> {
  mkdirSync(`${folder}/drawings`, { recursive: true });
  const all: Drawing[] = [];
  for (let i = 0; i < 64 * each; i++) {
    const of: Drawing["of"] = [i % 4, Math.floor(i / 4) % 4, Math.floor(i / 16) % 4];
    const [shape, colour, place] = of;
    // Steps of irrational numbers fill a square evenly.
    const shift = (step: number) => ((i + (part === "train" ? 0 : 0.5)) * step) % 1;
    const [x, y] = [centres[place]![0] + 2 * shift(Math.SQRT2) - 1, centres[place]![1] + 2 * shift(Math.E) - 1];
    const shapeText = outlines[shape]!(x, y, 3 + shift(Math.PI));
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${SIDE}" height="${SIDE}"><rect width="100%" height="100%" fill="white"/><g fill="${inks[colour]}">${shapeText}</g></svg>`;
    const file = `drawings/${part}-${i}.png`;
    await sharp(Buffer.from(svg)).png().toFile(`${folder}/${file}`);
    all.push({ file, of });
  }
  return all;
}

export const captionOf = (language: Language, [shape, colour, place]: Drawing["of"]): string => {
  const { shapes, colours, places, caption } = words[language];
  return caption(shapes[shape]!, colours[colour]!, places[place]!);
};

/** The preprocessor_config.json of a model that reads such drawings as they are. */
export const processor = {
  image_processor_type: "CLIPImageProcessor",
  do_resize: true,
  size: { height: SIDE, width: SIDE },
  do_center_crop: false,
  do_rescale: true,
  do_normalize: true,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
};
