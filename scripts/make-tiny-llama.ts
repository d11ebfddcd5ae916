// Makes test/fixtures/tiny-llama: a Llama of 2 layers with a tokenizer of its own, trained on the texts of tiny-e2e with `--method full`.
// node --import tsx scripts/make-tiny-llama.ts
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { bytesOf } from "../src/formats/dtypes.ts";
import { fromFloat32 } from "../src/formats/float.ts";
import { writeSafetensors } from "../src/formats/safetensors.ts";
import { finetune } from "../src/index.ts";
import { decoderConfig } from "../src/models/registry.ts";
import { normal, permutation, purpose } from "../src/random.ts";
import { nodeFiles } from "../src/runtime/node-files.ts";
import { sizeOf } from "../src/tensor.ts";
import { fullEntries } from "../src/train/objective.ts";
import { trainBpe } from "./bpe.ts";

const fixtures = fileURLToPath(new URL("../test/fixtures", import.meta.url));
const target = `${fixtures}/tiny-llama`;
const SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const VOCAB = 512;
/** Orders that the texts are seen in, and texts of one document. */
const SHUFFLES = 4;
const TEXTS = 4;

/** Prompts, and a quarter of the completions: the model learns to list attributes, and has seen some sentences. */
const rows: { prompt: string; completion: string }[] = readFileSync(`${fixtures}/tiny-e2e/train.jsonl`, "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line));
const texts = rows.flatMap(({ prompt, completion }) => [prompt.trimEnd(), completion]);
const seen = rows.flatMap(({ prompt, completion }, i) => (i % 4 === 0 ? [prompt.trimEnd(), completion] : [prompt.trimEnd()]));
const documents = Array.from({ length: SHUFFLES }, (_, round) => {
  const shuffled = [...permutation(0, [purpose.shuffle, round], seen.length)].map((i) => seen[i]!);
  return Array.from({ length: Math.ceil(seen.length / TEXTS) }, (_, i) => shuffled.slice(i * TEXTS, (i + 1) * TEXTS).join("\n"));
}).flat();

const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: VOCAB,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  max_position_embeddings: 512,
  rope_theta: 10000.0,
  initializer_range: 0.02,
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 0,
  torch_dtype: "bfloat16",
  use_cache: true,
};

const chatTemplate =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const { vocab, merges } = trainBpe(texts, SPECIAL, VOCAB);
const token = (content: string, id: number) => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
});
const tokenizer = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: SPECIAL.map(token),
  normalizer: null,
  pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: null,
  decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    vocab,
    merges,
  },
};
const tokenizerConfig = {
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: SPECIAL[0],
  eos_token: SPECIAL[0],
  pad_token: SPECIAL[0],
  additional_special_tokens: SPECIAL.slice(1),
  clean_up_tokenization_spaces: false,
  model_max_length: 512,
  chat_template: chatTemplate,
};
const generationConfig = { bos_token_id: 0, eos_token_id: [0, 2], pad_token_id: 0 };

const work = mkdtempSync(path.join(tmpdir(), "lowrank-tiny-"));
const base = `${work}/base`;
mkdirSync(base);
const writeJson = (name: string, value: unknown) => writeFileSync(`${base}/${name}`, `${JSON.stringify(value, null, 1)}\n`);
writeJson("config.json", config);
writeJson("generation_config.json", generationConfig);
writeJson("tokenizer.json", tokenizer);
writeJson("tokenizer_config.json", tokenizerConfig);
await writeSafetensors(
  nodeFiles,
  `${base}/model.safetensors`,
  fullEntries(decoderConfig(config)).map(({ key, shape }, index) => {
    const values = shape.length === 1 ? new Float32Array(shape[0]!).fill(1) : normal(0, [purpose.init, index], sizeOf(shape));
    if (shape.length > 1) for (let i = 0; i < values.length; i++) values[i]! *= config.initializer_range;
    return { name: key, dtype: "bfloat16", shape, data: () => bytesOf(fromFloat32(values, "bfloat16")) };
  }),
  { format: "pt" },
);
const data = `${work}/texts.jsonl`;
writeFileSync(data, documents.map((text) => `${JSON.stringify({ text })}\n`).join(""));

const run = finetune({
  method: "full",
  base,
  data,
  output: `${work}/trained`,
  epochs: 8,
  batchSize: 16,
  learningRate: 3e-3,
  schedule: "cosine",
  warmup: 0.05,
  checkpointEvery: 100_000,
});
for await (const event of run) {
  if (event.type === "step" && event.step % 50 === 0) console.log(event.step, event.loss.toFixed(3), event.etaSeconds.toFixed(0));
}
mkdirSync(target, { recursive: true });
for (const name of ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]) {
  cpSync(`${work}/trained/${name}`, `${target}/${name}`);
}
rmSync(work, { recursive: true });
