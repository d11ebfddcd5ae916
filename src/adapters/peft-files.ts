// Adapter folders in and out: adapter_config.json and adapter_model.safetensors, as PEFT 0.21.2 names and shapes them.
import { z } from "zod";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { bytesOf } from "../formats/dtypes.ts";
import { isFloat, toFloat32 } from "../formats/float.ts";
import { quote, readText } from "../formats/json.ts";
import {
  readHeader,
  readTensor,
  safetensorsBytes,
  type TensorEntry,
  type TensorSource,
  writeSafetensors,
} from "../formats/safetensors.ts";
import { sizeOf } from "../tensor.ts";
import { formatAdapterConfig, type LoraConfig, parseAdapterConfig } from "./config.ts";
import type { LoraFactors } from "./init.ts";
import { type AdapterModule, pathMatcher, scaleFinder } from "./match.ts";
import { MAX_PATH_CHARS, matchBudget } from "./regex.ts";
import { isSaved, type SavedTensor, type SavedWeight } from "./saved.ts";

export const ADAPTER_CONFIG_NAME = "adapter_config.json";
export const ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors";
const PICKLE_NAME = "adapter_model.bin";
/** Longest key of a factor: a module path and what stands around it. */
const MAX_KEY_CHARS = MAX_PATH_CHARS + 64;
const PREFIX = "base_model.model.";
/** Our own entries of the weight file's metadata, which PEFT does not read: what the adapter was trained on. */
const FINGERPRINT_KEY = "lowrank.base";
/** Likewise: the classes of a classifier's head, a JSON list. */
const LABELS_KEY = "lowrank.labels";
/** Most classes that a file can name. */
const MAX_LABELS = 2 ** 17;

/** The names of a module's factors in the weight file. */
export const loraAKey = (path: string): string => `${PREFIX}${path}.lora_A.weight`;
/** The name of a weight of a module that is trained in full beside the adapter (modules_to_save). */
export const savedKey = (name: string): string => `${PREFIX}${name}`;
export const loraBKey = (path: string): string => `${PREFIX}${path}.lora_B.weight`;

/** A whole adapter in memory. */
export interface Adapter {
  config: LoraConfig;
  /** What is adapted, with which rank and scale, in the order of the file. */
  modules: AdapterModule[];
  /** The factors, by module path. */
  tensors: Map<string, LoraFactors>;
  /** The weights of modules that are trained in full, by stored name; absent if there are none. */
  saved?: Map<string, SavedTensor>;
  /** What the classes of a classifier's head are called, in the order of its rows; if this project wrote it. */
  labels?: string[];
  /** Identifies the base it was trained on, if this project wrote it. */
  baseFingerprint?: string;
}

/**
 * Reads an adapter folder; float16 and bfloat16 become float32. Throws `adapter/*` and `lora/*` errors that name the
 * tensor or field: a missing factor, keys that are not understood, shapes that disagree with each other or with the
 * configuration, NaN and infinity, modules that the configuration does not target, weights in PyTorch's pickle format.
 */
export async function readAdapter(files: Files, folder: string): Promise<Adapter> {
  const configPath = `${folder}/${ADAPTER_CONFIG_NAME}`;
  const path = `${folder}/${ADAPTER_WEIGHTS_NAME}`;
  await checkFolder(files, folder);
  const config = parseAdapterConfig(await readText(files, configPath), configPath);
  const header = await readHeader(files, path);
  const { pairs, saved } = sortTensors(header.tensors, config, path);

  const budget = matchBudget();
  const scales = scaleFinder(config, budget);
  const isTargeted = targetTest(config, budget);
  const modules: AdapterModule[] = [];
  const tensors = new Map<string, LoraFactors>();
  for (const [modulePath, { a, b }] of pairs) {
    const module = moduleOf(modulePath, a.shape, b.shape, scales.of(modulePath), path);
    if (!isTargeted(modulePath)) {
      throw failure("not-targeted", "the file has factors of a module that the configuration does not target", {
        subject: path,
        expected: "a path that target_modules selects: PEFT leaves the others out",
        got: quote(modulePath),
        next: `Correct target_modules in ${configPath}.`,
      });
    }
    modules.push(module);
    tensors.set(modulePath, {
      loraA: await readFactor(files, path, loraAKey(modulePath), a),
      loraB: await readFactor(files, path, loraBKey(modulePath), b),
    });
  }
  const whole = new Map<string, SavedTensor>();
  for (const [name, entry] of saved) {
    whole.set(name, { shape: entry.shape, data: await readFactor(files, path, savedKey(name), entry) });
  }
  const fingerprint = header.metadata[FINGERPRINT_KEY];
  const labels = readLabels(header.metadata[LABELS_KEY], path);
  return {
    config,
    modules,
    tensors,
    ...(whole.size > 0 && { saved: whole }),
    ...(labels !== undefined && { labels }),
    ...(fingerprint !== undefined && { baseFingerprint: fingerprint }),
  };
}

const labelList = z.array(z.string()).min(2).max(MAX_LABELS);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function readLabels(text: string | undefined, path: string): string[] | undefined {
  if (text === undefined) return undefined;
  const labels = labelList.safeParse(parsed(text)).data;
  if (labels) return labels;
  throw failure("labels", "the names of the classes cannot be read", {
    subject: `${path}, ${LABELS_KEY} of its metadata`,
    expected: `a JSON list of 2 to ${MAX_LABELS} names`,
    got: quote(text),
    next: "The file is damaged; save the adapter again.",
  });
}

async function checkFolder(files: Files, folder: string): Promise<void> {
  if (!(await files.exists(`${folder}/${ADAPTER_CONFIG_NAME}`))) {
    const names = (await files.isFolder(folder)) ? await files.list(folder) : [];
    const checkpoint = Math.max(0, ...names.map((name) => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? 0)));
    throw failure("no-config", `no ${ADAPTER_CONFIG_NAME} in the folder`, {
      subject: folder,
      expected: `${ADAPTER_CONFIG_NAME} and ${ADAPTER_WEIGHTS_NAME}`,
      next: `Give the folder of an adapter.${checkpoint === 0 ? "" : ` A run that did not end has one in each checkpoint: ${folder}/checkpoint-${checkpoint}.`}`,
    });
  }
  if (await files.exists(`${folder}/${ADAPTER_WEIGHTS_NAME}`)) return;
  const pickled = await files.exists(`${folder}/${PICKLE_NAME}`);
  throw failure(
    "no-weights",
    pickled ? `the weights are in PyTorch's pickle format: ${PICKLE_NAME}` : "no weights in the folder",
    {
      subject: folder,
      expected: ADAPTER_WEIGHTS_NAME,
      next: pickled
        ? "Convert them once with PEFT in Python: load the adapter, then save_pretrained(FOLDER, safe_serialization=True)."
        : "Copy the whole adapter folder.",
    },
  );
}

/** What PEFT stores beside A and B, by the end of its key. */
const OTHER_KEYS: [RegExp, string][] = [
  [/\.lora_embedding_[AB]$/, "an adapter on an embedding, which is not supported yet"],
  [/\.lora_magnitude_vector(\.weight)?$/, "DoRA's magnitudes, which are not supported"],
  [/\.lora_[AB]\.bias$/, "a bias of a factor, which is not supported"],
  [/\.trainable_tokens_delta$/, "trained token embeddings, which are not supported"],
  [/\.lora_[AB]\.[^.]+\.weight$/, "a key with an adapter's name in it; PEFT's save_pretrained leaves the name out"],
  [
    /\.base_layer\.(weight|bias)$/,
    "a weight of the base, stored with an adapter on an embedding or output layer, which is not supported yet",
  ],
];

/** The entries of A and B of each module, in the order of the file, and those of weights that are saved whole. */
function sortTensors(entries: ReadonlyMap<string, TensorEntry>, config: LoraConfig, path: string) {
  const saved = new Map<string, TensorEntry>();
  const found = new Map<string, { a?: TensorEntry; b?: TensorEntry }>();
  const unknown: string[] = [];
  for (const [key, entry] of entries) {
    const known = key.startsWith(PREFIX) && key.length <= MAX_KEY_CHARS;
    const match = known ? /^(.+)\.lora_([AB])\.weight$/s.exec(key.slice(PREFIX.length)) : null;
    if (!match) {
      const name = key.slice(PREFIX.length);
      const isWhole = known && /\.(weight|bias)$/.test(name) && isSaved(config, name.replace(/\.(weight|bias)$/, ""));
      if (isWhole) saved.set(name, entry);
      else unknown.push(key);
      continue;
    }
    const pair = found.get(match[1]!) ?? {};
    pair[match[2] === "A" ? "a" : "b"] = entry;
    found.set(match[1]!, pair);
  }
  if (unknown.length > 0) {
    const what = OTHER_KEYS.find(([pattern]) => pattern.test(unknown[0]!))?.[1] ?? "not understood";
    throw failure(
      "unknown-keys",
      `${unknown.length} of ${entries.size} keys are not those of a LoRA factor; the first is ${what}`,
      {
        subject: path,
        expected: `${PREFIX}<module path>.lora_A.weight and …lora_B.weight`,
        got: `${unknown.slice(0, 5).map(quote).join(", ")}${unknown.length > 5 ? ", …" : ""}`,
        next: "Save the adapter with PEFT without these tensors, or merge it there.",
      },
    );
  }
  if (found.size === 0)
    throw failure("empty", "the file has no tensors", { subject: path, next: "Copy the whole adapter folder." });
  const pairs = [...found].map(([modulePath, { a, b }]): [string, { a: TensorEntry; b: TensorEntry }] => {
    if (a && b) return [modulePath, { a, b }];
    throw failure("missing-factor", `a factor of ${quote(modulePath)} is missing`, {
      subject: path,
      expected: `both ${loraAKey(modulePath)} and ${loraBKey(modulePath)}`,
      got: a ? "A alone" : "B alone",
      next: "The file is incomplete; save the adapter again.",
    });
  });
  return { pairs, saved };
}

/** Checks the shapes of A [rank, in] and B [out, rank] against each other and against the rank of the configuration. */
function moduleOf(
  path: string,
  a: readonly number[],
  b: readonly number[],
  scale: { rank: number; alpha: number; scale: number },
  subject: string,
): AdapterModule {
  const got = `A [${a.join(", ")}], B [${b.join(", ")}]`;
  const next = "The adapter_config.json and the weights belong to different adapters, or the file is damaged.";
  if (a.length !== 2 || b.length !== 2 || a[0] !== b[1] || [...a, ...b].includes(0)) {
    throw failure("shape", `the factors of ${quote(path)} do not fit together`, {
      subject,
      expected: "A [rank, in] and B [out, rank]",
      got,
      next,
    });
  }
  if (a[0] !== scale.rank) {
    throw failure("rank", `the rank of ${quote(path)} is not the one that the configuration gives it`, {
      subject,
      expected: `rank ${scale.rank}`,
      got,
      next,
    });
  }
  return { path, ...scale, inFeatures: a[1]!, outFeatures: b[0]! };
}

async function readFactor(files: Files, path: string, key: string, entry: TensorEntry): Promise<Float32Array> {
  if (!isFloat(entry.dtype) || entry.dtype === "float64") {
    throw failure("dtype", `${key} has a dtype that no factor has`, {
      subject: path,
      expected: "float32, float16 or bfloat16",
      got: entry.dtype,
      next: "Save the adapter in float32.",
    });
  }
  const values = toFloat32(await readTensor(files, path, entry));
  checkFinite(values, key, path);
  return values;
}

function checkFinite(values: Float32Array, key: string, subject: string): void {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  throw failure("not-finite", `${key} holds a value that is no number`, {
    subject,
    expected: "finite values",
    got: `${values[at]} at element ${at}`,
    next: "The training that made it diverged, or the file is damaged: use an earlier checkpoint.",
  });
}

/** Whether the configuration's targets select a path. Those that depend on the model's layers select every path here. */
function targetTest(config: LoraConfig, budget: ReturnType<typeof matchBudget>): (path: string) => boolean {
  const { targetModules } = config;
  if (targetModules === null || (typeof targetModules === "string" && targetModules.toLowerCase() === "all-linear"))
    return () => true;
  return pathMatcher(config, budget).isTargeted;
}

/**
 * Writes an adapter folder that PEFT loads unchanged (`inference_mode` on, as PEFT saves it). Each file appears whole or
 * not at all. Throws if a factor is missing, has the wrong size or holds NaN or infinity.
 */
export async function writeAdapter(files: Files, folder: string, adapter: Adapter): Promise<void> {
  const { config, modules, tensors, saved = new Map<string, SavedTensor>() } = adapter;
  const path = `${folder}/${ADAPTER_WEIGHTS_NAME}`;
  const sources = modules.flatMap((module): TensorSource[] => {
    const { path: modulePath, rank, inFeatures, outFeatures } = module;
    const factors = tensors.get(modulePath);
    return [
      tensorSource(loraAKey(modulePath), [rank, inFeatures], factors?.loraA, path),
      tensorSource(loraBKey(modulePath), [outFeatures, rank], factors?.loraB, path),
    ];
  });
  for (const [name, { shape, data }] of saved) sources.push(tensorSource(savedKey(name), shape, data, path));
  await files.makeFolder(folder);
  await writeSafetensors(files, path, sources, metadataOf(adapter));
  await files.write(
    `${folder}/${ADAPTER_CONFIG_NAME}`,
    new TextEncoder().encode(formatAdapterConfig({ ...config, inferenceMode: true })),
  );
}

function metadataOf({ baseFingerprint, labels }: Pick<Adapter, "baseFingerprint" | "labels">): Record<string, string> {
  return {
    format: "pt",
    ...(baseFingerprint !== undefined && { [FINGERPRINT_KEY]: baseFingerprint }),
    ...(labels !== undefined && { [LABELS_KEY]: JSON.stringify(labels) }),
  };
}

/** Size in bytes of the weight file that `writeAdapter` writes, with the name of a base in it. */
export function adapterBytes(modules: readonly AdapterModule[], saved: readonly SavedWeight[] = [], labels?: string[]): number {
  const factor = (name: string, shape: number[]) => ({ name, dtype: "float32" as const, shape });
  const factors = modules.flatMap(({ path, rank, inFeatures, outFeatures }) => [
    factor(loraAKey(path), [rank, inFeatures]),
    factor(loraBKey(path), [outFeatures, rank]),
  ]);
  const whole = saved.map(({ name, shape }) => factor(savedKey(name), shape));
  return safetensorsBytes([...factors, ...whole], metadataOf({ baseFingerprint: "2:0123456789abcdef", labels }));
}

function tensorSource(name: string, shape: readonly number[], data: Float32Array | undefined, path: string): TensorSource {
  if (data?.length !== sizeOf(shape)) {
    throw failure("shape", `${name} has the wrong size`, {
      subject: path,
      expected: `${sizeOf(shape)} elements, [${shape.join(", ")}]`,
      got: data ? `${data.length} elements` : "no tensor",
      next: "Give both factors of each module.",
    });
  }
  checkFinite(data, name, path);
  return { name, dtype: "float32", shape: [...shape], data: () => bytesOf(data) };
}

const failure = (reason: string, message: string, facts: ConstructorParameters<typeof LowrankError>[2]) =>
  new LowrankError(`adapter/${reason}`, message, facts);
