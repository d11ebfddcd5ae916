// Adapter folders in and out: adapter_config.json and adapter_model.safetensors, as PEFT 0.21.2 names and shapes them.
import { z } from "zod";
import { type Failure, LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { bytesOf, readableDType, type StoredDType, tensorFromBytes } from "../formats/dtypes.ts";
import { allFinite, isFloat, toFloat32 } from "../formats/float.ts";
import { quote, readText } from "../formats/json.ts";
import {
  neighbours,
  readHeader,
  safetensorsBytes,
  type TensorEntry,
  type TensorSource,
  writeSafetensors,
} from "../formats/safetensors.ts";
import { MAX_VOCAB } from "../models/config/schema.ts";
import type { HeadChoice } from "../models/heads/head.ts";
import { headBeside } from "../models/heads/index.ts";
import type { Platform } from "../platform/platform.ts";
import { sizeOf } from "../tensor.ts";
import { formatAdapterConfig, type LoraConfig, parseAdapterConfig } from "./config.ts";
import { KEY_PREFIX, storedLayout, type Trained, trainedBy, valuesOf } from "./layout.ts";
import { type AdapterModule, isAllLinear, pathMatcher, scaleFinder } from "./match.ts";
import type { Method, ModuleTensors } from "./method.ts";
import { methodOf, methods, unbuiltMethods } from "./method-table.ts";
import { type KeyTarget, parameterAt } from "./parameters.ts";
import { type ModulePlace, storedShape } from "./places.ts";
import { MAX_PATH_CHARS, matchBudget } from "./regex.ts";
import { isCopyOfBias, type SavedTensor, type SavedWeight, savedKey } from "./saved.ts";

export const ADAPTER_CONFIG_NAME = "adapter_config.json";
export const ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors";
const PICKLE_NAME = "adapter_model.bin";
/** Longest key of a factor: a module path and what stands around it. */
const MAX_KEY_CHARS = MAX_PATH_CHARS + 64;
/** Our own entries of the weight file's metadata, which PEFT does not read: what the adapter was trained on. */
const FINGERPRINT_KEY = "lowrank.base";
/** Likewise: the classes of a classifier's head, a JSON list. */
const LABELS_KEY = "lowrank.labels";
/** Likewise: what it was trained for, by its name in the table of tasks. */
const TASK_KEY = "lowrank.task";
/** Most classes that a file can name. */
const MAX_LABELS = 2 ** 17;

/** The key of a frozen weight of the base that is stored with the adapter: `lm_head.weight` is `lm_head.base_layer.weight` there. */
export const frozenKey = (name: string): string => `${KEY_PREFIX}${name.replace(/\.([^.]+)$/, ".base_layer.$1")}`;

/** A whole adapter in memory. */
export interface Adapter {
  config: LoraConfig;
  /** What is adapted, with which rank and scale, in the order of the file. */
  modules: AdapterModule[];
  /** What its method trains of each module, by module path. */
  tensors: Map<string, ModuleTensors>;
  /** What is trained beside the factors, by the model's name of the weight; absent if that is nothing. */
  saved?: Map<string, SavedTensor>;
  /** Weights of the base that PEFT stores with adapters on embeddings and output layers, by the model's name. */
  frozen?: Map<string, SavedTensor>;
  /** What the classes of a classifier's head are called, in the order of its rows; if this project wrote it. */
  labels?: string[];
  /** What it was trained for, if this project wrote it. */
  task?: string;
  /** What files beside it say of the head that it was trained with; absent if there are none. */
  head?: HeadChoice;
  /** Identifies the base it was trained on, if this project wrote it. */
  baseFingerprint?: string;
}

/** An adapter of which no value is read yet. */
export interface AdapterFile {
  /** The adapter without tensors; of the weights beside them it has the shapes. */
  described: Adapter;
  read(): Promise<Adapter>;
}

/** An adapter in memory or on the disk. */
export type GivenAdapter = Adapter | AdapterFile;

export const describedBy = (given: GivenAdapter): Adapter => ("described" in given ? given.described : given);

/** Highest rank and number of modules of an adapter that is read, where the platform sets no other limits. */
export const MAX_ADAPTER_RANK = 8192;
export const MAX_ADAPTER_MODULES = 65_536;

/** Opens an adapter folder and reads it: float16 and bfloat16 become float32. Fails as `openAdapter` does, and for NaN and infinity. */
export const readAdapter = async (files: Files, folder: string, limits?: Platform["adapterLimits"]): Promise<Adapter> =>
  (await openAdapter(files, folder, limits)).read();

/**
 * Opens an adapter folder; no value is read. Throws `adapter/*` and `lora/*` errors that name the tensor or field: a missing factor,
 * keys that are not understood, shapes that disagree with each other or with the configuration, more than the limits allow, modules
 * that the configuration does not target, weights in PyTorch's pickle format.
 */
export async function openAdapter(
  files: Files,
  folder: string,
  { maxRank = MAX_ADAPTER_RANK, maxModules = MAX_ADAPTER_MODULES }: Platform["adapterLimits"] = {},
): Promise<AdapterFile> {
  const configPath = `${folder}/${ADAPTER_CONFIG_NAME}`;
  const path = `${folder}/${ADAPTER_WEIGHTS_NAME}`;
  await checkFolder(files, folder);
  const config = parseAdapterConfig(await readText(files, configPath), configPath);
  const header = await readHeader(files, path);
  const method = methodOf(config);
  for (const [key, { dtype }] of header.tensors) checkDtype(key, dtype, path);
  const { found, saved, frozen } = sortTensors(header.tensors, config, method, path);
  checkLimit("modules", found.size, maxModules, path);

  const budget = matchBudget();
  const scales = scaleFinder(config, budget);
  // Targets that depend on the model's layers select every path here.
  const dependsOnModel = config.targetModules === null || isAllLinear(config.targetModules);
  const isTargeted = dependsOnModel ? () => true : pathMatcher(config, budget).isTargeted;
  const modules: AdapterModule[] = [];
  for (const [modulePath, keys] of found) {
    const parameter = parameterAt(config, modulePath, (other) => found.has(other));
    const scale = scales.of(parameter?.name ?? modulePath);
    const module = moduleOf(modulePath, keys, header.tensors, method, scale, parameter, path);
    if (!parameter && !isTargeted(modulePath)) {
      throw failure("not-targeted", "the file has factors of a module that the configuration does not target", {
        subject: path,
        expected: "a path that target_modules selects: PEFT leaves the others out",
        got: quote(modulePath),
        next: `Correct target_modules in ${configPath}.`,
      });
    }
    checkLimit("the rank", module.rank, maxRank, `${path}: ${modulePath}`);
    checkLimit("a side of a layer", Math.max(module.inFeatures, module.outFeatures), MAX_VOCAB, `${path}: ${modulePath}`);
    modules.push(module);
  }
  const byPath = new Map(modules.map((module) => [module.path, module]));
  for (const [name, { at }] of frozen) checkFrozen(name, header.tensors.get(at)!.shape, byPath, path);
  const { [FINGERPRINT_KEY]: baseFingerprint, [TASK_KEY]: task } = header.metadata;
  const labels = readLabels(header.metadata[LABELS_KEY], path);
  const head = await headBeside(files, folder);
  const whole = (found: ReadonlyMap<string, StoredBeside>, values?: ReadonlyMap<string, Float32Array>) =>
    new Map(
      [...found].map(([name, { at, ...weight }]): [string, SavedTensor] => {
        const { shape } = header.tensors.get(at)!;
        return [name, { shape, ...weight, data: values?.get(at) ?? new Float32Array() }];
      }),
    );
  const adapterOf = (values?: ReadonlyMap<string, Float32Array>): Adapter => ({
    config,
    modules,
    tensors: new Map(values && modules.map((module) => [module.path, moduleTensors(module, method, values)])),
    ...(saved.size > 0 && { saved: whole(saved, values) }),
    ...(frozen.size > 0 && { frozen: whole(frozen, values) }),
    ...(labels !== undefined && { labels }),
    ...(task !== undefined && { task }),
    ...(head && { head }),
    ...(baseFingerprint !== undefined && { baseFingerprint }),
  });
  return { described: adapterOf(), read: async () => adapterOf(await readValues(files, path, header.tensors)) };
}

const moduleTensors = (module: AdapterModule, method: Method, values: ReadonlyMap<string, Float32Array>): ModuleTensors =>
  Object.fromEntries(
    method
      .tensors(module, module.rank)
      .map(({ name, key }) => [name, values.get(`${KEY_PREFIX}${module.keyPath ?? module.path}.${key}`)!]),
  ) as ModuleTensors;

function checkLimit(what: string, count: number, most: number, subject: string): void {
  if (count <= most) return;
  throw failure("limit", `the adapter is larger than the limits allow: ${what}`, {
    subject,
    expected: `at most ${most}`,
    got: String(count),
    next: "Use another adapter, or raise the limit where you trust this one (adapterLimits of the platform).",
  });
}

const labelList = z.array(z.string()).min(2).max(MAX_LABELS);

function readLabels(text: string | undefined, path: string): string[] | undefined {
  if (text === undefined) return undefined;
  try {
    return labelList.parse(JSON.parse(text));
  } catch {}
  throw failure("labels", "the names of the classes cannot be read", {
    subject: `${path}, ${LABELS_KEY} of its metadata`,
    expected: `a JSON list of 2 to ${MAX_LABELS} names`,
    got: quote(text),
    next: "The file is damaged; save the adapter again.",
  });
}

/** Weights of adapters in folders of other programs. */
const FOREIGN: Record<string, [what: string, next: (folder: string) => string]> = {
  "adapters.safetensors": ["the adapter is in MLX's format", converted],
  "pytorch_lora_weights.safetensors": ["the adapter is in diffusers' format", converted],
  "adapters.npz": [
    "the adapter is in MLX's older format",
    () => 'Save it again in Python: mlx.core.save_safetensors("adapters.safetensors", dict(mlx.core.load("adapters.npz"))).',
  ],
};

function converted(folder: string): string {
  return `Convert it first: lowrank convert ${folder} FOLDER --base BASE.`;
}

/** Most names of a folder in which an adapter is looked for. */
const MAX_INNER = 64;

/** The folder of an adapter in `folder`: PEFT's, where the adapter has a name, or the newest checkpoint of a run that did not end. */
export async function innerAdapter(files: Files, folder: string): Promise<string | undefined> {
  const names = (await files.isFolder(folder)) ? (await files.list(folder)).slice(0, MAX_INNER).sort() : [];
  const inner: string[] = [];
  for (const name of names) if (await files.exists(`${folder}/${name}/${ADAPTER_CONFIG_NAME}`)) inner.push(name);
  const stepOf = (name: string) => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? -1);
  const [first] = inner.sort((a, b) => stepOf(b) - stepOf(a));
  return first === undefined ? undefined : `${folder}/${first}`;
}

async function checkFolder(files: Files, folder: string): Promise<void> {
  for (const [name, [message, next]] of Object.entries(FOREIGN)) {
    const isOther = (await files.exists(`${folder}/${name}`)) && !(await files.exists(`${folder}/${ADAPTER_WEIGHTS_NAME}`));
    if (isOther)
      throw failure("no-weights", message, { subject: folder, expected: ADAPTER_WEIGHTS_NAME, got: name, next: next(folder) });
  }
  if (!(await files.exists(`${folder}/${ADAPTER_CONFIG_NAME}`))) {
    const inner = await innerAdapter(files, folder);
    throw failure("no-config", `no ${ADAPTER_CONFIG_NAME} in the folder`, {
      subject: folder,
      expected: `${ADAPTER_CONFIG_NAME} and ${ADAPTER_WEIGHTS_NAME}`,
      next: inner === undefined ? "Give the folder of an adapter." : `Give the folder of an adapter: ${inner}.`,
    });
  }
  if (await files.exists(`${folder}/${ADAPTER_WEIGHTS_NAME}`)) return;
  const [message, next] = (await files.exists(`${folder}/${PICKLE_NAME}`))
    ? [
        `the weights are in PyTorch's pickle format: ${PICKLE_NAME}`,
        "Convert them once with PEFT in Python: load the adapter, then save_pretrained(FOLDER, safe_serialization=True).",
      ]
    : ["no weights in the folder", "Copy the whole adapter folder."];
  const got = (await files.list(folder)).slice(0, 8).join(", ");
  throw failure("no-weights", message, { subject: folder, expected: ADAPTER_WEIGHTS_NAME, got, next });
}

/** What PEFT stores beside an adapter's own tensors, by the end of its key. */
const OTHER_KEYS: [RegExp, string][] = [
  ...unbuiltMethods.flatMap(({ peftName, keys, why }): [RegExp, string][] =>
    keys ? [[keys, `one of ${peftName}: ${why}`]] : [],
  ),
  [/\.trainable_tokens_delta$/, "trained rows of a table, which the configuration does not name"],
  [/\.lora_[AB]\.[^.]+\.weight$/, "a key with an adapter's name in it; PEFT's save_pretrained leaves the name out"],
  [
    /\b(embed_tokens|lm_head|wte|word_embeddings|embed_in|embed_out)\.weight$/,
    "a table that PEFT stores whole where the vocabulary was enlarged, or by save_embedding_layers",
  ],
  [/\.base_layer\.(weight|bias)$/, "a weight of the base, stored with no adapter on its layer"],
];

/** A method's tensors, of modules of any size. */
const tensorsOf = ({ tensors }: Method, isEmbedding: boolean) =>
  tensors({ inFeatures: 1, outFeatures: 1, ...(isEmbedding && { isEmbedding }) }, 1);
/** The ends of their keys. */
const keysOf = (method: Method, isEmbedding: boolean): string[] => tensorsOf(method, isEmbedding).map(({ key }) => key);

/** What a key is that no tensor of `method` has. */
function strangeKey(key: string, method: Method): string {
  if (keysOf(method, false).some((end) => key.endsWith(`.${end}`)))
    return `a factor under a key that does not begin with ${KEY_PREFIX}`;
  const other = methods.find(
    (row) => row !== method && [false, true].some((kind) => keysOf(row, kind).some((end) => key.endsWith(`.${end}`))),
  );
  if (other) return `a tensor of ${other.title}, which the configuration does not use`;
  return OTHER_KEYS.find(([pattern]) => pattern.test(key))?.[1] ?? "not understood";
}

/** A tensor beside the factors, and its key in the file. */
type StoredBeside = Omit<SavedWeight, "name" | "shape"> & { at: string };

/**
 * The keys of each module's tensors by their ends, in the order of the file, and those of what is trained beside them and of
 * frozen weights of the base, by the model's names.
 */
function sortTensors(entries: ReadonlyMap<string, TensorEntry>, config: LoraConfig, method: Method, path: string) {
  const saved = new Map<string, StoredBeside>();
  const frozen = new Map<string, StoredBeside>();
  const tied: string[] = [];
  const found = new Map<string, Set<string>>();
  const unknown: string[] = [];
  const ends = [...new Set([...keysOf(method, false), ...keysOf(method, true)])];
  for (const key of entries.keys()) {
    const known = key.startsWith(KEY_PREFIX) && key.length <= MAX_KEY_CHARS;
    const name = key.slice(KEY_PREFIX.length);
    const end = known ? ends.find((one) => name.endsWith(`.${one}`) && name.length > one.length + 1) : undefined;
    const modulePath = end && name.slice(0, -end.length - 1);
    if (modulePath !== undefined) {
      found.set(modulePath, (found.get(modulePath) ?? new Set()).add(end!));
      continue;
    }
    if (known && isCopyOfBias(name, config)) continue;
    const beside = known ? savedKey(name, config) : null;
    if (beside) {
      const { name: weight, ...facts } = beside;
      saved.set(weight, { ...facts, at: key });
    } else if (known && /.\.base_layer\.(weight|bias)$/.test(name)) {
      frozen.set(name.replace(/\.base_layer(\.[^.]+)$/, "$1"), { at: key });
    } else if (known && config.ensureWeightTying && name.endsWith(".weight")) tied.push(name);
    else unknown.push(key);
  }
  for (const [name, { at }] of frozen) {
    if (found.has(name.replace(/\.[^.]+$/, ""))) continue;
    frozen.delete(name);
    unknown.push(at);
  }
  for (const name of tied) {
    const key = KEY_PREFIX + name;
    const shape = entries.get(key)!.shape.join();
    const [one, facts] = [...saved].find(([, { rows, at }]) => !rows && entries.get(at)!.shape.join() === shape) ?? [];
    if (one) saved.set(one, { ...facts!, tied: [...(facts!.tied ?? []), name] });
    else unknown.push(key);
  }
  if (unknown.length > 0) {
    const what = strangeKey(unknown[0]!, method);
    const message = `${unknown.length} of ${entries.size} keys are not those of a LoRA factor; the first is ${what}`;
    throw failure("unknown-keys", message, {
      subject: path,
      expected: `${KEY_PREFIX}<module path>.${keysOf(method, false).join(" and …")}`,
      got: `${unknown.slice(0, 5).map(quote).join(", ")}${unknown.length > 5 ? ", …" : ""}`,
      next: "Save the adapter by PEFT's save_pretrained without these tensors, rename keys that another program wrote otherwise, or merge it with PEFT.",
    });
  }
  if (found.size === 0)
    throw failure("empty", "the file has no tensors", { subject: path, next: "Copy the whole adapter folder." });
  return { found, saved, frozen };
}

/** Checks that a module's tensors are complete, and their shapes against each other and against the rank of the configuration. */
function moduleOf(
  path: string,
  ends: ReadonlySet<string>,
  entries: ReadonlyMap<string, TensorEntry>,
  method: Method,
  scale: { rank: number; alpha: number; scale: number },
  parameter: KeyTarget | null,
  subject: string,
): AdapterModule {
  const linear = keysOf(method, false);
  const isEmbedding = [...ends].some((end) => !linear.includes(end));
  const keys = keysOf(method, isEmbedding);
  const keyOf = (end: string) => `${KEY_PREFIX}${path}.${end}`;
  if (keys.some((end) => !ends.has(end)) || [...ends].some((end) => !keys.includes(end))) {
    throw failure("missing-factor", `a factor of ${quote(path)} is missing`, {
      subject,
      expected: keys.map(keyOf).join(" and "),
      got: `${[...ends].join(" and ")} alone`,
      next: "The file is incomplete; save the adapter again.",
    });
  }
  const shapes = new Map(tensorsOf(method, isEmbedding).map(({ name, key }) => [name, entries.get(keyOf(key))!.shape]));
  const [a, b] = [shapes.get("loraA")!, shapes.get("loraB")!];
  const got = [...shapes].map(([name, shape]) => `${name.replace(/^lora(?=[AB]$)/, "")} [${shape.join(", ")}]`).join(", ");
  const next = "The adapter_config.json and the weights belong to different adapters, or the file is damaged.";
  const facts = { subject, got, next };
  const experts = parameter?.isExperts ? Math.max(1, Math.floor(a[0]! / scale.rank)) : 1;
  const place: ModulePlace = {
    ...(isEmbedding && { isEmbedding }),
    ...(a.length === 4 && { kernel: a.slice(1) }),
    ...(parameter?.isExperts && { experts }),
  };
  const rank = a[0]! / experts;
  const [inFeatures, outFeatures] = [sizeOf(a.slice(1)), b[0]!];
  const own = method.tensors({ inFeatures, outFeatures, ...place }, rank);
  const fits = a.length >= 2 && own.every((tensor) => shapes.get(tensor.name)!.join() === storedShape(tensor, place).join());
  if (!fits || [...shapes.values()].flat().includes(0)) {
    const expected = "A [rank, in] and B [out, rank]";
    throw failure("shape", `the factors of ${quote(path)} do not fit together`, { ...facts, expected });
  }
  if (rank !== scale.rank) {
    const expected = `rank ${scale.rank}`;
    throw failure("rank", `the rank of ${quote(path)} is not the one that the configuration gives it`, { ...facts, expected });
  }
  const at = parameter ? { path: parameter.path, ...(parameter.isExperts && { keyPath: path }) } : { path };
  return { ...at, ...place, ...scale, inFeatures, outFeatures };
}

/** Checks that a weight of the base that is stored beside a module's tensors is as large as the layer. */
function checkFrozen(name: string, shape: readonly number[], modules: ReadonlyMap<string, AdapterModule>, subject: string): void {
  const { inFeatures, outFeatures } = modules.get(name.replace(/\.[^.]+$/, ""))!;
  const elements = name.endsWith(".bias") ? outFeatures : inFeatures * outFeatures;
  if (sizeOf(shape) === elements) return;
  throw failure("shape", `the frozen weight ${quote(name)} does not fit its layer`, {
    subject,
    expected: `${elements} elements`,
    got: `[${shape.join(", ")}]`,
    next: "The file is damaged; save the adapter again.",
  });
}

function checkDtype(key: string, dtype: StoredDType, subject: string): void {
  if (isFloat(dtype) && dtype !== "float64") return;
  const next = "Save the adapter in float32.";
  const facts = { subject, expected: "float32, float16 or bfloat16", got: dtype, next };
  throw failure("dtype", `${key} has a dtype that no factor has`, facts);
}

/** The values of all tensors, by key, as float32. */
async function readValues(files: Files, path: string, tensors: ReadonlyMap<string, TensorEntry>) {
  const values = new Map<string, Float32Array>();
  for (const group of neighbours([...tensors].map(([key, entry]) => ({ key, ...entry })))) {
    const [start, last] = [group[0]!.offset, group.at(-1)!];
    const bytes = await files.read(path, start, last.offset + last.length - start);
    for (const { key, dtype, shape, offset, length } of group) {
      // Each has memory of its own: what is sent to a worker goes there with all of its buffer.
      const own = group.length > 1 ? bytes.slice(offset - start, offset - start + length) : bytes;
      const data = toFloat32(tensorFromBytes(readableDType(dtype, path), shape, own));
      checkFinite(data, key, path);
      values.set(key, data);
    }
  }
  return values;
}

function checkFinite(values: Float32Array, key: string, subject: string): void {
  if (allFinite(bytesOf(values), "float32")) return;
  const at = values.findIndex((value) => !Number.isFinite(value));
  throw failure("not-finite", `${key} holds a value that is no number`, {
    subject,
    expected: "finite values",
    got: `${values[at]} at element ${at}`,
    next: "The training that made it diverged, or the file is damaged: use an earlier checkpoint.",
  });
}

/**
 * Writes an adapter folder that PEFT loads unchanged (`inference_mode` on, as PEFT saves it). Each file appears whole or
 * not at all. Throws if a factor is missing, has the wrong size or holds NaN or infinity.
 */
export async function writeAdapter(files: Files, folder: string, adapter: Adapter): Promise<void> {
  const { config, frozen = new Map<string, SavedTensor>() } = adapter;
  const path = `${folder}/${ADAPTER_WEIGHTS_NAME}`;
  const own = storedLayout(trainedBy(adapter)).flatMap((entry) =>
    [entry.key, ...(entry.copies ?? [])].map((key) => tensorSource(key, entry.shape, valuesOf(adapter, entry), path)),
  );
  const beside = [...frozen].map(([name, { shape, data }]) => tensorSource(frozenKey(name), shape, data, path));
  await files.makeFolder(folder);
  await writeSafetensors(files, path, [...own, ...beside], metadataOf(adapter));
  const text = formatAdapterConfig({ ...config, inferenceMode: true });
  await files.write(`${folder}/${ADAPTER_CONFIG_NAME}`, new TextEncoder().encode(text));
}

function metadataOf(adapter: Pick<Adapter, "baseFingerprint" | "labels" | "task">): Record<string, string> {
  const { baseFingerprint, labels, task } = adapter;
  return {
    format: "pt",
    ...(baseFingerprint !== undefined && { [FINGERPRINT_KEY]: baseFingerprint }),
    ...(labels !== undefined && { [LABELS_KEY]: JSON.stringify(labels) }),
    ...(task !== undefined && { [TASK_KEY]: task }),
  };
}

/** Size in bytes of the weight file that `writeAdapter` writes, with the name of a base in it. */
export function adapterBytes(
  trained: Trained,
  frozen: readonly SavedWeight[] = [],
  named: Pick<Adapter, "labels" | "task"> = {},
): number {
  const tensor = (name: string, shape: number[]) => ({ name, dtype: "float32" as const, shape });
  const own = storedLayout(trained).flatMap(({ key, copies = [], shape }) => [key, ...copies].map((name) => tensor(name, shape)));
  const beside = frozen.map(({ name, shape }) => tensor(frozenKey(name), shape));
  return safetensorsBytes([...own, ...beside], metadataOf({ baseFingerprint: "3:0123456789abcdef", ...named }));
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

export const failure = (reason: string, message: string, facts: Failure) => new LowrankError(`adapter/${reason}`, message, facts);
