// Tokenizers and chat templates as targets of the fuzzer.
import { readFileSync } from "node:fs";
import type { Files } from "../src/files.ts";
import { timeLimitOf } from "../src/platform/node/time-limit.ts";
import { encodeSpans, renderWithMask } from "../src/text/mask.ts";
import type { ChatMessage } from "../src/text/template.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { bytesIn, fixture, folder } from "./inputs.ts";
import type { Target } from "./targets.ts";

/** Shorter than the readers' own, so that 100,000 runs end; what is stopped is refused either way. */
const timeLimit = timeLimitOf(1000);

/** Tokenizers of every kind of part, small enough to be read a thousand times a second. */
const vocab = Object.fromEntries([..."abcdefgh ▁Ġ", "ab", "##b", "<s>", "</s>", "<0x0A>"].map((token, id) => [token, id]));
const special = [
  { id: 20, content: "<|end|>", special: true, normalized: false, lstrip: false, rstrip: true, single_word: false },
];
const tokenizer = (parts: object): Uint8Array =>
  bytesIn({
    version: "1.0",
    added_tokens: special,
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    ...parts,
  });
const bpe = {
  type: "BPE",
  vocab,
  merges: ["a b", ["▁", "a"]].slice(0, 1),
  unk_token: "<s>",
  fuse_unk: true,
  byte_fallback: true,
};
const tokenizers = [
  tokenizer({
    model: bpe,
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "NFKC" },
        { type: "Replace", pattern: { Regex: " {2,}" }, content: "▁" },
        { type: "Prepend", prepend: "▁" },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: "\\p{L}+|\\s+(?!\\S)" }, behavior: "Isolated", invert: false },
        { type: "Digits", individual_digits: true },
      ],
    },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [],
      special_tokens: { "<s>": { id: "<s>", ids: [13], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
  }),
  tokenizer({
    model: { type: "WordPiece", vocab, unk_token: "<s>", continuing_subword_prefix: "##", max_input_chars_per_word: 100 },
    normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: { type: "BertProcessing", sep: ["</s>", 14], cls: ["<s>", 13] },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  }),
  tokenizer({
    model: {
      type: "Unigram",
      unk_id: 0,
      vocab: [
        ["<unk>", 0],
        ["▁", -1],
        ["a", -2.5],
        ["b", -3],
        ["ab", -1.5],
      ],
    },
    normalizer: { type: "Precompiled", precompiled_charsmap: "" },
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first" },
    decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "first" },
  }),
  tokenizer({
    model: { ...bpe, byte_fallback: false },
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    decoder: { type: "ByteLevel" },
  }),
];
const chat =
  "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
const TEXTS = ["", "ab  ba", "a".repeat(40) + "!", "naïve 👩‍👩‍👧 12\n<|end|> c", "\uFEFFx\0\u2028"];
export const conversation: ChatMessage[] = [
  { role: "user", content: "ab" },
  { role: "assistant", content: "a b" },
];

/** Reads `path` of a loaded tokenizer to its last function. */
async function useTokenizer(files: Files): Promise<void> {
  const loaded = await loadTokenizer(files, "m", timeLimit);
  for (const text of TEXTS) loaded.decode(loaded.encode(text));
  if (!loaded.template) return;
  const { text, spans } = renderWithMask(loaded.template, conversation);
  loaded.limited(() => encodeSpans(loaded, text, spans));
}

/** Everything that makes more than it is given, whose numbers are then damaged, in front of a usual template. */
const growing = `{% for m in messages %}{% set x = m.role.split('e', 2) | join(', ') | replace('s', 'tt') %}
{%- set y = x | indent(4, true) | title ~ x[1:90:2] ~ [x, m] | tojson(indent=2) ~ x.strip('t') ~ [x] %}
{%- for i in range(9) %}{% set z = y | upper %}{% endfor %}{% endfor %}`;
const growingTemplate = growing + readFileSync(new URL("../test/fixtures/chat-templates/chatml.jinja", import.meta.url), "utf8");

export const tokenizerTargets: Target[] = [
  {
    name: "tokenizer",
    inputs: [...tokenizers.map((file) => ({ "m/tokenizer.json": file })), folder("tokenizers/llama2-style", "m")],
    read: useTokenizer,
  },
  {
    name: "chat-template",
    inputs: [
      ...["chatml", "gemma", "llama3", "marked"].map((name) => ({
        "m/tokenizer.json": tokenizers[3]!,
        "m/chat_template.jinja": fixture(`chat-templates/${name}.jinja`),
      })),
      { "m/tokenizer.json": tokenizers[3]!, "m/chat_template.jinja": bytesIn(growingTemplate) },
      {
        "m/tokenizer.json": tokenizers[0]!,
        "m/tokenizer_config.json": bytesIn({ bos_token: "<s>", eos_token: { content: "</s>" }, chat_template: chat }),
        "m/generation_config.json": bytesIn({ eos_token_id: [14, 20], bos_token_id: 13 }),
        "m/special_tokens_map.json": bytesIn({ pad_token: "<s>" }),
      },
    ],
    read: useTokenizer,
  },
];
