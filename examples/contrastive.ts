// Images and texts compared: a small CLIP learns from nothing which English caption belongs to which drawing, then, by LoRA, Spanish
// captions. The drawings are made here.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { evaluate, finetune, initModel, openClassifier } from "lowrank";
import sharp from "sharp";

const folder = "example-output/contrastive";
rmSync(folder, { recursive: true, force: true });
mkdirSync(`${folder}/drawings`, { recursive: true });

/** What is drawn, and how each language says it. */
const words = {
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
type Language = keyof typeof words;

const SIDE = 16;
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
interface Drawing {
  file: string;
  /** Which of the shapes, the colours and the places. */
  of: [shape: number, colour: number, place: number];
}

/** A few drawings of every shape in every colour at every place, none like another in size and position. */
async function drawings(part: string, each: number): Promise<Drawing[]> {
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
const [training, testing] = [await drawings("train", 8), await drawings("test", 1)];

const captionOf = (language: Language, [shape, colour, place]: Drawing["of"]): string => {
  const { shapes, colours, places, caption } = words[language];
  return caption(shapes[shape]!, colours[colour]!, places[place]!);
};

/** Captions beside drawings, as imagefolder's metadata has them: {file_name, text}. */
function captioned(language: Language, part: string, drawings: readonly Drawing[]): string {
  const file = `${folder}/${language}-${part}.jsonl`;
  const line = ({ file, of }: Drawing) => `${JSON.stringify({ file_name: file, text: captionOf(language, of) })}\n`;
  writeFileSync(file, drawings.map(line).join(""));
  return file;
}

/** Every word of both languages is a token. */
const special = ["[PAD]", "[UNK]", "<|startoftext|>", "<|endoftext|>"];
const captions = (["English", "Spanish"] as const).flatMap((language) => testing.map(({ of }) => captionOf(language, of)));
const vocabulary = [...special, ...new Set(captions.join(" ").split(" "))];
const tokenizer = {
  version: "1.0",
  added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer: { type: "Lowercase" },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: { type: "BertProcessing", cls: ["<|startoftext|>", 2], sep: ["<|endoftext|>", 3] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
  },
};
const processor = {
  image_processor_type: "CLIPImageProcessor",
  do_resize: true,
  size: { height: SIDE, width: SIDE },
  do_center_crop: false,
  do_rescale: true,
  do_normalize: true,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
};
const untrained = `${folder}/untrained`;
const tower = { hidden_size: 48, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 96, initializer_range: 0.1 };
await initModel(
  {
    model_type: "clip",
    projection_dim: 32,
    initializer_range: 0.1,
    text_config: {
      ...tower,
      vocab_size: vocabulary.length,
      max_position_embeddings: 12,
      pad_token_id: 0,
      bos_token_id: 2,
      eos_token_id: 3,
    },
    vision_config: { ...tower, image_size: SIDE, patch_size: 4 },
  },
  untrained,
);
const sideFiles = {
  "tokenizer.json": tokenizer,
  "tokenizer_config.json": { tokenizer_class: "CLIPTokenizer", model_max_length: 12, pad_token: "[PAD]", unk_token: "[UNK]" },
  "preprocessor_config.json": processor,
};
for (const [name, content] of Object.entries(sideFiles)) writeFileSync(`${untrained}/${name}`, JSON.stringify(content));

/** Trains, and says now and then how far it is. */
async function train(options: Parameters<typeof finetune>[0]): Promise<void> {
  for await (const event of finetune(options)) {
    if (event.type === "step" && event.step % 50 === 0) console.log(`  step ${event.step}: loss ${event.loss.toFixed(3)}`);
  }
}

const base = `${folder}/base`;
const images = testing.map(({ file }) => `${folder}/${file}`);

/** How often a shape is told by its word in a caption: the mean of the captions of all colours and places counts. */
async function zeroShot(language: Language, adapter?: string): Promise<number> {
  const { shapes, colours, places, caption } = words[language];
  const template = colours.flatMap((colour) => places.map((place) => caption("{}", colour, place)));
  const classifier = await openClassifier(base, { adapter });
  const told = await classifier.classify(images, { labels: shapes, template });
  await classifier.close();
  return told.filter(({ scores }, i) => scores[0]!.label === shapes[testing[i]!.of[0]]).length / told.length;
}

console.log("Every weight, on English captions:");
const common = { batchSize: 32, seed: 1, schedule: "cosine", warmup: 0.1 } as const;
await train({
  ...common,
  base: untrained,
  data: captioned("English", "train", training),
  output: base,
  method: "full",
  steps: 300,
  learningRate: 2e-3,
});

console.log("LoRA, on Spanish captions:");
const adapter = `${folder}/adapter`;
await train({
  ...common,
  base,
  data: captioned("Spanish", "train", training),
  output: adapter,
  rank: 8,
  steps: 200,
  learningRate: 1e-2,
});

const task = "contrastive";
const english = await evaluate({ task, base, data: captioned("English", "test", testing) });
const spanish = await evaluate({ task, base, adapter, data: captioned("Spanish", "test", testing) });
const before = { recall: spanish.base.textToImage[1], zeroShot: await zeroShot("Spanish") };
const after = { recall: spanish.adapter!.textToImage[1], zeroShot: await zeroShot("Spanish", adapter) };
const rows = [
  ["English, base", { recall: english.base.textToImage[1], zeroShot: await zeroShot("English") }],
  ["Spanish, base", before],
  ["Spanish, base + adapter", after],
] as const;
console.log(`\n${testing.length} drawings, not trained on   recall@1  zero-shot`);
for (const [what, { recall, zeroShot }] of rows) {
  console.log(`${what.padEnd(30)} ${(100 * recall).toFixed(1).padStart(5)}% ${(100 * zeroShot).toFixed(1).padStart(8)}%`);
}
if (!(after.recall > before.recall + 0.3 && after.zeroShot > before.zeroShot + 0.2)) {
  throw new Error("the adapter did not learn the captions");
}
