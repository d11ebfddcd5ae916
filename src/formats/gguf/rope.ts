// Rotary positions of a GGUF file: the keys rope.* and the factors that it stores as tensors, as config.json says them.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { sizeOf } from "../../tensor.ts";
import { type CheckpointTensor, readRows } from "../stored.ts";
import type { Metadata } from "./metadata.ts";
import type { GgufHeader } from "./reader.ts";

/** Keys of config.json for heads of `headDim` dimensions. */
export type Rope = (headDim: number) => Record<string, unknown>;

/** Tensors of factors, one a pair of dimensions; the models' own tensors have other names. */
export const FACTORS = { llama3: "rope_freqs.weight", long: "rope_factors_long.weight", short: "rope_factors_short.weight" };

/** What all of Llama 3's have; their factor is the largest of the stored ones. */
const LLAMA_3 = { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };

/** More pairs of dimensions than a head of any model has. */
const MAX_FACTORS = 4096;

/** Reads the few stored factors. `name` is the architecture's. */
export async function ropeOf(
  files: Files,
  file: string,
  { tensors }: GgufHeader,
  metadata: Metadata,
  name: string,
): Promise<Rope> {
  const factors = async (tensor: string): Promise<number[] | undefined> => {
    const entry = tensors.get(tensor);
    if (entry && sizeOf(entry.shape) > MAX_FACTORS) {
      throw new LowrankError("gguf/rope", `the tensor ${tensor} is too large to be factors of rotary positions`, {
        subject: file,
        expected: `at most ${MAX_FACTORS} numbers`,
        got: `shape [${entry.shape.join(", ")}]`,
        next: "The file is damaged, or not of the architecture that it names; fetch it again.",
      });
    }
    return entry && [...(await readRows(files, { ...entry, file } satisfies CheckpointTensor))];
  };
  const [frequencies, long, short] = [await factors(FACTORS.llama3), await factors(FACTORS.long), await factors(FACTORS.short)];
  const number = (key: string) => metadata.number(`${name}.rope.${key}`);
  const theta = number("freq_base") ?? 10_000;
  const original = number("scaling.original_context_length");
  const factor = number("scaling.factor") ?? number("scale_linear");
  const attention = number("scaling.attn_factor");
  return (headDim) => {
    const rotated = number("dimension_count") ?? headDim;
    const scaling = (): object | null => {
      if (frequencies) return llama3Scaling(frequencies, theta, rotated);
      if (short) {
        const facts = { original_max_position_embeddings: original, attention_factor: attention };
        return { rope_type: "longrope", short_factor: short, long_factor: long ?? short, ...facts };
      }
      const type = metadata.text(`${name}.rope.scaling.type`) ?? "linear";
      if (type === "none" || factor === undefined || factor === 0 || factor === 1) return null;
      if (type !== "yarn") return { rope_type: type, factor };
      const scaled = attention !== undefined && { attention_factor: attention * (0.1 * Math.log(factor) + 1) };
      return { rope_type: type, factor, original_max_position_embeddings: original, ...scaled };
    };
    return {
      rope_theta: theta,
      ...(rotated !== headDim && { partial_rotary_factor: rotated / headDim }),
      ...optional("rope_scaling", scaling()),
    };
  };
}

const optional = (key: string, value: object | null): Record<string, object> => (value === null ? {} : { [key]: value });

/** Llama 3's scaling where the factors are what it makes; those of another model as they are. */
function llama3Scaling(factors: readonly number[], theta: number, dim: number): object {
  const { low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: context } = LLAMA_3;
  const factor = Math.max(...factors);
  const isLlama3 = factors.every((stored, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / dim);
    const smooth = Math.min(1, Math.max(0, (context / wavelength - low) / (high - low)));
    return Math.abs(stored * ((1 - smooth) / factor + smooth) - 1) < 1e-4;
  });
  if (isLlama3) return { rope_type: "llama3", factor, ...LLAMA_3 };
  return { rope_type: "longrope", short_factor: factors, long_factor: factors, attention_factor: 1 };
}
