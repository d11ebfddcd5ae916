// Texts in words as Transformers encodes them, and tags as seqeval and scikit-learn count them (scripts/reference/token_classification.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { entitiesOf, readTags, splitWords } from "../../src/tasks/token-classification/entities.ts";
import { tagMeasures } from "../../src/tasks/token-classification/measures.ts";
import { encodeWords } from "../../src/text/pairs.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";

const read = (file: string) => JSON.parse(readFileSync(`${fixtures}/token-classification/${file}`, "utf8"));
const tokenizers = { bert: "tokenizers/bert-style", llama2: "tokenizers/llama2-style", bytes: "tiny-llama" };
const tokenizerOf = (name: keyof typeof tokenizers) => loadTokenizer(nodeFiles, `${fixtures}/${tokenizers[name]}`);

test("words are encoded and cut as Transformers does it, and a word's label is at its first token", async () => {
  type Case = [
    name: keyof typeof tokenizers,
    side: string,
    words: string[],
    length: number,
    ids: number[],
    firsts: number[],
    cut: boolean,
  ];
  const cases = read("words.json") as Case[];
  assert.ok(cases.length > 100);
  for (const [name, side, words, length, ids, firsts, cut] of cases) {
    const tokenizer = { ...(await tokenizerOf(name)), cutsLeft: side === "left" };
    const got = encodeWords(tokenizer, words, length);
    const what = `${name} ${side} ${JSON.stringify(words)} in ${length}`;
    assert.deepEqual([[...got.ids], got.firsts, got.cut, got.second], [ids, firsts, cut, ids.length], what);
  }
});

test("entities and their measures are those of seqeval, those of tags that name none scikit-learn's", () => {
  interface Case {
    labels: string[];
    expected: string[][];
    predicted: string[][];
    accuracy: number;
    overall: number[];
    entities?: [type: string, first: number, last: number][][];
    types?: Record<string, number[]>;
  }
  for (const { labels, expected, predicted, accuracy, overall, entities, types } of read("measures.json") as Case[]) {
    const found = expected.map((tags) => entitiesOf(tags).map(({ label, from, to }) => [label, from, to - 1]));
    if (entities) assert.deepEqual(found, entities);
    const numbers = (texts: string[][]) => texts.map((tags) => tags.map((tag) => labels.indexOf(tag)));
    const score = tagMeasures(numbers(expected), numbers(predicted), labels);
    assert.equal(score.counted, entities ? "entities" : "tags", labels.join());
    near(score.accuracy, accuracy, 1e-12);
    near([score.precision, score.recall, score.f1], overall, 1e-12);
    if (!types) continue;
    assert.deepEqual(score.classes.map(({ label }) => label).sort(), Object.keys(types).sort());
    for (const { label, precision, recall, f1, support } of score.classes)
      near([precision, recall, f1, support], types[label]!, 1e-12);
  }
});

test("a text's words and entities are found where they are in it", async () => {
  const text = "  the cat\tsat, on 東京 ";
  const encoded = splitWords(await tokenizerOf("bert"), text, 24);
  const labels = ["O", "B-X", "I-X"];
  const tags = [1, 2, 0, 0, 1];
  const logits = new Float32Array(encoded.ids.length * labels.length);
  for (const [word, first] of encoded.firsts.entries()) logits[first * labels.length + tags[word]!] = 5;
  const { scores, words, entities } = readTags(logits, labels, encoded);
  const sure = Math.exp(5) / (Math.exp(5) + 2);
  assert.deepEqual(scores, []);
  assert.deepEqual(
    words!.map(({ label, from, to, text: own }) => [label, from, to, own]),
    [
      ["B-X", 2, 5, "the"],
      ["I-X", 6, 9, "cat"],
      ["O", 10, 14, "sat,"],
      ["O", 15, 17, "on"],
      ["B-X", 18, 20, "東京"],
    ],
  );
  for (const { probability } of entities!) near(probability, sure, 1e-12);
  assert.deepEqual(
    entities!.map(({ probability: _, ...entity }) => entity),
    [
      { label: "X", text: "the cat", from: 2, to: 9 },
      { label: "X", text: "東京", from: 18, to: 20 },
    ],
  );
  assert.equal(readTags(logits, ["NOUN", "VERB", "DET"], encoded).entities, undefined);
});
