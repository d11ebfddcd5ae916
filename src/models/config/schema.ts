// Reading JSON with zod so that a failure names the file, the key, what was expected and what was found.
import { z } from "zod";
import { LowrankError, valueText } from "../../errors.ts";

/** Upper limits of what a config may ask for: each is several times the largest published model, none is near overflow. */
export const MAX_VOCAB = 2 ** 24;
export const MAX_LAYERS = 1024;
export const MAX_HEAD_DIM = 4096;
export const MAX_POSITIONS = 2 ** 26;
export const MAX_END_IDS = 256;
export const MAX_LABELS = 2 ** 17;

/** An integer in 1..max. */
export const count = (max: number) => z.number().int().min(1).max(max);

/** What the sizes of a model can be. */
export const sizes = {
  vocab: count(MAX_VOCAB),
  hidden: count(2 ** 17),
  intermediate: count(2 ** 20),
  layers: count(MAX_LAYERS),
  heads: count(4096),
  headDim: count(MAX_HEAD_DIM),
  positions: count(MAX_POSITIONS),
};

/** The small number added to a variance before the square root (eps). */
export const epsilon = z.number().positive().max(1);

/** A token id; `pad_token_id: -1` and the like in old configs stand for "none". */
export const tokenId = z
  .number()
  .int()
  .max(MAX_VOCAB)
  .transform((id) => (id < 0 ? null : id));

/** A value as it is shown in an error, cut to a line. */
export function shownValue(value: unknown): string {
  const text = valueText(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

/**
 * `value` read by `schema`. The first mismatch is a LowrankError `model/config` that names `file` and the key's path;
 * `at` is the path of `value` itself inside the file.
 */
export function readJson<Schema extends z.ZodType>(schema: Schema, value: unknown, file: string, at = ""): z.output<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const key = [at, ...issue.path.map(String)].filter(Boolean).join(".");
  const found = issue.path.reduce<unknown>((inner, step) => (inner as Record<PropertyKey, unknown> | undefined)?.[step], value);
  throw new LowrankError("model/config", key ? `${key} has a value that cannot be used` : "not a model config", {
    subject: file,
    expected: issue.message,
    got: shownValue(found),
    next: "Correct the config, or download it again.",
  });
}
