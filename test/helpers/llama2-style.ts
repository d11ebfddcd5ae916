// A small tokenizer as Llama 2's are made (SentencePiece's spaces, byte fallback, BOS), with vectors of Hugging Face's tokenizers.
import { readFileSync } from "node:fs";
import { fixtures } from "./repository.ts";

const read = (name: string): Buffer => readFileSync(`${fixtures}/tokenizers/llama2-style/${name}`);

export const llama2StyleFiles = () => ({
  "base/tokenizer.json": read("tokenizer.json"),
  "base/tokenizer_config.json": read("tokenizer_config.json"),
});

/** `plain` is without special tokens, `decoded` without them too. */
export const llama2StyleVectors = (): { text: string; ids: number[]; plain: number[]; decoded: string; decodedAll: string }[] =>
  JSON.parse(read("vectors.json").toString("utf8"));
