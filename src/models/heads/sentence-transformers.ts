// The files by which sentence-transformers 2 to 6 describes a model of sentence embeddings, in the folder of a checkpoint or an adapter.
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { parseJson, readJsonObject, readText } from "../../formats/json.ts";
import { MAX_POSITIONS, readJson, shownValue } from "../config/schema.ts";
import type { HeadChoice, HeadConfig, Pooling } from "./head.ts";

const MODULES = "modules.json";
const POOLING_FOLDER = "1_Pooling";
const LENGTH = "sentence_bert_config.json";
const PROMPTS = "config_sentence_transformers.json";
/** Modules of a model, and prompts. */
const MAX_ENTRIES = 64;

/** What each pooling is called since version 6, and the flag that it was before. */
const poolingNames: Record<Pooling, { name: string; flag: string }> = {
  mean: { name: "mean", flag: "pooling_mode_mean_tokens" },
  cls: { name: "cls", flag: "pooling_mode_cls_token" },
  last: { name: "lasttoken", flag: "pooling_mode_lasttoken" },
};
/** The flags of all, in the order they are written. */
const FLAGS = [
  "pooling_mode_cls_token",
  "pooling_mode_mean_tokens",
  "pooling_mode_max_tokens",
  "pooling_mode_mean_sqrt_len_tokens",
  "pooling_mode_weightedmean_tokens",
  "pooling_mode_lasttoken",
];

const modulesSchema = z
  .array(z.object({ path: z.string().regex(/^[\w-]*$/, "the name of a folder"), type: z.string() }))
  .min(1)
  .max(MAX_ENTRIES);
const lengthSchema = z.object({
  max_seq_length: z.number().int().min(1).max(MAX_POSITIONS).nullish(),
  do_lower_case: z.boolean().nullish(),
});
const poolingSchema = z.looseObject({
  pooling_mode: z.union([z.string(), z.array(z.string()).min(1).max(MAX_ENTRIES)]).optional(),
  include_prompt: z.boolean().default(true),
});
const promptsSchema = z.object({
  prompts: z.record(z.string(), z.string()).nullish(),
  default_prompt_name: z.string().nullish(),
});
/** A tokenizer without a limit has a huge number here. */
const tokenizerSchema = z.object({ model_max_length: z.number().min(1).nullish().catch(null) });

/** What the folder says of its embedding; null without modules.json. Fails with `model/config` and `model/unsupported`. */
export async function readEmbedding(files: Files, folder: string): Promise<HeadChoice | null> {
  const file = `${folder}/${MODULES}`;
  if (!(await files.exists(file))) return null;
  const modules = readJson(modulesSchema, parseJson(await readText(files, file), file), file);
  const kinds = modules.map(({ type }) => type.replace(/^.*\./, ""));
  const isKnown = kinds[0] === "Transformer" && kinds[1] === "Pooling" && kinds.slice(2).every((kind) => kind === "Normalize");
  if (!isKnown) throw unsupported(file, "Transformer, Pooling and, if any, Normalize", kinds.join(", "));
  if (modules[0]!.path !== "") throw unsupported(file, "a Transformer in the folder itself", `one in ${modules[0]!.path}`);
  const optional = async <Schema extends z.ZodType>(name: string, schema: Schema) => {
    const path = `${folder}/${name}`;
    return readJson(schema, (await files.exists(path)) ? await readJsonObject(files, path) : {}, path);
  };
  const { prompts, promptName } = promptsOf(await optional(PROMPTS, promptsSchema), `${folder}/${PROMPTS}`);
  const path = `${folder}/${modules[1]!.path}/config.json`;
  const pooling = poolingOf(await readJsonObject(files, path), path, Object.values(prompts).some(Boolean));
  const length = await optional(LENGTH, lengthSchema);
  if (length.do_lower_case) throw unsupported(`${folder}/${LENGTH}: do_lower_case`, "false", "true");
  const tokenizer = await optional("tokenizer_config.json", tokenizerSchema);
  const most = length.max_seq_length ?? tokenizer.model_max_length ?? null;
  return {
    pooling,
    prompts,
    promptName,
    ...(most !== null && most <= MAX_POSITIONS && { maxTokens: Math.floor(most) }),
  };
}

function poolingOf(json: unknown, file: string, hasPrompts: boolean): Pooling {
  const { pooling_mode: mode, include_prompt: includesPrompt, ...others } = readJson(poolingSchema, json, file);
  if (hasPrompts && !includesPrompt) throw unsupported(`${file}: include_prompt`, "true where there are prompts", "false");
  const flags = FLAGS.filter((flag) => others[flag] === true);
  const modes = mode === undefined ? (flags.length === 0 ? ["mean"] : flags) : [mode].flat();
  const found = (Object.keys(poolingNames) as Pooling[]).find(
    (one) => modes.length === 1 && [poolingNames[one].name, poolingNames[one].flag].includes(modes[0]!),
  );
  if (found) return found;
  throw unsupported(file, "mean, cls or lasttoken alone", modes.join(", "));
}

function promptsOf({ prompts, default_prompt_name: name }: z.output<typeof promptsSchema>, file: string) {
  const all = prompts ?? {};
  if (name == null || Object.hasOwn(all, name)) return { prompts: all, promptName: name ?? null };
  throw new LowrankError("model/config", "default_prompt_name is the name of no prompt", {
    subject: file,
    expected: Object.keys(all).join(", ") || "null",
    got: shownValue(name),
    next: "Correct the file, or download it again.",
  });
}

const unsupported = (subject: string, expected: string, got: string): LowrankError =>
  new LowrankError("model/unsupported", "the embedding is made in a way that is not supported", {
    subject,
    expected,
    got: shownValue(got),
    next: `Choose another model, or remove ${MODULES} to use the folder without it.`,
  });

/** Those files, as versions 2 to 6 read them. */
export function embeddingFiles(config: HeadConfig & { hiddenSize: number }): Record<string, string> {
  const { hiddenSize, pooling, maxTokens, prompts, promptName } = config;
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  const type = "sentence_transformers.models";
  const module = (idx: number, path: string, kind: string) => ({ idx, name: String(idx), path, type: `${type}.${kind}` });
  const flags = FLAGS.map((flag) => [flag, flag === poolingNames[pooling].flag]);
  return {
    [MODULES]: json([module(0, "", "Transformer"), module(1, POOLING_FOLDER, "Pooling"), module(2, "2_Normalize", "Normalize")]),
    [`${POOLING_FOLDER}/config.json`]: json({ word_embedding_dimension: hiddenSize, ...Object.fromEntries(flags) }),
    [LENGTH]: json({ max_seq_length: maxTokens, do_lower_case: false }),
    [PROMPTS]: json({ prompts, default_prompt_name: promptName, similarity_fn_name: "cosine" }),
  };
}
