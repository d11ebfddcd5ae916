// Makes examples/data/digits.png from scikit-learn's digits.csv.gz (sklearn/datasets/data in its package): row d has images of digit d.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import sharp from "sharp";

const [source] = process.argv.slice(2);
if (!source) throw new Error("usage: node scripts/run.mjs scripts/make-digits.ts digits.csv.gz");

const SIDE = 8;
const rows = gunzipSync(readFileSync(source))
  .toString("utf8")
  .trim()
  .split("\n")
  .map((line) => line.split(",").map(Number));
const digits = Array.from({ length: 10 }, (_, digit) => rows.filter((row) => row[SIDE * SIDE] === digit));
const count = Math.min(...digits.map((images) => images.length));
const width = SIDE * count;
const pixels = new Uint8Array(width * SIDE * digits.length);
for (const [digit, images] of digits.entries()) {
  for (const [i, image] of images.slice(0, count).entries()) {
    for (let at = 0; at < SIDE * SIDE; at++) {
      const y = digit * SIDE + Math.floor(at / SIDE);
      pixels[y * width + i * SIDE + (at % SIDE)] = Math.min(255, image[at]! * 16);
    }
  }
}
const sheet = sharp(pixels, { raw: { width, height: SIDE * digits.length, channels: 1 } });
await sheet.png({ compressionLevel: 9, palette: true, colours: 17 }).toFile("examples/data/digits.png");
