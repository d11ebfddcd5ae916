// Adapters of diffusion models' text encoders in one safetensors file, as kohya's sd-scripts and diffusers name them. They are read for a
// base that is the text encoder; what belongs to the UNet or the transformer beside it is refused by name.
import { parseAdapterConfig } from "../../adapters/config.ts";
import { scaleFinder } from "../../adapters/match.ts";
import type { Adapter } from "../../adapters/peft-files.ts";
import { matchBudget } from "../../adapters/regex.ts";
import type { Files } from "../../files.ts";
import { toFloat32 } from "../../formats/float.ts";
import { quote } from "../../formats/json.ts";
import { readHeader, readTensor, type SafetensorsHeader, type TensorEntry } from "../../formats/safetensors.ts";
import type { AnyBase } from "../../models/base.ts";
import type { ModuleInfo } from "../../models/module.ts";
import type { AdapterFormat, AdapterLimits } from "./format.ts";
import { adapterOf, checkLimits, needBase, type ReadModule, refuse } from "./say.ts";

/** How a style spells its keys. */
interface Style {
  title: string;
  /** Of a key: the part of the pipeline, the module's path as the file has it, and the end; null for another style's. */
  parse(key: string): { part: string; path: string; end: string } | null;
  /** A module's path as the file has it. */
  spelled(path: string): string;
  /** Ends of keys of A, [rank, in], and of B, [out, rank]; kohya's has one of alpha too. */
  ends: { a: readonly string[]; b: readonly string[]; alpha: readonly string[] };
  /** The key of the metadata that holds the configuration. */
  metadata?: string;
}

const kohyaStyle: Style = {
  title: "kohya",
  parse(key) {
    const [, part, path, end] = /^lora_(te\d?|unet|transformer)_([^.]+)\.(.+)$/.exec(key) ?? [];
    return end === undefined ? null : { part: part!, path: path!, end };
  },
  spelled: (path) => path.replaceAll(".", "_"),
  ends: { a: ["lora_down.weight"], b: ["lora_up.weight"], alpha: ["alpha"] },
};

const diffusersStyle: Style = {
  title: "diffusers",
  parse(key) {
    const [, part, path, end] =
      /^(text_encoder(?:_\d)?|unet|transformer)\.(.+?)\.(lora_[AB]\.weight|lora(?:_linear_layer)?\.(?:down|up)\.weight|alpha|lora_magnitude_vector.*|lora\..+)$/.exec(
        key,
      ) ?? [];
    return end === undefined ? null : { part: part!, path: path!, end };
  },
  spelled: (path) => path,
  ends: {
    a: ["lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight"],
    b: ["lora_B.weight", "lora.up.weight", "lora_linear_layer.up.weight"],
    alpha: ["alpha"],
  },
  metadata: "lora_adapter_metadata",
};

/** The file that diffusers saves in a folder. */
const DIFFUSERS_FILE = "pytorch_lora_weights.safetensors";

async function placeOf(files: Files, path: string): Promise<string | null> {
  if (!(await files.exists(path))) return null;
  if (!(await files.isFolder(path))) return /\.safetensors$/i.test(path) ? path : null;
  return (await files.exists(`${path}/${DIFFUSERS_FILE}`)) ? `${path}/${DIFFUSERS_FILE}` : null;
}

const formatOf = (style: Style): AdapterFormat => ({
  title: style.title,
  async isAt(files, path) {
    const file = await placeOf(files, path);
    const header = file === null ? null : await readHeader(files, file).catch(() => null);
    return header !== null && [...header.tensors.keys()].some((key) => style.parse(key) !== null);
  },
  async read(files, path, given, limits) {
    const base = needBase(given, `an adapter in the style of ${style.title}`);
    const file = (await placeOf(files, path))!;
    return readStyle(files, file, style, base, limits);
  },
});

export const kohya = formatOf(kohyaStyle);
export const diffusers = formatOf(diffusersStyle);

interface Found {
  part: string;
  path: string;
  a?: TensorEntry;
  b?: TensorEntry;
  alpha?: TensorEntry;
}

async function readStyle(files: Files, file: string, style: Style, base: AnyBase, limits: AdapterLimits): Promise<Adapter> {
  const header = await readHeader(files, file);
  const found = sorted(file, style, header);
  const modules = new Map<string, ModuleInfo>();
  for (const module of base.modules) {
    for (const path of [module.path, ...(module.olderPaths ?? [])]) modules.set(style.spelled(path), module);
  }
  checkLimits(file, found.length, Math.max(...found.map(({ a }) => a?.shape[0] ?? 0)), limits);
  const scales = style.metadata === undefined ? null : scalesIn(header, style.metadata, found[0]!.part, file);
  const read: ReadModule[] = [];
  for (const { part, path, a, b, alpha } of found) {
    const subject = `${file}: ${part} ${path}`;
    const module = modules.get(path) ?? foreign(subject, base);
    if (!a || !b || module.kind !== "linear") {
      refuse("file", "the tensors of a module are not a pair of factors of a linear layer", {
        subject,
        expected: `${style.ends.a[0]} and ${style.ends.b[0]}`,
        next: "Save the adapter again.",
      });
    }
    const rank = a.shape[0] ?? 0;
    const { inFeatures, outFeatures } = module;
    if (rank === 0 || a.shape.join() !== `${rank},${inFeatures}` || b.shape.join() !== `${outFeatures},${rank}`) {
      refuse("file", "the factors of a module do not fit the base's layer", {
        subject,
        expected: `[rank, ${inFeatures}] and [${outFeatures}, rank]`,
        got: `[${a.shape.join(", ")}] and [${b.shape.join(", ")}]`,
        next: "Use the text encoder that the adapter was made for.",
      });
    }
    const values = async (entry: TensorEntry) => toFloat32(await readTensor(files, file, entry));
    const own = alpha && (await values(alpha))[0];
    if (own !== undefined && !Number.isFinite(own))
      refuse("file", "an alpha is not a number", { subject, next: "Save it again." });
    const tensors = { loraA: await values(a), loraB: await values(b) };
    // Without an alpha the scale is 1.
    const given = own ?? (scales ? scales(path) * rank : rank);
    read.push({ path: module.path, rank, alpha: given, inFeatures, outFeatures, tensors });
  }
  return adapterOf(base, read);
}

/** The modules of a file. What is not a factor of a text encoder's module is refused by its key. */
function sorted(file: string, { title, parse, ends }: Style, { tensors }: SafetensorsHeader): Found[] {
  const found = new Map<string, Found>();
  for (const [key, entry] of tensors) {
    const parsed = parse(key);
    const side = parsed && (["a", "b", "alpha"] as const).find((one) => ends[one].includes(parsed.end));
    const isText = parsed !== null && /^te|^text/.test(parsed.part);
    if (!parsed || !side || !isText) {
      refuse(
        "unsupported",
        isText || !parsed ? "a tensor of the adapter is no factor of LoRA" : `the adapter has modules of the ${parsed.part}`,
        {
          subject: file,
          expected: `factors of a text encoder's modules, ${ends.a.join(" or ")} and the like`,
          got: quote(key),
          next:
            isText || !parsed
              ? "Other kinds of adapters (LoHa, LoKr, trained magnitudes, convolutions) cannot be read."
              : "Diffusion models are not supported: remove these tensors, or train the text encoder alone.",
        },
      );
    }
    const { part, path } = parsed;
    const [first] = found.values();
    if (first && first.part !== part) {
      const facts = { subject: file, expected: `modules of ${first.part} alone`, got: quote(key) };
      refuse("unsupported", "the adapter is for several text encoders", {
        ...facts,
        next: `Split the ${title} file by encoder.`,
      });
    }
    found.set(path, { ...(found.get(path) ?? { part, path }), [side]: entry });
  }
  return [...found.values()];
}

/** The scales that diffusers' metadata give modules, by path; null if it has none. */
function scalesIn({ metadata }: SafetensorsHeader, key: string, part: string, file: string): ((path: string) => number) | null {
  const text = metadata[key];
  if (text === undefined) return null;
  const subject = `${file}, ${key} of its metadata`;
  let all: Record<string, unknown>;
  try {
    all = JSON.parse(text) as Record<string, unknown>;
  } catch {
    return refuse("file", "the configuration in the metadata is no JSON", { subject, next: "Save the adapter again." });
  }
  const own = Object.entries(all).flatMap(([name, value]) =>
    name.startsWith(`${part}.`) ? [[name.slice(part.length + 1), value]] : [],
  );
  if (own.length === 0) return null;
  const config = parseAdapterConfig(JSON.stringify({ peft_type: "LORA", ...Object.fromEntries(own) }), subject);
  const scales = scaleFinder(config, matchBudget());
  return (path) => scales.of(path).scale;
}

const foreign = (subject: string, base: AnyBase): never =>
  refuse("file", "the adapter is for a module that the base does not have", {
    subject,
    expected: `a module of ${base.checkpoint.folder}`,
    next: "Give the text encoder that the adapter was made for as the base.",
  });
