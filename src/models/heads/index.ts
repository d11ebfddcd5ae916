// The table of heads, and how config.json names one. A new head is a file in this folder, its name in head.ts, and a line here.
import { z } from "zod";
import type { Files } from "../../files.ts";
import { count, MAX_LABELS, readJson } from "../config/schema.ts";
import { imageClassifier, sequenceClassifier, tokenClassifier } from "./classifiers.ts";
import { contrastive } from "./contrastive.ts";
import { embedding } from "./embedding.ts";
import type { Head, HeadChoice, HeadConfig, HeadName, Heads } from "./head.ts";
import { lm } from "./lm.ts";

export const heads: Record<HeadName, Head> = {
  lm,
  "sequence-classifier": sequenceClassifier,
  "token-classifier": tokenClassifier,
  "image-classifier": imageClassifier,
  embedding,
  contrastive,
};

/** What goes on a decoder of texts; Transformers calls the layer of its classifiers `score`. */
export const decoderHeads: Heads = {
  lm: null,
  "sequence-classifier": { path: "score", bias: false },
  "token-classifier": { path: "score", bias: true },
  embedding: null,
};

/** Those of GPT's kin, whose layer for tokens has a name of its own. */
export const gptHeads: Heads = { ...decoderHeads, "token-classifier": { path: "classifier", bias: true } };

const keysOfHead = z.object({
  architectures: z.array(z.string()).nullish(),
  id2label: z.record(z.string(), z.string()).nullish(),
  num_labels: count(MAX_LABELS).nullish(),
  problem_type: z.string().nullish(),
});

/** What Transformers calls a class without a name. */
export const unnamedLabel = (index: number): string => `LABEL_${index}`;

/** Transformers' `problem_type` where config.json has none. */
export const usualProblemType = (labels: readonly string[]): string =>
  labels.length === 1 ? "regression" : "single_label_classification";

/** The head that config.json describes: by the class that it names, or the usual one of a family with these. */
export function headConfig(json: unknown, file: string, possible: Heads): HeadConfig {
  const { architectures, id2label, num_labels, problem_type: problemType } = readJson(keysOfHead, json, file);
  const length = id2label ? Object.keys(id2label).length : (num_labels ?? 2);
  const names = Object.keys(possible) as HeadName[];
  // A class without a head says nothing: any can be put on it.
  const named = names.find((name) => !heads[name].isBare && architectures?.some((one) => heads[name].classes.test(one)));
  const head = named ?? names[0]!;
  return {
    head,
    labels: Array.from({ length: Math.max(1, length) }, (_, i) => id2label?.[i] ?? unnamedLabel(i)),
    problemType: problemType ?? null,
    uninitializedHead: named ? null : (possible[head]?.path ?? null),
    // Only the last token of a decoder has seen the whole text.
    pooling: "lm" in possible ? "last" : "mean",
    maxTokens: null,
    prompts: {},
    promptName: null,
  };
}

/** What files beside config.json, or beside an adapter, say of one of these heads, or of any; null if no file does. */
export async function headBeside(
  files: Files,
  folder: string,
  names: readonly HeadName[] = Object.keys(heads) as HeadName[],
): Promise<HeadChoice | null> {
  for (const name of names) {
    const choice = (await heads[name].read?.(files, folder)) ?? null;
    if (choice) return { head: name, ...choice };
  }
  return null;
}

/** Writes the files of a model's head into its folder, or into that of an adapter; resolves to whether it has any. */
export async function writeHead(files: Files, folder: string, config: HeadConfig & { hiddenSize: number }): Promise<boolean> {
  const own = Object.entries(heads[config.head].filesOf?.(config) ?? {});
  for (const [path, text] of own) {
    const parent = path.includes("/") ? `${folder}/${path.replace(/\/[^/]*$/, "")}` : folder;
    await files.makeFolder(parent);
    await files.write(`${folder}/${path}`, new TextEncoder().encode(text));
  }
  return own.length > 0;
}
