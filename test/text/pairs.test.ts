// Texts and pairs of texts as Transformers encodes and cuts them (scripts/reference/text_pairs.py), and post-processors that are refused.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { encodePair } from "../../src/text/pairs.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";

const read = (file: string) => JSON.parse(readFileSync(`${fixtures}/tokenizers/${file}`, "utf8"));

type Case = [text: string, second: string | null, length: number, ids: number[], types: number[], cut: boolean];
interface Vectors {
  tokenizer: string;
  kind: string;
  processor: unknown;
  side: string;
  cases: Case[];
}

async function tokenizerWith(name: string, processor: unknown, side = "right") {
  const json = { ...read(`${name}/tokenizer.json`), post_processor: processor };
  const config = { ...read(`${name}/tokenizer_config.json`), truncation_side: side };
  const files = memoryFiles({ "m/tokenizer.json": JSON.stringify(json), "m/tokenizer_config.json": JSON.stringify(config) });
  return loadTokenizer(files, "m");
}

test("texts and pairs are encoded and cut as Transformers does it", async () => {
  let count = 0;
  for (const { tokenizer: name, kind, processor, side, cases } of read("pairs.json") as Vectors[]) {
    const tokenizer = await tokenizerWith(name, processor, side);
    for (const [text, second, length, ids, types, cut] of cases) {
      const got = encodePair(tokenizer, text, second, length);
      const what = `${name} ${kind} ${JSON.stringify([text, second])} in ${length}`;
      assert.deepEqual([...got.ids], ids, what);
      assert.deepEqual(
        ids.map((_, i) => (i < got.second ? 0 : 1)),
        types,
        what,
      );
      assert.equal(got.cut, cut, what);
      count++;
    }
  }
  assert.ok(count > 200);
});

const text = (id: string, type_id: number) => ({ Sequence: { id, type_id } });
const token = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
const template = (single: unknown, pair: unknown = [text("A", 0), text("B", 1)]) => ({
  type: "TemplateProcessing",
  single,
  pair,
  special_tokens: {},
});

const encoded = async (processor: unknown, second: string | null = null, length = 20) =>
  encodePair(await tokenizerWith("bert-style", processor), "a cat", second, length);

async function refusal(...given: Parameters<typeof encoded>): Promise<string> {
  const error = await refused(encoded(...given));
  assert.ok(error.expected && error.got, error.describe());
  return error.code;
}

test("a post-processor that cannot be followed is refused", async () => {
  assert.ok(await encoded(template([token("[CLS]"), text("A", 0)])));
  const malformed = [
    template("A"),
    template([token("[CLS]")]),
    template([text("A", 0), text("A", 0)]),
    template([text("A", 0), text("B", 0)]),
    template([text("A", 0), token("[NONE]")]),
    template([text("A", 0), null]),
    template([{ Sequence: { id: "A" } }]),
    template([text("A", 0), ...Array(64).fill(token("[SEP]"))]),
    { ...template([text("A", 0), token("x")]), special_tokens: { x: { ids: [5000] } } },
    { ...template([text("A", 0), token("x")]), special_tokens: { x: { ids: Array(100_000).fill(2) } } },
    { type: "Sequence", processors: [template([text("A", 0)]), template([text("A", 0)])] },
    { type: "BertProcessing", cls: ["[CLS]"], sep: ["[SEP]", -1] },
  ];
  for (const processor of malformed)
    assert.equal(await refusal(processor), "tokenizer/malformed", JSON.stringify(processor).slice(0, 200));
  const swapped = template([text("A", 0)], [text("B", 0), text("A", 1)]);
  assert.ok(await encoded(swapped));
  assert.equal(await refusal(swapped, "a dog"), "tokenizer/malformed");
  const types = template([text("A", 0)], [text("A", 1), text("B", 0)]);
  assert.equal(await refusal(types, "a dog"), "tokenizer/malformed");
});

test("special tokens alone are no text", async () => {
  const own = read("bert-style/tokenizer.json").post_processor;
  assert.equal(await refusal(own, null, 2), "text/no-room");
  assert.ok(await encoded(own, null, 3));
  assert.equal(await refusal(own, "a dog", 3), "text/no-room");
  assert.equal(await refusal(own, "a dog", Number.NaN), "text/no-room");
});
