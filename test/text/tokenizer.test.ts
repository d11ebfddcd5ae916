// text/tokenizer.ts: the ids and texts that Hugging Face's own tokenizers gave, and what is read from which file.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Tokenizer as HubTokenizer } from "@huggingface/tokenizers";
import type { LowrankError } from "../../src/errors.ts";
import { rememberWords } from "../../src/text/byte-level.ts";
import { renderChat } from "../../src/text/template.ts";
import { loadTokenizer, makeStreamDecoder, type Tokenizer } from "../../src/text/tokenizer.ts";
import { llama2StyleFiles, llama2StyleVectors } from "../helpers/llama2-style.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { slow } from "../helpers/slow.ts";
import { smollm2Json, smollm2Tokenizer, smollm2TokenizerWith } from "../helpers/smollm2.ts";

const llama2 = () => loadTokenizer(memoryFiles(llama2StyleFiles()), "base");

/** A word-level tokenizer of a few entries, for tests of the files around it. */
const tiny = (extra: Record<string, unknown> = {}) =>
  JSON.stringify({
    version: "1.0",
    added_tokens: [
      { id: 0, content: "<pad>", special: true },
      { id: 1, content: "<end>", special: true },
      { id: 2, content: "<turn>", special: false },
    ],
    normalizer: null,
    pre_tokenizer: { type: "Whitespace" },
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab: { a: 3, b: 4 }, merges: [] },
    ...extra,
  });

const stream = (tokenizer: Tokenizer, ids: Iterable<number>, skipSpecialTokens = true) => {
  const decoder = makeStreamDecoder(tokenizer, { skipSpecialTokens });
  const deltas = [...ids].map((id) => decoder.push(id));
  return { deltas, text: deltas.join("") + decoder.flush() };
};

test("texts and words that come again have the ids that they had, each time the caller's own", slow, async () => {
  const tokenizer = await smollm2Tokenizer();
  const texts = ["", "a man a plan", " a  man\n", "ünïcode 漢字 🙂 naïve ünïcode", "word".repeat(40), "it's 2026, it's  its"];
  const encoded = () => texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false }));
  const first = encoded();
  const copies = first.map((ids) => ids.slice());
  for (const ids of first) ids.fill(0);
  assert.deepEqual(encoded(), copies);
  for (const [i, text] of texts.entries()) {
    const fresh = await smollm2TokenizerWith([]);
    assert.deepEqual(fresh.encode(text, { addSpecialTokens: false }), copies[i], text);
  }
});

test("a byte-level pre-tokenizer that remembers words makes what it made without", () => {
  const text = "it's 12 dogs' naïve ünïcode 漢字 🙂  \n\tx \u0000 it's 12 dogs' naïve";
  const model = { type: "BPE", vocab: { a: 0 }, merges: [] };
  const level = (more: object) => ({ type: "ByteLevel", trim_offsets: true, ...more });
  for (const pre_tokenizer of [
    level({ add_prefix_space: false, use_regex: true }),
    level({ add_prefix_space: true, use_regex: true }),
    { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, level({ use_regex: false })] },
  ]) {
    const parts = { normalizer: null, pre_tokenizer, post_processor: null, decoder: null, added_tokens: [], model };
    const [plain, remembering] = [0, 1].map(() => new HubTokenizer(parts, {}));
    rememberWords(remembering!);
    const made = [plain, remembering, remembering].map((engine) => engine!.pre_tokenizer(text));
    assert.deepEqual(made[1], made[0]);
    assert.deepEqual(made[2], made[0]);
  }
});

test("SmolLM2: ids and decoded texts are Hugging Face's", async () => {
  const tokenizer = await smollm2Tokenizer();
  const vectors = smollm2Json<{ text: string; ids: number[]; decoded: string }[]>("tokenizer-vectors.json");
  assert.ok(vectors.length >= 15);
  for (const { text, ids, decoded } of vectors) {
    assert.deepEqual([...tokenizer.encode(text)], ids, text);
    assert.equal(tokenizer.decode(ids), decoded, text);
  }
});

test("SmolLM2: chats render and encode as Hugging Face's", async () => {
  const tokenizer = await smollm2Tokenizer();
  type Chat = { messages: { role: string; content: string }[]; text: string; text_generation: string; ids: number[] };
  const chats = smollm2Json<Chat[]>("chat.json");
  assert.ok(chats.length >= 3);
  for (const chat of chats) {
    const text = renderChat(tokenizer.template!, chat.messages);
    assert.equal(text, chat.text);
    assert.equal(renderChat(tokenizer.template!, chat.messages, { addGenerationPrompt: true }), chat.text_generation);
    assert.deepEqual([...tokenizer.encode(text, { addSpecialTokens: false })], chat.ids);
  }
});

test("SmolLM2: special tokens and sizes", async () => {
  const tokenizer = await smollm2Tokenizer();
  assert.equal(tokenizer.vocabSize, 49152);
  assert.equal(tokenizer.bosId, 1);
  assert.equal(tokenizer.eosId, 2);
  assert.deepEqual(tokenizer.eosIds, [2]);
  assert.equal(tokenizer.padId, 2);
  assert.equal(tokenizer.tokenToId("<|im_end|>"), 2);
  assert.ok(tokenizer.specialIds.has(1) && !tokenizer.specialIds.has(198));
  assert.equal(tokenizer.decode([1, 4093, 2], { skipSpecialTokens: true }), "user");
  assert.equal(tokenizer.decode([]), "");
  assert.equal(tokenizer.decode([19556, 900_000, -1, 905]), "Hello world", "ids outside the vocabulary are skipped");
});

test("a SentencePiece-like tokenizer with byte fallback: ids and texts are Hugging Face's", async () => {
  const tokenizer = await llama2();
  const vectors = llama2StyleVectors();
  assert.ok(vectors.some(({ ids }) => ids[0] === tokenizer.bosId));
  for (const { text, ids, plain, decoded, decodedAll } of vectors) {
    assert.deepEqual([...tokenizer.encode(text)], ids, text);
    assert.deepEqual([...tokenizer.encode(text, { addSpecialTokens: false })], plain, text);
    assert.equal(tokenizer.decode(ids, { skipSpecialTokens: true }), decoded, text);
    assert.equal(tokenizer.decode(ids), decodedAll, text);
  }
});

test("streamed deltas join to the whole text, and no delta breaks a character", async () => {
  const texts = [
    "Hello world",
    " leading",
    "naïve café — “quotes”",
    "中文字符和标点，。",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 ok",
    "a\n\n  b\t",
    "\uFFFD kept \uFFFD",
    "\uFEFFbom",
  ];
  let held = 0;
  for (const tokenizer of [await smollm2Tokenizer(), await llama2()]) {
    for (const text of texts) {
      const ids = tokenizer.encode(text, { addSpecialTokens: false });
      const { deltas, text: joined } = stream(tokenizer, ids);
      assert.equal(joined, tokenizer.decode(ids));
      // The package's byte-fallback decoder drops a byte order mark at the start of a run of bytes.
      if (!text.startsWith("\uFEFF")) assert.equal(joined, text);
      if (!text.includes("\uFFFD")) assert.ok(deltas.every((delta) => !delta.includes("\uFFFD")));
      held += deltas.filter((delta) => delta === "").length;
    }
  }
  assert.ok(held > 10, "some tokens ended inside a character");
});

test("a stream's spaces survive special tokens between words", async () => {
  const tokenizer = await llama2();
  const words = [...tokenizer.encode("cheap food", { addSpecialTokens: false })];
  const cut = [...tokenizer.encode("cheap", { addSpecialTokens: false })].length;
  const ids = [tokenizer.bosId!, ...words.slice(0, cut), tokenizer.eosId!, ...words.slice(cut)];
  assert.equal(stream(tokenizer, ids).text, "cheap food");
  assert.equal(stream(tokenizer, ids, false).text, tokenizer.decode(ids));
});

test("a stream of broken bytes is neither held for ever nor lost", async () => {
  const tokenizer = await llama2();
  const lead = tokenizer.tokenToId("<0xF0>")!;
  const { deltas, text } = stream(
    tokenizer,
    Array.from({ length: 100 }, () => lead),
  );
  assert.equal(text, "\uFFFD".repeat(100));
  assert.ok(deltas.slice(0, 20).join("").length >= 15);
});

test("end tokens come from every file that names one", async () => {
  const files = memoryFiles({
    "m/tokenizer.json": tiny(),
    "m/special_tokens_map.json": JSON.stringify({ eos_token: { content: "<end>" }, pad_token: "<pad>" }),
    "m/generation_config.json": JSON.stringify({ eos_token_id: [2, 1], bos_token_id: 0 }),
  });
  const tokenizer = await loadTokenizer(files, "m");
  assert.deepEqual(tokenizer.eosIds, [1, 2]);
  assert.equal(tokenizer.eosId, 1);
  assert.equal(tokenizer.padId, 0);
  assert.equal(tokenizer.bosId, 0);
  assert.equal(tokenizer.vocabSize, 5);
  assert.equal(tokenizer.template, undefined);
});

test("chat_template.jinja wins; of named templates the default is used, with tools the tool template", async () => {
  const named = {
    chat_template: [
      { name: "default", template: "D" },
      { name: "tool_use", template: "T" },
    ],
    eos_token: "<end>",
  };
  const list = await loadTokenizer(
    memoryFiles({ "m/tokenizer.json": tiny(), "m/tokenizer_config.json": JSON.stringify(named) }),
    "m",
  );
  assert.equal(renderChat(list.template!, []), "D");
  assert.equal(renderChat(list.template!, [], { tools: [{}] }), "T");
  assert.deepEqual(list.template!.tokens, { eos_token: "<end>" });
  const file = await loadTokenizer(
    memoryFiles({ "m/tokenizer.json": tiny(), "m/tokenizer_config.json": JSON.stringify(named), "m/chat_template.jinja": "F" }),
    "m",
  );
  assert.equal(renderChat(file.template!, [], { tools: [{}] }), "F");
});

test("a folder without tokenizer.json says what to do", async () => {
  const slow = loadTokenizer(memoryFiles({ "m/tokenizer.model": "x", "m/vocab.json": "{}" }), "m");
  await assert.rejects(slow, (error: LowrankError) => {
    assert.equal(error.code, "tokenizer/missing");
    assert.match(error.got!, /tokenizer\.model, vocab\.json/);
    assert.match(error.next!, /save_pretrained/);
    return true;
  });
  await assert.rejects(loadTokenizer(memoryFiles({}), "m"), { code: "tokenizer/missing", got: "no tokenizer file" });
});

test("capital sigma becomes σ wherever it stands, as in Hugging Face's tokenizers", async () => {
  const vocab = { "[UNK]": 0, ας: 1, ασ: 2, Σ: 3 };
  const encode = async (normalizer: unknown, text: string) => {
    const json = tiny({ added_tokens: [], normalizer, model: { type: "WordPiece", unk_token: "[UNK]", vocab } });
    const tokenizer = await loadTokenizer(memoryFiles({ "base/tokenizer.json": json }), "base");
    return [...tokenizer.encode(text)];
  };
  assert.deepEqual(await encode({ type: "Lowercase" }, "ΑΣ ας"), [2, 1]);
  assert.deepEqual(await encode({ type: "Sequence", normalizers: [{ type: "NFC" }, { type: "Lowercase" }] }, "ΑΣ"), [2]);
  assert.deepEqual(await encode({ type: "BertNormalizer", lowercase: true }, "ΑΣ"), [2]);
  assert.deepEqual(await encode({ type: "BertNormalizer", lowercase: false }, "Σ"), [3]);
  assert.deepEqual(await encode(null, "Σ"), [3]);
});
