// Images and texts compared: a small CLIP learns from nothing which English caption belongs to which drawing, then, by LoRA, Spanish
// captions. The drawings are made here.
import { rmSync, writeFileSync } from "node:fs";
import { evaluate, finetune, initModel, openClassifier } from "lowrank";
import { captionOf, type Drawing, drawings, type Language, processor, SIDE, words } from "./common/drawings.ts";
import { wordPieces } from "./common/word-pieces.ts";

const folder = "example-output/contrastive";
rmSync(folder, { recursive: true, force: true });

const [training, testing] = [await drawings(folder, "train", 8), await drawings(folder, "test", 1)];

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
const tokenizer = wordPieces(vocabulary, special, { type: "Lowercase" });
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

/** How often a shape is classified by its word in a caption: the mean of the captions of all colours and places counts. */
async function zeroShot(language: Language, adapter?: string): Promise<number> {
  const { shapes, colours, places, caption } = words[language];
  const template = colours.flatMap((colour) => places.map((place) => caption("{}", colour, place)));
  const classifier = await openClassifier(base, { adapter });
  const result = await classifier.classify(images, { labels: shapes, template });
  await classifier.close();
  return result.filter(({ scores }, i) => scores[0]!.label === shapes[testing[i]!.of[0]]).length / result.length;
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
  throw new Error("not learnt: the Spanish captions");
}
