// A classifier of images: a small ViT learns handwritten digits from nothing, then, by LoRA, the same digits as negatives that lie on
// their side. The digits are those of examples/data.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { evaluate, finetune, initModel, readImage } from "lowrank";
import sharp from "sharp";

const folder = "example-output/image-classification";
rmSync(folder, { recursive: true, force: true });

/** Row d of the sheet has images of digit d, 8 × 8 pixels each. */
const SIDE = 8;
const sheet = await readImage("examples/data/digits.png");
const perDigit = sheet.width / SIDE;
/** The last so many of each digit are kept to test on. */
const HELD = 40;

type Pixel = (x: number, y: number) => number;
const domains: Record<string, (upright: Pixel) => Pixel> = {
  upright: (pixel) => pixel,
  turned: (pixel) => (x, y) => 255 - pixel(y, SIDE - 1 - x),
};

/** Writes the digits of a domain as `<domain>/train/<digit>/<number>.png` and `<domain>/test/…`: a folder for each class. */
for (const [domain, view] of Object.entries(domains)) {
  for (let digit = 0; digit < 10; digit++) {
    for (const part of ["train", "test"]) mkdirSync(`${folder}/${domain}/${part}/${digit}`, { recursive: true });
    for (let i = 0; i < perDigit; i++) {
      const pixel = view((x, y) => sheet.data[3 * ((digit * SIDE + y) * sheet.width + i * SIDE + x)]!);
      const pixels = Uint8Array.from({ length: SIDE * SIDE }, (_, at) => pixel(at % SIDE, Math.floor(at / SIDE)));
      const part = i < perDigit - HELD ? "train" : "test";
      const file = `${folder}/${domain}/${part}/${digit}/${String(i).padStart(3, "0")}.png`;
      await sharp(pixels, { raw: { width: SIDE, height: SIDE, channels: 1 } })
        .png()
        .toFile(file);
    }
  }
}

const base = `${folder}/base`;
const classes = [..."0123456789"];
const processor = {
  image_processor_type: "ViTImageProcessor",
  do_resize: true,
  size: { height: SIDE, width: SIDE },
  do_rescale: true,
  do_normalize: true,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
};
await initModel(
  {
    model_type: "vit",
    architectures: ["ViTForImageClassification"],
    image_size: SIDE,
    patch_size: 2,
    hidden_size: 48,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    intermediate_size: 96,
    hidden_dropout_prob: 0,
    attention_probs_dropout_prob: 0,
    id2label: Object.fromEntries(classes.entries()),
  },
  `${folder}/untrained`,
);
writeFileSync(`${folder}/untrained/preprocessor_config.json`, JSON.stringify(processor));

/** Trains, and says now and then how far it is. */
async function train(options: Parameters<typeof finetune>[0]): Promise<void> {
  for await (const event of finetune(options)) {
    if (event.type === "step" && event.step % 50 === 0) console.log(`  step ${event.step}: loss ${event.loss.toFixed(3)}`);
  }
}

console.log("Every weight, on upright digits:");
const common = { batchSize: 48, seed: 1, schedule: "cosine", warmup: 0.1 } as const;
await train({
  ...common,
  base: `${folder}/untrained`,
  data: `${folder}/upright/train`,
  output: base,
  method: "full",
  steps: 300,
  learningRate: 3e-3,
});

console.log("LoRA, on digits turned and inverted:");
const adapter = `${folder}/adapter`;
await train({
  ...common,
  base,
  data: `${folder}/turned/train`,
  output: adapter,
  rank: 8,
  steps: 220,
  learningRate: 1e-2,
});

const task = "image-classification";
const upright = await evaluate({ task, base, data: `${folder}/upright/test` });
const turned = await evaluate({ task, base, adapter, data: `${folder}/turned/test` });
const [before, after] = [turned.base!.accuracy, turned.adapter!.accuracy];
const rows = [
  ["upright, base", upright.base!.accuracy],
  ["turned, base", before],
  ["turned, base + adapter", after],
] as const;
console.log(`\ntest images classified correctly, of ${10 * HELD}`);
for (const [what, share] of rows) console.log(`${what.padEnd(24)} ${(100 * share).toFixed(1).padStart(5)}%`);
if (!(after > before + 0.4)) throw new Error("not learnt: digits turned and inverted");
