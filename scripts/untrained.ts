// An untrained Llama with a byte-level BPE tokenizer of its own and a ChatML template, as a checkpoint folder.
import { mkdirSync, writeFileSync } from "node:fs";
import { initModel } from "../src/models/init.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { trainBpe } from "./bpe.ts";

const SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/** The files that make up the checkpoint. */
export const CHECKPOINT_FILES = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "model.safetensors",
];

export interface Sizes {
  vocab: number;
  hidden: number;
  layers: number;
  heads: number;
  kvHeads: number;
  mlp: number;
  positions: number;
  dtype: "bfloat16" | "float16";
}

const chatTemplate =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const configOf = ({ vocab, hidden, layers, heads, kvHeads, mlp, positions, dtype }: Sizes) => ({
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: vocab,
  hidden_size: hidden,
  intermediate_size: mlp,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: kvHeads,
  head_dim: hidden / heads,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  max_position_embeddings: positions,
  rope_theta: 10000.0,
  initializer_range: 0.02,
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 0,
  torch_dtype: dtype,
  use_cache: true,
});

/** tokenizer.json of a vocabulary learned from `texts`. */
function tokenizerOf(texts: readonly string[], size: number) {
  const { vocab, merges } = trainBpe(texts, SPECIAL, size);
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map((content, id) => ({ id, content, ...flags })),
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
}

/** Writes the checkpoint; the weights are those that `initModel` makes. */
export async function writeUntrained(folder: string, sizes: Sizes, texts: readonly string[]): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const config = configOf(sizes);
  const tokenizerConfig = {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: SPECIAL[0],
    eos_token: SPECIAL[0],
    pad_token: SPECIAL[0],
    additional_special_tokens: SPECIAL.slice(1),
    clean_up_tokenization_spaces: false,
    model_max_length: sizes.positions,
    chat_template: chatTemplate,
  };
  const writeJson = (name: string, value: unknown) => writeFileSync(`${folder}/${name}`, `${JSON.stringify(value, null, 1)}\n`);
  writeJson("generation_config.json", { bos_token_id: 0, eos_token_id: [0, 2], pad_token_id: 0 });
  writeJson("tokenizer.json", tokenizerOf(texts, sizes.vocab));
  writeJson("tokenizer_config.json", tokenizerConfig);
  await initModel(nodeFiles, config, folder);
}
