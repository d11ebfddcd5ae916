// A model as a GGUF file, as llama.cpp's convert_hf_to_gguf.py writes it, and a Modelfile for Ollama beside it.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { entryOf } from "../../formats/checkpoint.ts";
import type { Architecture } from "../../formats/gguf/architectures.ts";
import type { Hyperparameters } from "../../formats/gguf/hyperparameters.ts";
import { architectureOf, interleaved, tensorName } from "../../formats/gguf/names.ts";
import { type WritableType, writableNames, writableTypes } from "../../formats/gguf/quantize.ts";
import { FACTORS } from "../../formats/gguf/rope.ts";
import { vocabularyKeys } from "../../formats/gguf/vocabulary.ts";
import { type GgufEntry, type GgufSource, ggufBytes, writeGguf } from "../../formats/gguf/writer.ts";
import { readJsonObject } from "../../formats/json.ts";
import { type CheckpointTensor, readRows, transposed, writtenDType } from "../../formats/stored.ts";
import type { AnyBase } from "../../models/base.ts";
import { type RopeConfig, ropeFrequencies } from "../../models/config/rope-config.ts";
import { weightsIn } from "../../models/module.ts";
import { forwardGraph } from "../../models/registry.ts";
import { sizeOf } from "../../tensor.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import type { ModelFormat, ModelOptions } from "./format.ts";

/** Bytes of a weight in float32 that are converted at once, about. */
const BLOCK_BYTES = 8 * 1024 * 1024;
/** What llama.cpp writes where blocks are used: the version of their layout. */
const QUANTIZATION_VERSION = 2;
/** The type of rows that are no whole blocks, as llama.cpp chooses it. */
const FALLBACK: WritableType = "f16";
/** What is kept in float32 beside vectors: the table of positions. */
const IN_FLOAT32 = "position_embd";

const modelfileOf = (path: string): string => `${path.replace(/\.gguf$/i, "")}.Modelfile`;

export const ggufModel: ModelFormat = {
  title: "GGUF model",
  ending: ".gguf",
  dtypes: { names: writableNames, usual: [], most: 1 },
  outputs: (path) => [path, modelfileOf(path)],
  write: writeModel,
};

const refuse = (base: AnyBase, message: string, expected: string, got: string): never => {
  const next = "Use the model's folder, in a program that reads Transformers' checkpoints.";
  throw new LowrankError("convert/unsayable", message, { subject: base.checkpoint.folder, expected, got, next });
};

async function writeModel(files: Files, path: string, base: AnyBase, { dtypes, onProgress }: ModelOptions): Promise<void> {
  const { config, checkpoint } = base;
  const [name, architecture] =
    architectureOf(config.modelType) ??
    refuse(base, "llama.cpp's architectures that are written lack this model", "llama, …", config.modelType);
  if (config.head !== "lm") refuse(base, "a GGUF model is a language model", "the head lm", config.head);
  const model = hyperparametersOf(base);
  const lack = architecture.lacks(model) ?? unsaidRope(checkpoint.config);
  if (lack !== undefined)
    refuse(base, "llama.cpp would compute something else than this model", `an architecture with ${lack}`, name);
  const type = (dtypes[0] as WritableType | undefined) ?? storedType([...checkpoint.tensors.values()]);
  const tensors = [...(await ropeFactors(base, model)), ...sourcesOf(files, base, architecture, model, type)];
  const tokenizer = await tokenizerOf(base);
  const vocabulary = tokenizer ? await vocabularyOf(files, base, tokenizer) : [];
  const total = tensors.reduce((sum, tensor) => sum + ggufBytes(tensor), 0);
  let done = 0;
  const counted = tensors.map((tensor): GgufSource => {
    const data = async function* () {
      yield* tensor.data();
      done += ggufBytes(tensor);
      onProgress?.({ tensor: tensor.name, done, total });
    };
    return { ...tensor, data };
  });
  const metadata: GgufEntry[] = [
    ["general.architecture", "string", name],
    ["general.type", "string", "model"],
    ["general.name", "string", lastOf(checkpoint.folder)],
    ["general.file_type", "uint32", writableTypes[type].fileType],
    ["general.quantization_version", "uint32", QUANTIZATION_VERSION],
    ...architecture.keys(model).map(([key, kind, value]): GgufEntry => [`${name}.${key}`, kind, value]),
    ...vocabulary,
  ];
  await writeGguf(files, path, metadata, counted);
  await files.write(modelfileOf(path), new TextEncoder().encode(modelfile(path, tokenizer)));
}

const lastOf = (path: string): string =>
  path
    .replace(/[\\/]+$/, "")
    .split(/[\\/]/)
    .at(-1)!;

/** A model without a vocabulary is written without one. */
async function tokenizerOf(base: AnyBase): Promise<Tokenizer | null> {
  try {
    return await base.tokenizer();
  } catch (error) {
    if (error instanceof LowrankError && error.code === "tokenizer/missing") return null;
    throw error;
  }
}

/** The config in the form that architectures write it from. */
function hyperparametersOf({ config, checkpoint }: AnyBase): Hyperparameters {
  const own = config as unknown as Hyperparameters & { hiddenAct?: string; maxPositions: number };
  const raw = checkpoint.config;
  const positions = Number(raw["max_position_embeddings"] ?? raw["n_positions"] ?? own.maxPositions);
  return { ...own, positions, activation: own.hiddenAct ?? own.activation };
}

/** Keys of rotary positions that a GGUF file does not have. */
function unsaidRope(raw: Record<string, unknown>): string | undefined {
  const scaling = { ...(raw["rope_parameters"] as object), ...(raw["rope_scaling"] as object) } as Record<string, unknown>;
  const usual: Record<string, unknown> = { beta_fast: 32, beta_slow: 1, truncate: true, mscale: 0, mscale_all_dim: 0 };
  const key = Object.keys(usual).find((one) => scaling[one] != null && scaling[one] !== usual[one]);
  return key && `${key} ${JSON.stringify(scaling[key])} in its rotary positions`;
}

/** The type that most bytes of weights are stored in; bfloat16 in the place of blocks. */
function storedType(tensors: readonly CheckpointTensor[]): WritableType {
  const largest = tensors.reduce((most, one) => (one.length > most.length ? one : most));
  const types: Record<string, WritableType> = { float32: "f32", float16: "f16", bfloat16: "bf16" };
  return types[writtenDType(largest)] ?? "f32";
}

/** Tensors that hold factors of rotary positions, one a pair of dimensions. */
async function ropeFactors({ config, checkpoint }: AnyBase, { headDim }: Hyperparameters): Promise<GgufSource[]> {
  const { rope } = config as { rope?: RopeConfig };
  const source = (name: string, values: ArrayLike<number>): GgufSource => {
    return { name, type: "f32", shape: [values.length], data: () => [Float32Array.from(values)] };
  };
  if (rope?.type === "llama3") {
    const { theta, dim } = rope;
    const plain = ropeFrequencies({ type: "default", theta, ...(dim !== undefined && { dim }) }, headDim);
    const scaled = ropeFrequencies(rope, headDim);
    return [
      source(
        FACTORS.llama3,
        Float32Array.from(plain, (one, i) => one / scaled[i]!),
      ),
    ];
  }
  if (rope?.type !== "longrope") return [];
  const raw = (checkpoint.config["rope_scaling"] ?? checkpoint.config["rope_parameters"]) as { long_factor?: number[] };
  return [source(FACTORS.long, raw.long_factor ?? rope.shortFactors), source(FACTORS.short, rope.shortFactors)];
}

/** A model's weights under GGUF's names. */
function sourcesOf(
  files: Files,
  base: AnyBase,
  architecture: Architecture,
  model: Hyperparameters,
  type: WritableType,
): GgufSource[] {
  const { checkpoint, config } = base;
  const names = [...new Set(weightsIn(forwardGraph(config)).map(({ name }) => name))];
  const heads = { num_attention_heads: model.heads, num_key_value_heads: model.kvHeads };
  return names.map((name) => {
    const [, module = "", kind = ""] = /^(.+)\.(weight|bias)$/.exec(name) ?? [];
    const stem =
      tensorName(architecture, module) ?? refuse(base, "llama.cpp's architecture lacks a weight of the model", "none", name);
    const entry = entryOf(checkpoint, name)!;
    const { rotaryHeads, plus = 0, transposed: isTurned = false } = architecture.layout?.(name, heads) ?? {};
    const isMatrix = entry.shape.length > 1;
    const shape = isTurned && isMatrix ? [...entry.shape].reverse() : entry.shape;
    const isWhole = shape.at(-1)! % writableTypes[type].elements === 0;
    const own = !isMatrix || stem === IN_FLOAT32 ? "f32" : isWhole ? type : FALLBACK;
    const rows = entry.shape[0]!;
    const columns = sizeOf(entry.shape) / rows;
    const headRows = rotaryHeads === undefined ? 1 : rows / rotaryHeads;
    const data = async function* (): AsyncGenerator<Float32Array> {
      if (isTurned && isMatrix) {
        yield transposed(await readRows(files, entry), rows, columns);
        return;
      }
      const step = Math.max(1, Math.floor(BLOCK_BYTES / (4 * columns * headRows))) * headRows;
      for (let row = 0; row < rows; row += step) {
        const block = await readRows(files, entry, row, Math.min(step, rows - row));
        const ordered = rotaryHeads === undefined ? block : interleaved(block, columns, headRows);
        yield plus === 0 ? ordered : ordered.map((value) => value - plus);
      }
    };
    return { name: `${stem}.${kind}`, type: own, shape, data };
  });
}

async function vocabularyOf(files: Files, base: AnyBase, tokenizer: Tokenizer): Promise<GgufEntry[]> {
  const path = `${base.checkpoint.folder}/tokenizer.json`;
  const ids = tokenizer.frame(false).flatMap((part) => ("id" in part ? [part.id] : []));
  const [addsBos, addsEos] = [ids[0] === tokenizer.bosId && ids.length > 0, ids.length > 0 && ids.at(-1) === tokenizer.eosId];
  const special = {
    bos: tokenizer.bosId ?? idOf(base, "bosId"),
    eos: tokenizer.eosId ?? tokenizer.eosIds[0],
    pad: idOf(base, "padId") ?? tokenizer.padId,
    addsBos,
    addsEos,
    template: tokenizer.template?.source,
  };
  if (ids.length > Number(addsBos) + Number(addsEos)) {
    const facts = { subject: path, expected: "at most a BOS before a text and an EOS behind it", got: ids.join(", ") };
    throw new LowrankError("gguf/tokenizer", "llama.cpp cannot put these special tokens around a text", {
      ...facts,
      next: "This tokenizer cannot be written to a GGUF file; use the model's folder.",
    });
  }
  return vocabularyKeys(await readJsonObject(files, path), base.config.vocabSize, special, path);
}

const idOf = ({ config }: AnyBase, key: "bosId" | "padId"): number | undefined =>
  (config as unknown as Record<string, number | null>)[key] ?? undefined;

/** What `ollama create NAME -f FILE` reads: the file beside it, and the tokens that end an answer. */
function modelfile(path: string, tokenizer: Tokenizer | null): string {
  const stops = (tokenizer?.eosIds ?? []).flatMap((id) => tokenizer?.idToToken(id) ?? []);
  const lines = [`FROM ./${lastOf(path)}`, ...stops.map((token) => `PARAMETER stop ${JSON.stringify(token)}`)];
  return `${lines.join("\n")}\n`;
}
