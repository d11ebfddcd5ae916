// A tokenizer.json whose expressions never end, or whose parts make text without end: each text is stopped, by name.
// slow
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { makeExamples } from "../../src/data/dataset.ts";
import { LowrankError } from "../../src/errors.ts";
import { timeLimitOf } from "../../src/platform/node/time-limit.ts";
import { MAX_TEXT_MS, noTimeLimit, type TimeLimit } from "../../src/text/limit.ts";
import { loadTokenizer, makeStreamDecoder } from "../../src/text/tokenizer.ts";
import { MAX_COMPONENTS, MAX_INNER_CHARS, MAX_MERGES } from "../../src/text/tokenizer-bounds.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

/** Shorter than a user's, since every test here waits for its end. */
const timeLimit = timeLimitOf(400);

const vocab = Object.fromEntries([..."ab <"].map((token, id) => [token, id]));
const sound = {
  added_tokens: [{ id: 4, content: "<end>", special: true }],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: { type: "BPE", vocab, merges: [], unk_token: "<" },
};
const load = (change: object, limit: TimeLimit = timeLimit) => {
  const files = { "m/tokenizer.json": JSON.stringify({ ...sound, ...change }) };
  return loadTokenizer(memoryFiles(files), "m", limit);
};

const LONG = `${"a".repeat(60)}!`;
const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });
const replace = (pattern: object, content: string) => ({ type: "Replace", pattern, content });
const sequence = (list: string, parts: object[]) => ({ type: "Sequence", [list]: parts });
const times = <T>(n: number, part: T): T[] => Array.from({ length: n }, () => part);

/** The error of a text, which has the parts of one that a person can act on. */
async function refusal(work: () => unknown): Promise<LowrankError> {
  const error = await refused(work);
  assert.ok(error.subject && error.expected && error.got, error.describe());
  return error;
}

describe("an expression that never ends", () => {
  it("in the pre-tokenizer stops one text, and others are still encoded", async () => {
    const tokenizer = await load({ pre_tokenizer: split("^(a+)+$") });
    assert.deepEqual([...tokenizer.encode("aab")], [0, 0, 1]);
    const error = await refusal(() => tokenizer.encode(LONG));
    assert.equal(error.code, "tokenizer/slow");
    assert.equal(error.subject, "m/tokenizer.json");
    assert.ok(error.got!.includes("^(a+)+$"), error.got);
    assert.deepEqual([...tokenizer.encode("ab<end>")], [0, 1, 4]);
  });

  it("in the normalizer names the record of a data file", async () => {
    const tokenizer = await load({ normalizer: replace({ Regex: "(a|a)*b" }, "b") });
    const records = [
      { record: { text: "ab" }, place: "line 1" },
      { record: { text: LONG }, place: "line 2" },
    ];
    const error = await refusal(() => makeExamples(records, tokenizer, { maxLength: 8, source: "d.jsonl" }));
    assert.equal(error.code, "tokenizer/slow");
    assert.equal(error.subject, "d.jsonl, line 2 (m/tokenizer.json)");
  });

  it("in the normalizer is stopped at an added token as well, when the tokenizer is built", async () => {
    const added_tokens = [{ id: 4, content: LONG, special: false, normalized: true }];
    const error = await refusal(() => load({ normalizer: replace({ Regex: "^(a+)+$" }, "b"), added_tokens }));
    assert.equal(error.code, "tokenizer/slow");
  });

  it("in the decoder stops decoding, in a stream too", async () => {
    const decoder = sequence("decoders", [{ type: "Fuse" }, replace({ Regex: "^(a+)+$" }, "b")]);
    const tokenizer = await load({ decoder });
    const ids = [...times(40, 0), 1];
    assert.equal((await refusal(() => tokenizer.decode(ids))).code, "tokenizer/slow");
    const stream = makeStreamDecoder(tokenizer);
    assert.equal(
      (await refusal(() => tokenizer.limited(() => [...ids.map((id) => stream.push(id)), stream.flush()]))).code,
      "tokenizer/slow",
    );
  });
});

describe("parts that make text without end", () => {
  const cases: [string, object][] = [
    ["replacements that double", { normalizer: sequence("normalizers", times(60, replace({ String: "a" }, "aa"))) }],
    ["insertions everywhere", { normalizer: sequence("normalizers", times(60, replace({ Regex: "(?=.)" }, "a"))) }],
    ["references to what is around", { normalizer: sequence("normalizers", times(9, replace({ Regex: "a" }, "$`$'"))) }],
    ["a replacement of megabytes", { normalizer: replace({ String: "a" }, "x".repeat(8 << 20)) }],
    ["bytes of bytes", { pre_tokenizer: sequence("pretokenizers", times(30, { type: "ByteLevel", use_regex: false })) }],
    ["a wide space", { pre_tokenizer: { type: "Metaspace", replacement: "x".repeat(8 << 20) } }],
    [
      "the text a million times",
      { post_processor: { type: "TemplateProcessing", single: times(1_000_000, { Sequence: { id: "A", type_id: 0 } }) } },
    ],
  ];
  for (const [name, change] of cases) {
    it(`${name}: refused before the work`, async () => {
      const tokenizer = await load(change);
      const error = await refusal(() => tokenizer.encode("ab ".repeat(100)));
      assert.equal(error.code, "tokenizer/limit");
      assert.ok(error.expected!.includes(String(MAX_INNER_CHARS)));
    });
  }

  const endless: [string, object][] = [
    ["pieces of no length", { pre_tokenizer: { type: "FixedLength", length: 0 } }],
    ["pieces of less than no length", { pre_tokenizer: { type: "FixedLength", length: -1 } }],
    ["more parts than there can be", { normalizer: sequence("normalizers", times(MAX_COMPONENTS, { type: "NFC" })) }],
    [
      "sequences within sequences",
      { normalizer: times(20, 0).reduce<object>((part) => sequence("normalizers", [part]), { type: "NFC" }) },
    ],
  ];
  for (const [name, change] of endless) {
    it(`${name}: refused when the tokenizer is read`, async () => {
      assert.equal((await refusal(() => load(change))).code, "tokenizer/limit");
    });
  }

  it("a pattern that is none is refused, which the package would pass over", async () => {
    for (const pattern of [{ Regexp: "a" }, [], null, { Regex: 3 }]) {
      const parts = [
        { pre_tokenizer: { type: "Split", pattern } },
        { decoder: sequence("decoders", [{ type: "Replace", pattern, content: "" }]) },
      ];
      for (const part of parts) assert.equal((await refusal(() => load(part))).code, "tokenizer/malformed");
    }
  });

  it("parts within the bounds encode as without them", async () => {
    const normalizer = sequence("normalizers", [replace({ Regex: "b+" }, "b"), replace({ String: "x" }, "a"), { type: "NFC" }]);
    const tokenizer = await load({ normalizer, pre_tokenizer: { type: "FixedLength", length: 2 } });
    assert.deepEqual([...tokenizer.encode("xbba".repeat(1000))], times(1000, [0, 1, 0]).flat());
  });
});

describe("large vocabularies", () => {
  /** Texts that begin differently. */
  const words = (count: number, chars: number) =>
    Array.from({ length: count }, (_, i) => `${i.toString(36).padStart(4, "0")}${"xy".repeat(chars / 2)}`);
  const added = (contents: string[]) => contents.map((content, i) => ({ id: 5 + i, content, special: true }));
  const unigram = (pieces: string[]) => ({ type: "Unigram", vocab: ["<unk>", ...pieces].map((piece) => [piece, -1]), unk_id: 0 });
  const bombs: [string, () => object][] = [
    ["added tokens of megabytes", () => ({ added_tokens: added(words(2, 2 << 20)) })],
    ["added tokens without end", () => ({ added_tokens: added(words(2200, 2000)) })],
    ["pieces of megabytes", () => ({ model: unigram(words(2, 1 << 20)) })],
    ["pieces without end", () => ({ model: unigram(words(2200, 2000)) })],
    ["merges without end", () => ({ model: { ...sound.model, merges: times(MAX_MERGES + 1, "a b") } })],
    ["a token of megabytes", () => ({ model: { ...sound.model, vocab: { ...vocab, [words(1, 8 << 20)[0]!]: 4 } } })],
  ];
  for (const [name, change] of bombs) {
    it(`${name}: refused before anything is made of them`, async () => {
      const error = await refusal(() => load(change(), noTimeLimit));
      assert.equal(error.code, "tokenizer/limit");
    });
  }

  it("20,000 long added tokens that begin alike are accepted", async () => {
    const contents = Array.from({ length: 20_000 }, (_, i) => `<|${"speech_unit_of_the_codec_".repeat(9)}${i}|>`);
    const tokenizer = await load({ added_tokens: added(contents) }, noTimeLimit);
    assert.deepEqual([...tokenizer.encode(contents.at(-1)!)], [5 + 19_999]);
  });

  it("100,000 merges and 5,000 added tokens are accepted", async () => {
    const words = Array.from({ length: 100_000 }, (_, i) =>
      i.toString(26).replace(/[0-9]/g, (digit) => "qrstuvwxyz"[Number(digit)]!),
    );
    const added_tokens = Array.from({ length: 5000 }, (_, i) => ({ id: 200_000 + i, content: `<extra_${i}>`, special: true }));
    const all = Object.fromEntries([..."ab", ...words].map((word, id) => [word, id]));
    const merges = words.filter((word) => word.length > 1).map((word) => `${word.slice(0, 1)} ${word.slice(1)}`);
    const tokenizer = await load({ model: { type: "BPE", vocab: all, merges, unk_token: "a" }, added_tokens }, noTimeLimit);
    assert.equal(tokenizer.encode("<extra_4999>".repeat(2000)).at(-1), 204_999);
  });
});

describe("the time limit", () => {
  const error = (code: string) => () => new LowrankError(code, code);
  it("names the innermost work that was stopped, and can be used again at once", () => {
    assert.ok(MAX_TEXT_MS <= 4000);
    const forever = () => /^(a+)+$/.test(LONG);
    const nested = () =>
      timeLimit(() => [timeLimit(() => 1, error("first")), timeLimit(forever, error("second"))], error("outer"));
    assert.throws(nested, { code: "second" });
    assert.equal(
      timeLimit(() => timeLimit(() => 3, error("b")), error("a")),
      3,
    );
  });

  it("lets errors and values of the work through", () => {
    assert.throws(
      () =>
        timeLimit(
          () =>
            timeLimit(() => {
              throw new RangeError("own");
            }, error("b")),
          error("a"),
        ),
      RangeError,
    );
    assert.equal(
      timeLimit(() => undefined, error("a")),
      undefined,
    );
    assert.equal(
      noTimeLimit(() => 4, error("a")),
      4,
    );
  });
});
