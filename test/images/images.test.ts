// Images against Transformers and Pillow: test/fixtures/images holds files and what its PIL processors make of them.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { readHeader, readTensor } from "../../src/formats/safetensors.ts";
import { type RgbImage, readImage, type StoredImage, upright } from "../../src/images/image.ts";
import { type ImageBatch, loadImageProcessor } from "../../src/images/processor.ts";
import { processorConfig } from "../../src/images/processor-config.ts";
import { resize } from "../../src/images/resize.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { decodeImage } from "../../src/platform/node/images.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { COLOUR, png } from "../helpers/png.ts";
import { fixtures } from "../helpers/repository.ts";

const processors = readdirSync(`${fixtures}/images/processors`);

/** A picture as it lies in its file: Transformers' processors do not turn it. */
const stored = (name: string): Promise<StoredImage> => decodeImage(readFileSync(`${fixtures}/images/${name}`), name);

/** Largest difference, and the share of those above one, in levels of 255. */
function difference(got: ArrayLike<number>, expected: ArrayLike<number>, levels: (i: number) => number = () => 1) {
  assert.equal(got.length, expected.length);
  let [most, above] = [0, 0];
  for (let i = 0; i < got.length; i++) {
    const distance = Math.abs(got[i]! - expected[i]!) * levels(i);
    most = Math.max(most, distance);
    if (distance > 1.001) above++;
  }
  return { most, above: above / got.length };
}

/** Within a level for 99 % of the values and three for all; four where JPEG was decoded, whose decoders differ. */
function assertNear(difference: { most: number; above: number }, isJpeg: boolean, what: string): void {
  assert.ok(difference.most <= (isJpeg ? 4.001 : 3.001), `${what}: ${difference.most} levels`);
  assert.ok(isJpeg || difference.above <= 0.01, `${what}: ${100 * difference.above} % are more than a level off`);
}

describe("processors give what Transformers' give", () => {
  it("of all kinds", () => assert.ok(processors.length >= 11));
  for (const name of processors) {
    it(name, async () => {
      const processor = await loadImageProcessor(nodeFiles, `${fixtures}/images/processors/${name}`);
      const file = `${fixtures}/images/processors/${name}/expected.safetensors`;
      const { tensors } = await readHeader(nodeFiles, file);
      const batches = [...tensors.keys()].filter((key) => key.endsWith("/pixel_values")).map((key) => key.split("/")[0]!);
      const { std } = processor.config.normalize ?? { std: [1, 1, 1] };
      const scale = processor.config.rescale === 1 ? 1 : 255;
      for (const batch of batches) {
        const examples = batch.split(",|,").map((part) => part.split(","));
        const images = await Promise.all(
          examples.map((files) => Promise.all(files.map(async (one) => processor.process(await stored(`files/${one}`))))),
        );
        const given = processor.stack(images);
        const read = async (key: string) => readTensor(nodeFiles, file, tensors.get(`${batch}/${key}`)!);
        const expected = await read("pixel_values");
        const shape = given.pixelValues.shape;
        assert.deepEqual(expected.shape.length === 5 ? shape : [shape[0]! * shape[1]!, ...shape.slice(2)], expected.shape);
        const plane = shape[3]! * shape[4]!;
        const levels = (i: number) => std[Math.floor(i / plane) % 3]! * scale;
        const found = difference(given.pixelValues.data as Float32Array, expected.data as Float32Array, levels);
        assertNear(found, batch.endsWith(".jpg"), batch);
        assert.equal(tensors.has(`${batch}/pixel_attention_mask`), given.pixelAttentionMask !== undefined);
        if (given.pixelAttentionMask) assertSameMask(given.pixelAttentionMask, await read("pixel_attention_mask"));
      }
      assert.ok(batches.length > 0);
    });
  }

  type Mask = NonNullable<ImageBatch["pixelAttentionMask"]>;
  function assertSameMask(given: Mask, expected: Mask): void {
    assert.deepEqual(given.shape, expected.shape);
    assert.deepEqual(Array.from(given.data as Int32Array), Array.from(expected.data as BigInt64Array, Number));
  }
});

it("a processor that does not convert to RGB refuses what is not RGB, as Transformers' does", async () => {
  const vit = await loadImageProcessor(nodeFiles, `${fixtures}/images/processors/vit`);
  for (const [name, got] of [
    ["alpha.png", "4 channels"],
    ["gray.png", "1 channel: gray, or a palette"],
    ["palette.png", "1 channel: gray, or a palette"],
  ] as const) {
    const image = await stored(`files/${name}`);
    assert.throws(() => vit.process(image), { code: "image/channels", subject: `files/${name}`, got });
  }
});

describe("decoding", () => {
  const names = readdirSync(`${fixtures}/images/formats`).filter((name) => !name.endsWith(".rgb.png"));
  assert.ok(names.length >= 11);
  for (const name of names) {
    it(`${name} gives the RGB of Transformers`, async () => {
      const [image, expected] = [await stored(`formats/${name}`), await stored(`formats/${name}.rgb.png`)];
      assert.deepEqual([image.width, image.height], [expected.width, expected.height]);
      assertNear(difference(image.data, expected.data), name.endsWith(".jpg"), name);
    });
  }

  it("16 bits a channel keep their high byte", async () => {
    const row = Uint8Array.of(1, 200, 2, 100, 255, 255);
    const rgb = await decodeImage(png({ width: 1, height: 2, depth: 16 }, [row, row.toReversed()]), "rgb");
    assert.deepEqual([...rgb.data], [1, 2, 255, 255, 100, 200]);
    const gray = await decodeImage(png({ width: 3, height: 1, depth: 16, colour: COLOUR.gray }, [row]), "gray");
    assert.deepEqual([...gray.data], [1, 1, 1, 2, 2, 2, 255, 255, 255]);
    assert.equal(gray.channels, 1);
  });

  it("the name of a file does not determine its format", async () => {
    const image = await decodeImage(readFileSync(`${fixtures}/images/files/photo.webp`), "photo.jpg");
    assert.equal(image.width, 80);
  });
});

describe("EXIF orientation", () => {
  const turned = readdirSync(`${fixtures}/images/turned`).filter((name) => !name.endsWith(".rgb.png"));
  assert.ok(turned.length >= 4);
  for (const name of turned) {
    it(`${name} is turned as Pillow turns it`, async () => {
      const image = await readImage(nodeFiles, decodeImage, `${fixtures}/images/turned/${name}`);
      const expected = await stored(`turned/${name}.rgb.png`);
      assert.deepEqual([image.width, image.height], [expected.width, expected.height]);
      assertNear(difference(image.data, expected.data), name.endsWith(".jpg"), name);
    });
  }

  it("a JPEG that says 6 looks like the lossless picture turned by it, and like no other", async () => {
    const image = await readImage(nodeFiles, decodeImage, `${fixtures}/images/files/photo.jpg`);
    const lossless = await stored("files/photo.webp");
    const distances = [5, 6, 7, 8].map((orientation) => {
      const { data } = upright({ ...lossless, orientation });
      return data.reduce((sum, level, i) => sum + Math.abs(level - image.data[i]!), 0) / data.length;
    });
    assert.ok(distances[1]! < 16 && distances.every((distance, i) => i === 1 || distance > 40), `${distances}`);
  });

  /** Pixels 1 2 3 over 4 5 6. */
  const image = {
    name: "i",
    width: 3,
    height: 2,
    channels: 3,
    data: Uint8Array.of(1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0, 0, 5, 0, 0, 6, 0, 0),
  };
  const reds = ({ width, height, data }: RgbImage) =>
    Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => data[3 * (y * width + x)]).join("")).join(
      " ",
    );
  const expected = ["123 456", "321 654", "654 321", "456 123", "14 25 36", "41 52 63", "63 52 41", "36 25 14"];
  for (const [i, rows] of expected.entries()) {
    it(`${i + 1}: ${rows}`, () => assert.equal(reds(upright({ ...image, orientation: i + 1 })), rows));
  }
  it("one that is not defined is passed over", () => assert.equal(reds(upright({ ...image, orientation: 9 })), "123 456"));
});

describe("resizing", () => {
  const checker = (width: number, height: number): RgbImage => ({
    ...{ name: "checker", width, height, channels: 3 },
    data: Uint8Array.from(
      { length: 3 * width * height },
      (_, i) => (((((i / 3) % width) | 0) + ((i / 3 / width) | 0)) % 2) * 255,
    ),
  });
  it("an image of one colour keeps it", () => {
    const grey = { ...checker(17, 9), data: new Uint8Array(3 * 17 * 9).fill(77) };
    for (const resample of [1, 2, 3]) assert.deepEqual(new Set(resize(grey, 5, 40, resample).data), new Set([77]));
  });
  it("a checkerboard that shrinks is averaged, not sampled", () => {
    for (const level of resize(checker(64, 64), 8, 8, 2).data) assert.ok(Math.abs(level - 127.5) < 12, `${level}`);
  });
  it("the size that it has is left alone", () => assert.equal(resize(checker(4, 4), 4, 4, 3).data.length, 48));
});

describe("preprocessor_config.json", () => {
  const read = (json: Record<string, unknown>) => processorConfig(json, "f.json");
  it("of old files: feature extractors, and sizes that are a number", () => {
    const clip = read({ feature_extractor_type: "CLIPFeatureExtractor", size: 224, crop_size: 200 });
    assert.equal(clip.type, "CLIPImageProcessor");
    assert.deepEqual([clip.size, clip.crop], [{ shortestEdge: 224 }, { height: 200, width: 200 }]);
    const vit = read({ image_processor_type: "ViTFeatureExtractor", size: 96 });
    assert.deepEqual([vit.size, vit.crop, vit.resample], [{ height: 96, width: 96 }, null, 2]);
  });
  it("of the fast processors, which compute the same", () => {
    assert.equal(read({ image_processor_type: "SiglipImageProcessorFast" }).type, "SiglipImageProcessor");
  });
  it("null stands for the default of the class", () => {
    assert.deepEqual(read({ image_processor_type: "Idefics3ImageProcessor", size: null, do_pad: null }).size, {
      longestEdge: 1456,
    });
  });
  it("that lies in processor_config.json", async () => {
    const files = memoryFiles({
      "m/processor_config.json": JSON.stringify({ image_processor: { image_processor_type: "ViTImageProcessor" } }),
    });
    assert.equal((await loadImageProcessor(files, "m")).config.type, "ViTImageProcessor");
    await assert.rejects(loadImageProcessor(files, "n"), { code: "image/no-processor", subject: "n" });
  });
});
