// A tiny model that reads images: the weights of a case with the tokenizer, the processor and the config of test/fixtures/image-text.
import { readFileSync } from "node:fs";
import { copyFile, cp } from "node:fs/promises";
import type { ChatMessage } from "../../src/text/template.ts";
import { fixtures } from "./repository.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export const picture = (name: string): string => `${fixtures}/images/files/${name}`;

/** The families, and the case that has the weights of each. */
export const imageFamilies = { llava: "llava", idefics3: "idefics3", smolvlm: "idefics3", idefics: "idefics" } as const;
export type ImageFamily = keyof typeof imageFamilies;

/** What Transformers made of a conversation, or of a text (scripts/reference/image_conversations.py). */
export interface ExpectedRow {
  name: string;
  messages: ChatMessage[];
  text: string;
  images: string[];
  ids: number[];
  answer: number[];
}

export interface Expected {
  asked?: ExpectedRow[];
  answered?: ExpectedRow[];
  listed?: ExpectedRow[];
  /** Mean loss over the targets of what is trained on, of the base and with the case's adapter. */
  losses: { loss: number; targets: number; adapter: number };
}

export async function imageModel(family: ImageFamily): Promise<{ folder: string; expected: Expected }> {
  const folder = temporaryFolder();
  await cp(`${fixtures}/image-text/${family}`, folder, { recursive: true });
  await copyFile(`${fixtures}/cases/${imageFamilies[family]}/base/model.safetensors`, `${folder}/model.safetensors`);
  return { folder, expected: JSON.parse(readFileSync(`${folder}/expected.json`, "utf8")) as Expected };
}
