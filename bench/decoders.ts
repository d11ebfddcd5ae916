// What generates, of which each is measured in a process of its own: this package, and the peers whose files are given.
import { fileURLToPath } from "node:url";
import { ourDecodeModes } from "./modes.ts";

export interface Contender {
  side: string;
  mode: string;
  command: string;
  args: readonly string[];
}

/** Tokens of the prompt and new ones. */
const [PROMPT, NEW] = [64, 128];
export const DECODED_TOKENS = PROMPT + NEW;

export interface Peers {
  /** Of an ONNX export in its subfolder onnx, for transformers.js. */
  onnx?: string;
  /** For llama.cpp. */
  gguf?: string;
  /** Where @huggingface/transformers and node-llama-cpp are installed. */
  packages: string;
  threads: string;
}

export function decoders(program: string, folder: string, { onnx, gguf, packages, threads }: Peers): Contender[] {
  const flags = ["--prompt", String(PROMPT), "--new", String(NEW), "--threads", threads];
  const contender = (side: string, mode: string, args: readonly string[]): Contender => ({
    side,
    mode,
    command: process.execPath,
    args: [...args, ...flags],
  });
  const peer = (name: string) => fileURLToPath(new URL(`./peer/${name}.mjs`, import.meta.url));
  const installed = ["--packages", packages];
  return [
    ...ourDecodeModes.map(({ name, args }) => contender("lowrank", name, [program, folder, ...args])),
    ...(onnx ? [contender("transformers.js", "float32", [peer("transformers_js"), onnx, ...installed])] : []),
    ...(gguf ? [contender("llama.cpp", formatOf(gguf), [peer("llama_cpp"), gguf, ...installed])] : []),
  ];
}

/** "….Q4_1.gguf" → "Q4_1". */
const formatOf = (file: string): string => /\.([^.]+)\.gguf$/.exec(file)?.[1] ?? "GGUF";
