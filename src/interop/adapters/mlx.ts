// mlx-lm's folder of an adapter: adapters.safetensors and adapter_config.json (mlx_lm/tuner/utils.py, lora.py, dora.py). lora_a is
// [in, rank] and lora_b [rank, out]; one rank and one scale, which multiplies as it is, hold for all modules.
import { z } from "zod";
import type { ModuleTensors } from "../../adapters/method.ts";
import { methodOf, plainMethod } from "../../adapters/method-table.ts";
import type { Adapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import { bytesOf } from "../../formats/dtypes.ts";
import { toFloat32 } from "../../formats/float.ts";
import { readJsonObject } from "../../formats/json.ts";
import { readHeader, readTensor, type TensorSource, writeSafetensors } from "../../formats/safetensors.ts";
import { transposed } from "../../formats/stored.ts";
import type { AnyBase } from "../../models/base.ts";
import type { ModuleInfo } from "../../models/module.ts";
import type { AdapterFormat, AdapterLimits } from "./format.ts";
import {
  adapterOf,
  cannotSay,
  checkLimits,
  checkSayable,
  mostCommon,
  needBase,
  type ReadModule,
  refuse,
  scaledBy,
  UNTIE,
} from "./say.ts";

const TITLE = "an MLX adapter";
const CONFIG = "adapter_config.json";
const WEIGHTS = "adapters.safetensors";

/** Of each model type that mlx-lm has: the first words of Transformers' module paths, and mlx-lm's. */
const ROOTS: Record<string, [theirs: string, ours: string]> = {
  ...Object.fromEntries(
    ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3"].map((type) => [
      type,
      ["model.", "model."],
    ]),
  ),
  gpt2: ["model.", "transformer."],
};

/** mlx-lm's fine_tune_type of a method, the field that asks for it, and its tensor beside the factors. */
const WITH_MAGNITUDE = { type: "dora", field: "useDora", tensor: "magnitude", key: "m" };

export const mlx: AdapterFormat = {
  title: "MLX",
  isAt: async (files, path) => (await files.exists(`${path}/${WEIGHTS}`)) && files.exists(`${path}/${CONFIG}`),
  read: readMlx,
  write: { run: writeMlx },
};

function rootsOf(base: AnyBase): [theirs: string, ours: string] {
  const { modelType } = base.config;
  const roots = Object.hasOwn(ROOTS, modelType) ? ROOTS[modelType] : undefined;
  return roots ?? cannotSay(TITLE, `models of type ${modelType}`, base.checkpoint.folder);
}

/** The layer that a path lies in, and its path inside; null outside the layers. */
const layerOf = (path: string): { layer: number; inside: string } | null => {
  const [, layer, inside] = /\.(\d+)\.(.+)$/.exec(path) ?? [];
  return layer === undefined ? null : { layer: Number(layer), inside: inside! };
};

async function writeMlx(files: Files, folder: string, adapter: Adapter, given: AnyBase | null): Promise<void> {
  const base = needBase(given, TITLE);
  checkSayable(adapter, TITLE, [WITH_MAGNITUDE.field]);
  const [theirs, ours] = rootsOf(base);
  const hasMagnitude = methodOf(adapter.config) !== plainMethod;
  const [scale, rank] = [
    mostCommon(adapter.modules.map((one) => one.scale)),
    Math.max(...adapter.modules.map((one) => one.rank)),
  ];
  const isTied = "tieWordEmbeddings" in base.config && base.config.tieWordEmbeddings;
  const keys = new Set<string>();
  const tensors = adapter.modules.flatMap((module): TensorSource[] => {
    const { path, isEmbedding, inFeatures, outFeatures } = module;
    const tensorsOf = adapter.tensors.get(path)!;
    if (isEmbedding && isTied) {
      cannotSay(TITLE, "an embedding that is tied to the output layer: mlx-lm adapts both", path, UNTIE);
    }
    if (isEmbedding && hasMagnitude) cannotSay(TITLE, "a magnitude of an embedding", path);
    const name = path.startsWith(ours) ? theirs + path.slice(ours.length) : path;
    keys.add(layerOf(name)?.inside ?? name);
    const b = scaledBy(tensorsOf.loraB, module.scale / scale, path);
    // Ranks below the largest are filled up with zeros.
    const a = widened(transposed(tensorsOf.loraA, module.rank, inFeatures), module.rank, rank); // [in, rank]
    const low = new Float32Array(rank * outFeatures); // [rank, out]
    low.set(transposed(b, outFeatures, module.rank));
    const tensor = (end: string, shape: number[], data: Float32Array): TensorSource => {
      return { name: `${name}.${end}`, dtype: "float32", shape, data: () => bytesOf(data) };
    };
    return [
      tensor("lora_a", [inFeatures, rank], a),
      tensor("lora_b", [rank, outFeatures], low),
      ...(hasMagnitude ? [tensor(WITH_MAGNITUDE.key, [outFeatures], tensorsOf[WITH_MAGNITUDE.tensor]!)] : []),
    ];
  });
  await writeSafetensors(files, `${folder}/${WEIGHTS}`, tensors, { format: "mlx" });
  const layers = new Set(base.modules.flatMap(({ path }) => layerOf(path)?.layer ?? []));
  const config = {
    fine_tune_type: hasMagnitude ? WITH_MAGNITUDE.type : "lora",
    lora_parameters: { dropout: adapter.config.dropout, keys: [...keys].sort(), rank, scale },
    model: adapter.config.baseModelNameOrPath,
    num_layers: layers.size,
  };
  await files.write(`${folder}/${CONFIG}`, new TextEncoder().encode(`${JSON.stringify(config, null, 4)}\n`));
}

/** [rows, from] → [rows, to], zeros in the new columns. */
function widened(data: Float32Array, from: number, to: number): Float32Array {
  if (from === to) return data;
  const out = new Float32Array((data.length / from) * to);
  for (let row = 0; row * from < data.length; row++) out.set(data.subarray(row * from, (row + 1) * from), row * to);
  return out;
}

const schema = z.object({
  fine_tune_type: z.string().default("lora"),
  lora_parameters: z.object({ scale: z.number(), dropout: z.number().min(0).lt(1).default(0) }),
});

async function readMlx(files: Files, folder: string, given: AnyBase | null, limits?: AdapterLimits): Promise<Adapter> {
  const base = needBase(given, TITLE);
  const [theirs, ours] = rootsOf(base);
  const path = `${folder}/${WEIGHTS}`;
  const parsed = schema.safeParse(await readJsonObject(files, `${folder}/${CONFIG}`));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const subject = `${folder}/${CONFIG}: ${issue!.path.join(".")}`;
    refuse("file", "the configuration of the adapter cannot be used", { subject, expected: issue!.message, next: "Correct it." });
  }
  const { fine_tune_type: type, lora_parameters: parameters } = parsed.data!;
  const hasMagnitude = type === WITH_MAGNITUDE.type;
  if (type !== "lora" && !hasMagnitude) {
    const facts = { subject: `${folder}/${CONFIG}`, expected: `lora or ${WITH_MAGNITUDE.type}`, got: type };
    refuse("file", "this fine_tune_type is no adapter", { ...facts, next: "Convert adapters alone." });
  }
  const header = await readHeader(files, path);
  const found = new Map<string, Set<string>>();
  for (const name of header.tensors.keys()) {
    const [, module = "", end = ""] = /^(.+)\.([^.]+)$/.exec(name) ?? [];
    found.set(module, (found.get(module) ?? new Set()).add(end));
  }
  const kinds = new Map(base.modules.map((module) => [module.path, module]));
  const ends = ["lora_a", "lora_b", ...(hasMagnitude ? [WITH_MAGNITUDE.key] : [])];
  const shapeOf = (name: string, end: string) => header.tensors.get(`${name}.${end}`)!.shape;
  const wrong = [...found].find(([, own]) => own.size !== ends.length || ends.some((end) => !own.has(end)));
  if (wrong || found.size === 0) {
    const facts = {
      subject: path,
      expected: `${ends.join(", ")} of each module`,
      got: wrong ? [...wrong[1]].join(", ") : "nothing",
    };
    refuse("file", `the tensors of ${wrong?.[0] || "an adapter"} are not those of one`, {
      ...facts,
      next: "Save the adapter again.",
    });
  }
  checkLimits(path, found.size, Math.max(...[...found.keys()].map((name) => shapeOf(name, "lora_a").at(-1) ?? 0)), limits);
  const moduleOf = async (name: string): Promise<ReadModule> => {
    const module = name.startsWith(theirs) ? ours + name.slice(theirs.length) : name;
    const known = kinds.get(module) ?? unknownModule(path, name);
    const rank = shapeOf(name, "lora_a")[1] ?? 0;
    const { inFeatures, outFeatures } = known;
    checkShapes(`${path}: ${name}`, known, rank, shapeOf(name, "lora_a"), shapeOf(name, "lora_b"));
    const read = async (end: string) => toFloat32(await readTensor(files, path, header.tensors.get(`${name}.${end}`)!));
    const [a, b] = [await read("lora_a"), await read("lora_b")];
    const factors = { loraA: transposed(a, inFeatures, rank), loraB: transposed(b, rank, outFeatures) };
    const tensors: ModuleTensors = hasMagnitude
      ? { ...factors, [WITH_MAGNITUDE.tensor]: await read(WITH_MAGNITUDE.key) }
      : factors;
    const isEmbedding = known.kind === "embedding";
    return { path: module, isEmbedding, rank, alpha: parameters.scale * rank, inFeatures, outFeatures, tensors };
  };
  const read: ReadModule[] = [];
  for (const name of found.keys()) read.push(await moduleOf(name));
  const fields = { dropout: parameters.dropout, ...(hasMagnitude && { [WITH_MAGNITUDE.field]: true }) };
  return adapterOf(base, read, fields);
}

function checkShapes(subject: string, module: ModuleInfo, rank: number, a: readonly number[], b: readonly number[]): void {
  const [expectedA, expectedB] = [`${module.inFeatures},${rank}`, `${rank},${module.outFeatures}`];
  if (rank > 0 && a.join() === expectedA && b.join() === expectedB) return;
  refuse("file", "the factors of a module do not fit the base's layer", {
    subject,
    expected: `lora_a [${expectedA}] and lora_b [${expectedB}]`,
    got: `[${a.join()}] and [${b.join()}]`,
    next: "Use the base that the adapter was made for.",
  });
}

const unknownModule = (path: string, name: string): never =>
  refuse("file", "the adapter is for a module that the base does not have", {
    subject: path,
    got: name,
    next: "Use the base that the adapter was made for.",
  });
