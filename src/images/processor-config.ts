// preprocessor_config.json: what a processor does to an image, with the defaults of Transformers' classes. Every key that changes
// the result is honoured or refused by name.
import { z } from "zod";
import { LowrankError, valueText } from "../errors.ts";
import type { Files } from "../files.ts";
import { readJsonObject } from "../formats/json.ts";
import { RESAMPLE } from "./resize.ts";

/** Longest side that a config may ask for; processors of published models stay below half of it. */
export const MAX_CONFIG_SIDE = 8192;

/** A size to make an image fit: exactly, by its shortest or by its longest side; in pixels. */
export type Size = { height: number; width: number } | { shortestEdge: number } | { longestEdge: number };

export interface ProcessorConfig {
  /** Name of the class, such as "CLIPImageProcessor". */
  type: ProcessorType;
  /** null leaves the size of the image as it is. */
  size: Size | null;
  /** Pillow's number of the filter of every resizing. */
  resample: number;
  /** Cut from the center after resizing; what is missing is black. */
  crop: { height: number; width: number } | null;
  /** Images that are not RGB are converted; otherwise they are refused. */
  convertRgb: boolean;
  /** Bytes are multiplied by this: 1 leaves them as they are. */
  rescale: number;
  /** Then `mean` is subtracted and what remains divided by `std`, channel by channel. */
  normalize: { mean: readonly number[]; std: readonly number[] } | null;
  /** LLaVA: made square first, with this colour, the mean's, at both ends of the shorter side. */
  padToSquare: readonly number[] | null;
  /** Idefics3: tiles of `side` pixels; `split` into as many as the image has, and the whole image as the last. */
  tiles: { side: number; split: boolean; mask: boolean } | null;
}

const side = z.int().min(1).max(MAX_CONFIG_SIDE);
const sizeSchema = z.union([
  side,
  z.tuple([side, side]),
  z.strictObject({ height: side, width: side }),
  z.strictObject({ shortest_edge: side }),
  z.strictObject({ longest_edge: side }),
]);
const channels = z
  .union([z.number(), z.tuple([z.number(), z.number(), z.number()])])
  .transform((value) => [value, value, value].flat().slice(0, 3));
const optional = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? undefined);
const flag = optional(z.boolean());
const resamples = new Set<unknown>(Object.values(RESAMPLE));

const schema = z.object({
  size: optional(sizeSchema),
  crop_size: optional(sizeSchema),
  max_image_size: optional(z.strictObject({ longest_edge: side })),
  image_size: optional(side),
  resample: optional(z.int().refine((value) => resamples.has(value), "1 (lanczos), 2 (bilinear) or 3 (bicubic)")),
  image_mean: optional(channels),
  image_std: optional(channels.refine((values) => values.every((value) => value > 0), "numbers above 0")),
  rescale_factor: optional(z.number()),
  do_resize: flag,
  do_center_crop: flag,
  do_convert_rgb: flag,
  do_rescale: flag,
  do_normalize: flag,
  do_pad: flag,
  do_image_splitting: flag,
});
type Given = z.output<typeof schema>;

const clip = {
  image_mean: [0.48145466, 0.4578275, 0.40821073],
  image_std: [0.26862954, 0.26130258, 0.27577711],
};
const half = { image_mean: [0.5, 0.5, 0.5], image_std: [0.5, 0.5, 0.5] };
const square = { height: 224, width: 224 };

/** What the classes of Transformers set where a file does not. */
interface Defaults extends Pick<ProcessorConfig, "convertRgb"> {
  size: Size;
  resample: number;
  image_mean: number[];
  image_std: number[];
  crop?: number;
  /** A size that is one number means the shortest side, not a square. */
  byShortestEdge?: boolean;
  /** `do_pad` makes the image square. */
  squares?: boolean;
  tileSide?: number;
}

const { lanczos, bilinear, bicubic } = RESAMPLE;
const clipLike: Defaults = {
  ...clip,
  size: { shortestEdge: 224 },
  resample: bicubic,
  crop: 224,
  convertRgb: true,
  byShortestEdge: true,
};
const idefics3: Defaults = { ...half, size: { longestEdge: 4 * 364 }, resample: lanczos, convertRgb: true, tileSide: 364 };

/** The processors that are known. A new one is a row here, if resizing, cropping, tiles and normalization are all it does. */
const processors = {
  CLIPImageProcessor: clipLike,
  LlavaImageProcessor: { ...clipLike, squares: true },
  ViTImageProcessor: { ...half, size: square, resample: bilinear, convertRgb: false },
  SiglipImageProcessor: { ...half, size: square, resample: bicubic, convertRgb: true, byShortestEdge: true },
  IdeficsImageProcessor: { ...clip, size: square, resample: bicubic, convertRgb: true },
  Idefics3ImageProcessor: idefics3,
  SmolVLMImageProcessor: idefics3,
} satisfies Record<string, Defaults>;
export type ProcessorType = keyof typeof processors;

/** The processor of a folder: its preprocessor_config.json, or what its processor_config.json says of images. */
export async function readProcessorConfig(files: Files, folder: string): Promise<ProcessorConfig> {
  const file = `${folder}/preprocessor_config.json`;
  if (await files.exists(file)) return processorConfig(await readJsonObject(files, file), file);
  const whole = `${folder}/processor_config.json`;
  const inner = (await files.exists(whole)) ? (await readJsonObject(files, whole)).image_processor : undefined;
  if (typeof inner === "object" && inner !== null) return processorConfig(inner as Record<string, unknown>, whole);
  throw new LowrankError("image/no-processor", "the model has no image processor config", {
    subject: folder,
    expected: "preprocessor_config.json",
    got: "no such file",
    next: "Download the file from the model's page, or choose a model that has one: vision models do.",
  });
}

/** Reads the object that `file` holds. */
export function processorConfig(json: Record<string, unknown>, file: string): ProcessorConfig {
  const type = processorType(json, file);
  const defaults: Defaults = processors[type];
  const given = read(json, file);
  const { resample = defaults.resample, image_mean: mean = defaults.image_mean, image_std: std = defaults.image_std } = given;
  const tileSide = given.max_image_size?.longest_edge ?? defaults.tileSide;
  if (given.do_pad && !defaults.squares && tileSide === undefined) {
    throw unsupported(file, "do_pad", true, "false: nothing is padded");
  }
  const size = sizeOf((type === "IdeficsImageProcessor" ? given.image_size : undefined) ?? given.size, defaults);
  const isTiled = defaults.tileSide !== undefined;
  if (isTiled ? "shortestEdge" in size : "longestEdge" in size) {
    throw unsupported(file, "size", json.size, `${isTiled ? "longest_edge" : "shortest_edge"}, or height and width`);
  }
  const crop = sizeOf(given.crop_size ?? defaults.crop ?? square, {});
  if (!("height" in crop)) throw unsupported(file, "crop_size", json.crop_size, "height and width");
  return {
    type,
    size: (given.do_resize ?? true) ? size : null,
    resample,
    crop: !isTiled && (given.do_center_crop ?? defaults.crop !== undefined) ? crop : null,
    convertRgb: given.do_convert_rgb ?? defaults.convertRgb,
    rescale: (given.do_rescale ?? true) ? (given.rescale_factor ?? 1 / 255) : 1,
    normalize: (given.do_normalize ?? true) ? { mean, std } : null,
    padToSquare: defaults.squares && given.do_pad ? mean.map((value) => Math.trunc(value * 255)) : null,
    tiles: isTiled ? { side: tileSide!, split: given.do_image_splitting ?? true, mask: given.do_pad ?? true } : null,
  };
}

/** Old files name a feature extractor; `Fast` and `Pil` are ways to compute the same. */
function processorType(json: Record<string, unknown>, file: string): ProcessorType {
  const named = json.image_processor_type ?? json.feature_extractor_type;
  const type = String(named)
    .replace(/(Fast|Pil)$/, "")
    .replace(/FeatureExtractor$/, "ImageProcessor");
  if (typeof named === "string" && Object.hasOwn(processors, type)) return type as ProcessorType;
  throw new LowrankError("image/processor", "the model's image processor is not supported", {
    subject: file,
    expected: `image_processor_type one of ${Object.keys(processors).join(", ")}`,
    got: named === undefined ? "no image_processor_type" : valueText(named),
    next: "Choose a model with one of these. A new one is a row in src/images/processor-config.ts.",
  });
}

function read(json: Record<string, unknown>, file: string): Given {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const key = String(issue.path[0]);
  const sizeText = `1 to ${MAX_CONFIG_SIDE} pixels: height and width, shortest_edge or longest_edge`;
  throw unsupported(file, key, json[key], key.endsWith("size") ? sizeText : issue.message);
}

function unsupported(file: string, key: string, value: unknown, expected: string): LowrankError {
  return new LowrankError("image/processor-config", `${key} has a value that cannot be used`, {
    subject: file,
    expected,
    got: valueText(value),
    next: "Correct the file, or download it again.",
  });
}

function sizeOf(given: Given["size"], { size, byShortestEdge }: Partial<Defaults>): Size {
  if (given === undefined) return size!;
  if (typeof given === "number") return byShortestEdge ? { shortestEdge: given } : { height: given, width: given };
  if (Array.isArray(given)) return { height: given[0], width: given[1] };
  if ("shortest_edge" in given) return { shortestEdge: given.shortest_edge };
  return "longest_edge" in given ? { longestEdge: given.longest_edge } : given;
}
