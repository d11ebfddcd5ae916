// node scripts/run.mjs bench/read-images.ts [small] [photos]: how long it takes to read images as training data: small PNGs, and photos of 12 megapixels.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import sharp from "sharp";
import { modelConfig } from "../src/models/registry.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { decodeImage } from "../src/platform/node/images.ts";
import { taskOf } from "../src/tasks/index.ts";

const [small = 2000, photos = 200] = process.argv.slice(2).map(Number);
const place = mkdtempSync(path.join(tmpdir(), "lowrank-images-"));

/** An image of noise that was made larger, which compresses about as photos do. */
function picture(width: number, height: number) {
  const [w, h] = [Math.ceil(width / 8), Math.ceil(height / 8)];
  const noise = Uint8Array.from({ length: 3 * w * h }, (_, i) => Math.imul(i, 2654435761) >>> 24);
  return sharp(noise, { raw: { width: w, height: h, channels: 3 } }).resize(width, height);
}

async function measure(what: string, count: number, name: string, image: Uint8Array): Promise<void> {
  const folder = `${place}/${name}`;
  for (const label of ["a", "b"]) mkdirSync(`${folder}/${label}`, { recursive: true });
  for (let i = 0; i < count; i++) writeFileSync(`${folder}/${i % 2 ? "a" : "b"}/${i}.${name}`, image);
  const base = { checkpoint: { folder: place }, config: modelConfig({ model_type: "vit" }), tokenizer: () => Promise.reject() };
  const data = await taskOf("image-classification").data(base, { trainOn: "all" }, { files: nodeFiles, decodeImage });
  const [began, used] = [performance.now(), process.cpuUsage()];
  const { records, make } = data.open(folder);
  for await (const _ of make(records));
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(used);
  const each = (total: number) => `${((1000 * total) / count).toFixed(1)} ms`;
  console.log(`${count} ${what}: ${seconds.toFixed(1)} s, ${each(seconds)} each; ${each((user + system) / 1e6)} of a core each`);
}

try {
  const processor = { image_processor_type: "ViTImageProcessor", do_resize: true, size: { height: 224, width: 224 } };
  writeFileSync(`${place}/preprocessor_config.json`, JSON.stringify(processor));
  await measure("PNGs of 64 × 64", small, "png", new Uint8Array(await picture(64, 64).png().toBuffer()));
  await measure("photos of 4000 × 3000", photos, "jpg", new Uint8Array(await picture(4000, 3000).jpeg().toBuffer()));
  console.log(`memory at its peak: ${Math.round(process.resourceUsage().maxRSS / 1024)} MB`);
} finally {
  rmSync(place, { recursive: true });
}
