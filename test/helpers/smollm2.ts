// SmolLM2-135M-Instruct's tokenizer and the data of PEFT's run on it, from test/fixtures/smollm2-e2e.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { loadTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { memoryFiles } from "./memory-files.ts";
import { fixtures } from "./repository.ts";

export const smollm2File = (name: string): Buffer => readFileSync(`${fixtures}/smollm2-e2e/${name}`);
export const smollm2Json = <T>(name: string): T => JSON.parse(smollm2File(name).toString("utf8")) as T;

const tokenizerJson = (): string => gunzipSync(smollm2File("tokenizer.json.gz")).toString("utf8");

const load = (json: string): Promise<Tokenizer> =>
  loadTokenizer(
    memoryFiles({
      "base/tokenizer.json": json,
      "base/tokenizer_config.json": smollm2File("tokenizer_config.json"),
      "base/generation_config.json": smollm2File("generation_config.json"),
    }),
    "base",
  );

let loaded: Promise<Tokenizer> | undefined;

/** The real tokenizer, read once a process. */
export function smollm2Tokenizer(): Promise<Tokenizer> {
  loaded ??= load(tokenizerJson());
  return loaded;
}

/** The same with more special tokens, such as the templates of other models use. */
export function smollm2TokenizerWith(tokens: readonly string[]): Promise<Tokenizer> {
  const json = JSON.parse(tokenizerJson()) as { added_tokens: unknown[] };
  json.added_tokens.push(...tokens.map((content, i) => ({ id: 49152 + i, content, special: true })));
  return load(JSON.stringify(json));
}
