// The tiny models of other tasks (test/fixtures/cases) as whole folders: with a tokenizer and a preprocessor config.
import { cp } from "node:fs/promises";
import type { TestContext } from "node:test";
import { fixtures } from "./repository.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const models = {
  bert: { case: "bert-seqcls", tokenizer: "bert-style" },
  vit: { case: "vit-imgcls", tokenizer: null },
  clip: { case: "clip-contrastive", tokenizer: "clip-style" },
} as const;

/** A new folder with the model below `base`, and its adapter's folder. */
export async function tinyTask(t: Pick<TestContext, "after">, name: keyof typeof models) {
  const folder = temporaryFolder(t);
  const { case: golden, tokenizer } = models[name];
  const base = `${folder}/base`;
  await cp(`${fixtures}/cases/${golden}/base`, base, { recursive: true });
  if (tokenizer) await cp(`${fixtures}/tokenizers/${tokenizer}`, base, { recursive: true });
  if (name !== "bert") await cp(`${fixtures}/predict/${name}-preprocessor_config.json`, `${base}/preprocessor_config.json`);
  return { folder, base, adapter: `${fixtures}/cases/${golden}/adapter`, io: `${fixtures}/cases/${golden}/io.safetensors` };
}

/** The path of an image of test/fixtures/images/files. */
export const imageFile = (name: string): string => `${fixtures}/images/files/${name}`;
