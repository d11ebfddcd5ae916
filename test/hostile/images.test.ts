// Images and processor configs from strangers: each ends with one error that says what is wrong, and none asks for much memory.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { MAX_IMAGE_BYTES, MAX_IMAGE_SIDE, type RgbImage, readImage } from "../../src/images/image.ts";
import { loadImageProcessor } from "../../src/images/processor.ts";
import { MAX_CONFIG_SIDE } from "../../src/images/processor-config.ts";
import { decodeImage } from "../../src/platform/node/images.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { COLOUR, png } from "../helpers/png.ts";
import { fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";

/** Longest that a case may take. */
const MAX_MS = 5_000;

const fixture = (name: string) => new Uint8Array(readFileSync(`${fixtures}/images/files/${name}`));
const text = (value: string) => Uint8Array.from(value, (character) => character.charCodeAt(0));
const part = (name: string, share: number) => fixture(name).slice(0, Math.floor(fixture(name).length * share));
/** A file with bytes of it replaced. */
function changed(name: string, at: number, ...bytes: number[]): Uint8Array {
  const file = fixture(name);
  file.set(bytes, at);
  return file;
}
/** Where the frame header of a JPEG holds height and width. */
function frame(file: Uint8Array): number {
  for (let at = 2; ; at += 2 + 256 * file[at + 2]! + file[at + 3]!) if (file[at + 1] === 0xc0) return at + 5;
}
/** A JPEG whose scan comes this often again. */
function manyScans(times: number): Uint8Array {
  const file = Buffer.from(fixture("photo.jpg"));
  const [start, end] = [file.lastIndexOf(Buffer.of(0xff, 0xda)), file.length - 2];
  return new Uint8Array(
    Buffer.concat([file.subarray(0, end), ...Array(times).fill(file.subarray(start, end)), file.subarray(end)]),
  );
}
/** The header of a lossless WebP of this size, at most 16,383 a side. */
function webpHeader(width: number, height: number): Uint8Array {
  const size = (width - 1) | ((height - 1) << 14);
  const chunk = [
    ...text("VP8L"),
    10,
    0,
    0,
    0,
    0x2f,
    size & 255,
    (size >> 8) & 255,
    (size >> 16) & 255,
    size >>> 24,
    0,
    0,
    0,
    0,
    0,
  ];
  return Uint8Array.of(...text("RIFF"), 22, 0, 0, 0, ...text("WEBP"), ...chunk);
}
const black = new Uint8Array(30);
/** TIFF data with a directory of 5,000 entries, each of which says that the directory of EXIF is this one. */
function exifOfItself(): Buffer {
  const tiff = Buffer.alloc(64_000);
  tiff.write("MM\0*\0\0\0\x08", "latin1");
  tiff.writeUInt16BE(5000, 8);
  for (let at = 10; at < 10 + 5000 * 12; at += 12) {
    tiff.writeUInt32BE(0x87690004, at);
    tiff.writeUInt32BE(1, at + 4);
    tiff.writeUInt32BE(8, at + 8);
  }
  return tiff;
}
/** A JPEG with such data in front. */
function jpegOfExif(): Uint8Array {
  const data = Buffer.concat([Buffer.from("Exif\0\0"), exifOfItself()]);
  const [file, head] = [Buffer.from(fixture("photo.jpg")), Buffer.of(0xff, 0xe1, 0, 0)];
  head.writeUInt16BE(data.length + 2, 2);
  return new Uint8Array(Buffer.concat([file.subarray(0, 2), head, data, file.subarray(2)]));
}
/** A WebP or a PNG with such data behind; the decoder is not reached. */
const behind = (name: string, mark: string) =>
  new Uint8Array(Buffer.concat([fixture(name), Buffer.from(mark, "latin1"), exifOfItself()]));

const FILES: [title: string, code: string, message: RegExp, bytes: () => Uint8Array][] = [
  ["an empty file", "image/format", /an empty file/, () => new Uint8Array()],
  ["one byte", "image/format", /bytes ff/, () => Uint8Array.of(0xff)],
  ["text", "image/format", /bytes 68 65/, () => text("hello")],
  ["a GIF", "image/format", /GIF/, () => text("GIF89a\x01\0\x01\0")],
  ["a bitmap", "image/format", /BMP/, () => text("BM\x1e\0\0\0")],
  ["a TIFF", "image/format", /TIFF/, () => text("II*\0\x08\0\0\0")],
  ["a photo of a phone", "image/format", /HEIC/, () => text("\0\0\0\x18ftypheic")],
  ["a drawing that would fetch a file", "image/format", /SVG/, () => text('<svg><image href="file:///etc/passwd"/></svg>')],
  ["a drawing behind a declaration", "image/format", /XML/, () => text('<?xml version="1.0"?><svg/>')],
  ["a PDF", "image/format", /PDF/, () => text("%PDF-1.7")],
  ["the first byte of a PNG changed", "image/format", /bytes 0a 50/, () => changed("wide.png", 0, 10)],
  ["a RIFF that holds sound", "image/format", /bytes 52 49/, () => text("RIFF\0\0\0\0WAVEfmt ")],
  ["the signature of a PNG alone", "image/damaged", /./, () => (part("wide.png", 0).length ? black : text("\x89PNG\r\n\x1a\n"))],
  ["the signature of a JPEG alone", "image/damaged", /./, () => Uint8Array.of(0xff, 0xd8, 0xff)],
  ["the signature of a WebP alone", "image/damaged", /./, () => text("RIFF\0\0\0\0WEBP")],
  ["half a PNG", "image/damaged", /./, () => part("wide.png", 0.5)],
  ["half a JPEG", "image/damaged", /./, () => part("photo.jpg", 0.5)],
  ["half a WebP", "image/damaged", /./, () => part("photo.webp", 0.5)],
  ["a JPEG that lacks its last tenth", "image/damaged", /./, () => part("photo.jpg", 0.9)],
  ["a PNG whose pixels are rubbish", "image/damaged", /./, () => changed("wide.png", 60, ...new Array(200).fill(0x55))],
  ["a PNG of no width", "image/damaged", /./, () => png({ width: 0, height: 3 }, [black])],
  ["a PNG of 3 bits", "image/damaged", /./, () => png({ width: 2, height: 2, depth: 3 }, [black])],
  ["a PNG of an unknown kind", "image/damaged", /./, () => png({ width: 2, height: 2, colour: 7 }, [black])],
  [
    "a PNG with a palette that is not there",
    "image/damaged",
    /./,
    () => png({ width: 2, height: 2, colour: COLOUR.palette }, [black]),
  ],
  ["a PNG with one row of the ten that it declares", "image/damaged", /./, () => png({ width: 10, height: 10 }, [black])],
  ["a PNG with one row of 64 million pixels", "image/damaged", /./, () => png({ width: 8000, height: 8000 }, [black])],
  ["a PNG of 10 billion pixels", "image/pixels", /100,000 × 100,000/, () => png({ width: 100_000, height: 100_000 }, [black])],
  ["a PNG wider than its decoder takes", "image/damaged", /header/, () => png({ width: 2 ** 31 - 1, height: 1 }, [black])],
  ["a line of pixels", "image/pixels", /65,536 × 1/, () => png({ width: MAX_IMAGE_SIDE + 1, height: 1 }, [black])],
  [
    "a JPEG of 4 billion pixels",
    "image/pixels",
    /65,500 × 65,500/,
    () => changed("photo.jpg", frame(fixture("photo.jpg")), 0xff, 0xdc, 0xff, 0xdc),
  ],
  ["a JPEG of scans without end", "image/scans", /10,001/, () => manyScans(10_000)],
  ["a JPEG whose EXIF data refer to themselves", "image/exif", /more/, jpegOfExif],
  ["a PNG whose EXIF data refer to themselves", "image/exif", /more/, () => behind("wide.png", "eXIf")],
  ["a WebP whose EXIF data refer to themselves", "image/exif", /more/, () => behind("photo.webp", "EXIF\0\xfa\0\0")],
  ["a WebP of 268 million pixels", "image/pixels", /16,383 × 16,383/, () => webpHeader(16_383, 16_383)],
];

describe("image files", () => {
  for (const [title, code, message, bytes] of FILES) {
    it(`${title}: ${code}`, { timeout: MAX_MS }, async () => {
      const before = process.memoryUsage.rss();
      await refused(decodeImage(bytes(), "i.png"), code, { subject: "i.png", got: message });
      assert.ok(process.memoryUsage.rss() - before < 400e6, "memory of an image was asked for");
    });
  }

  it("a file of 65 MiB is not read", async () => {
    const files = { ...memoryFiles(), size: async () => MAX_IMAGE_BYTES + 1, read: async () => assert.fail("the file is read") };
    await assert.rejects(readImage(files, decodeImage, "large.png"), { code: "image/too-large", subject: "large.png" });
  });

  it("an image without colour is not a reason to stop", async () => {
    const image = await decodeImage(png({ width: 1, height: 1, depth: 1, colour: COLOUR.gray }, [Uint8Array.of(128)]), "dot");
    assert.deepEqual([...image.data], [255, 255, 255]);
  });
});

const processorOf = (config: unknown) =>
  loadImageProcessor(memoryFiles({ "m/preprocessor_config.json": JSON.stringify(config) }), "m");
const clip = { image_processor_type: "CLIPImageProcessor" };
const idefics3 = { image_processor_type: "Idefics3ImageProcessor" };

const CONFIGS: [title: string, code: string, message: RegExp, config: unknown][] = [
  ["no type", "image/processor", /no image_processor_type/, {}],
  ["an unknown type", "image/processor", /Sam2/, { image_processor_type: "Sam2ImageProcessor" }],
  ["a type of Object.prototype", "image/processor", /toString/, { image_processor_type: "toString" }],
  ["a type that is a list", "image/processor", /\[/, { image_processor_type: ["CLIPImageProcessor"] }],
  ["an object that is a list", "json/not-object", /array/, []],
  ["a size beyond the limit", "image/processor-config", /8193/, { ...clip, size: MAX_CONFIG_SIDE + 1 }],
  ["a size of 0", "image/processor-config", /0/, { ...clip, size: { shortest_edge: 0 } }],
  ["half a pixel", "image/processor-config", /0.5/, { ...clip, crop_size: { height: 0.5, width: 3 } }],
  ["a size of two kinds", "image/processor-config", /longest/, { ...clip, size: { shortest_edge: 3, longest_edge: 4 } }],
  ["the longest side for CLIP", "image/processor-config", /longest/, { ...clip, size: { longest_edge: 40 } }],
  ["the shortest side for Idefics3", "image/processor-config", /shortest/, { ...idefics3, size: { shortest_edge: 40 } }],
  ["tiles of no size", "image/processor-config", /0/, { ...idefics3, max_image_size: { longest_edge: 0 } }],
  ["the nearest pixel", "image/processor-config", /0/, { ...clip, resample: 0 }],
  ["a deviation of 0", "image/processor-config", /0/, { ...clip, image_std: [1, 0, 1] }],
  ["two means", "image/processor-config", /1,2/, { ...clip, image_mean: [1, 2] }],
  ["padding where there is none", "image/processor-config", /true/, { ...clip, do_pad: true }],
  ["text for a flag", "image/processor-config", /yes/, { ...clip, do_resize: "yes" }],
];

describe("processor configs", () => {
  for (const [title, code, message, config] of CONFIGS) {
    it(`${title}: ${code}`, async () => {
      await refused(processorOf(config), code, { subject: "m/preprocessor_config.json", got: message });
    });
  }
});

const line = (width: number, height: number): RgbImage => ({
  ...{ name: "line.png", width, height, channels: 3 },
  data: new Uint8Array(3 * width * height),
});

describe("images that do not suit a processor", slow, () => {
  it("a line whose shortest side would be made 224", { timeout: MAX_MS }, async () => {
    const { process } = await processorOf(clip);
    for (const image of [line(1, MAX_IMAGE_SIDE), line(MAX_IMAGE_SIDE, 1)])
      assert.throws(() => process(image), { code: "image/resize", subject: "line.png" });
  });
  it("tiles that would be larger than memory", { timeout: MAX_MS }, async () => {
    const { process } = await processorOf({ ...idefics3, size: { longest_edge: 8000 }, max_image_size: { longest_edge: 4095 } });
    assert.throws(() => process(line(50, 30)), { code: "image/resize" });
  });
  it("a line in tiles", { timeout: MAX_MS }, async () => {
    const { pixelValues, rows, columns } = (await processorOf(idefics3)).process(line(MAX_IMAGE_SIDE, 1));
    assert.deepEqual([pixelValues.shape, rows, columns], [[5, 3, 364, 364], 1, 4]);
  });
  it("images of different sizes in a batch", async () => {
    const { process, stack } = await processorOf({ ...clip, do_resize: false, do_center_crop: false });
    assert.throws(() => stack([[process(line(3, 3))], [process(line(3, 4))]]), { code: "image/sizes" });
  });
});
