// A GGUF file as a checkpoint: config.json, Transformers' names of tensors, and what was done to them.
import { LowrankError, nearest } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { quote } from "../json.ts";
import type { CheckpointTensor } from "../stored.ts";
import { type Architecture, architectures } from "./architectures.ts";
import { isBlockDType } from "./blocks.ts";
import { metadataOf } from "./metadata.ts";
import { moduleName } from "./names.ts";
import { type GgufHeader, readGguf } from "./reader.ts";
import { FACTORS, ropeOf } from "./rope.ts";
import { type GgufTokenizer, ggufTokenizer } from "./tokenizer.ts";

/** Whether a path is that of a GGUF file, by its name. */
export const isGguf = (path: string): boolean => /\.gguf$/i.test(path);

/** Whether a GGUF file is llama.cpp's adapter. */
export const isGgufAdapter = ({ metadata }: GgufHeader): boolean => metadata.get("general.type") === "adapter";

export interface GgufModel {
  config: Record<string, unknown>;
  /** By Transformers' names, in the order of the payload. */
  tensors: Map<string, CheckpointTensor>;
  /** The vocabulary; null if the file has none. */
  tokenizer: GgufTokenizer | null;
}

/** What a GGUF file holds. Codes of errors: `gguf/*`. */
export async function openGguf(files: Files, path: string): Promise<GgufModel> {
  const file = await files.realPath(path);
  const header = await readGguf(files, file);
  if (isGgufAdapter(header)) {
    throw new LowrankError("gguf/adapter", "the GGUF file is an adapter, and no model", {
      subject: path,
      expected: "a model, or a folder of PEFT's for an adapter",
      next: `Convert it first: lowrank convert ${path} FOLDER --base BASE.`,
    });
  }
  const metadata = metadataOf(path, header.metadata);
  const name = metadata.required("general.architecture", metadata.text("general.architecture"));
  const architecture = Object.hasOwn(architectures, name) ? architectures[name]! : unknownArchitecture(path, name);
  if (header.tensors.size === 0) {
    throw new LowrankError("gguf/empty", "the GGUF file has no weights", {
      subject: path,
      expected: "a model; files with a vocabulary alone are made for tests",
      next: "Take a file of the model itself.",
    });
  }
  refuseExperts(path, metadata.number(`${name}.expert_count`) ?? 0);
  const rope = await ropeOf(files, file, header, metadata, name);
  const shapeOf = (tensor: string) => header.tensors.get(tensor)?.shape;
  const tokenizer = ggufTokenizer(metadata, path, architecture.vocabulary);
  const { bos_token_id = null, eos_token_id = [], pad_token_id = null } = tokenizer?.ids ?? {};
  const config = {
    ...architecture.config({ metadata, name, shapeOf, rope }),
    tie_word_embeddings: shapeOf("output.weight") === undefined,
    torch_dtype: dtypeOf(header),
    bos_token_id,
    eos_token_id: eos_token_id[0] ?? null,
    pad_token_id,
  };
  return { config, tensors: renamed(path, file, header, architecture, config), tokenizer };
}

/** The dtype that most bytes are in; bfloat16 for blocks. */
function dtypeOf({ tensors }: GgufHeader): string {
  const largest = [...tensors.values()].reduce((most, one) => (one.length > most.length ? one : most));
  return isBlockDType(largest.dtype) ? "bfloat16" : largest.dtype;
}

/** Tensors that config.json has in. */
const unlisted = new Set<string>(Object.values(FACTORS));

function renamed(
  path: string,
  file: string,
  { tensors }: GgufHeader,
  architecture: Architecture,
  config: Record<string, unknown>,
): Map<string, CheckpointTensor> {
  const found = new Map<string, CheckpointTensor>();
  for (const [stored, tensor] of tensors) {
    if (unlisted.has(stored)) continue;
    const { module = unknownTensor(path, stored, architecture), kind } = moduleName(architecture, stored);
    const name = `${module}.${kind}`;
    const layout = architecture.layout?.(name, config);
    const { shape, length } = tensor;
    const heads = layout?.rotaryHeads;
    if (heads !== undefined && !(heads > 0 && shape[0]! % (2 * heads) === 0)) {
      throw new LowrankError("gguf/metadata", "the number of attention heads does not fit a tensor", {
        subject: `${path}: ${stored}`,
        expected: `a multiple of ${2 * heads} rows`,
        got: `[${shape.join(", ")}]`,
        next: "Download the file again, or another one of the model.",
      });
    }
    const isSwapped = layout?.transposed && shape.length === 2;
    found.set(name, { ...tensor, shape: isSwapped ? [...shape].reverse() : shape, length, file, ...(layout && { layout }) });
  }
  return found;
}

function unknownArchitecture(path: string, name: string): never {
  throw new LowrankError("gguf/architecture", "this architecture can't be read from a GGUF file", {
    subject: path,
    expected: Object.keys(architectures).join(", "),
    got: quote(name),
    next: "Use the model's safetensors checkpoint, if its model type is supported (lowrank inspect FOLDER says so).",
  });
}

function refuseExperts(path: string, experts: number): void {
  if (experts === 0) return;
  throw new LowrankError("gguf/experts", "mixtures of experts can't be read from a GGUF file", {
    subject: path,
    expected: "a model without experts",
    got: `${experts} experts`,
    next: "Use the model's safetensors checkpoint.",
  });
}

function unknownTensor(path: string, stored: string, { outside, inside }: Architecture): never {
  const known = [...Object.keys(outside), ...Object.keys(inside)];
  throw new LowrankError("gguf/tensor", "the file has a tensor that the architecture does not have", {
    subject: path,
    expected: `a name of the architecture, such as ${nearest(stored, known, 3).join(", ")}`,
    got: quote(stored),
    next: "The model is a variant that can't be read from a GGUF file; use its safetensors checkpoint.",
  });
}
