// Preferences as records and examples: formats, what is the prompt, which tokens are targets, what is cut, previews.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inMemory } from "../../src/data/store.ts";
import { type Example, IGNORE } from "../../src/data/types.ts";
import { preview } from "../../src/index.ts";
import { loadTextBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { answersOf, encodePreference, pairExample } from "../../src/tasks/preference/data.ts";
import { preference } from "../../src/tasks/preference/index.ts";
import type { Preference } from "../../src/tasks/preference/records.ts";
import { noTimeLimit } from "../../src/text/limit.ts";
import { runEach } from "../../src/train/evals.ts";
import { collect, refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { jsonl } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const folder = `${fixtures}/tiny-llama`;
const base = await loadTextBase(nodeFiles, folder, noTimeLimit);
const tokenizer = await base.tokenizer();
const host = { files: nodeFiles, decodeImage: undefined };

const question = { role: "user", content: "What colour is the sky?" };
const said = (content: string) => ({ role: "assistant", content });

const root = temporaryFolder();

const dataOf = (options = {}) => preference.data(base, { trainOn: "completion", ...options }, host);
async function recordsOf(rows: object[], options = {}): Promise<Preference[]> {
  const path = await jsonl(root, "data.jsonl", rows);
  const { file } = (await dataOf(options)).open(path);
  return (await collect(file)).map(({ record }) => record as Preference);
}

const texts = { prompt: "The sky is", chosen: " blue.", rejected: " green." };
const conversation = { prompt: [question], chosen: [said("It is blue.")], rejected: [said("It is green.")] };

test("a prompt stands by itself, or is what both answers begin with, in strings and in conversations", async () => {
  assert.deepEqual(await recordsOf([texts]), [texts]);
  assert.deepEqual(await recordsOf([{ chosen: "The sky is blue.", rejected: "The sky is green." }]), [texts]);
  assert.deepEqual(await recordsOf([conversation]), [conversation]);
  const whole = { chosen: [question, said("It is blue.")], rejected: [question, said("It is green.")] };
  assert.deepEqual(await recordsOf([whole]), [conversation]);
  // A copy of the question beside whole conversations.
  assert.deepEqual(await recordsOf([{ prompt: question.content, ...whole }]), [conversation]);
});

test("of answers one of which is the beginning of the other, something stays of both", async () => {
  assert.deepEqual(await recordsOf([{ chosen: "a b", rejected: "a b c" }]), [{ prompt: "a", chosen: " b", rejected: " b c" }]);
  assert.deepEqual(await recordsOf([{ chosen: "😀😀", rejected: "😀😁" }]), [{ prompt: "😀", chosen: "😀", rejected: "😁" }]);
  const turns = [question, said("yes")];
  assert.deepEqual(await recordsOf([{ chosen: turns, rejected: turns }]), [
    { prompt: [question], chosen: [said("yes")], rejected: [said("yes")] },
  ]);
});

test("columns can be named; other records are refused with what is expected", async () => {
  const named = { promptColumn: "ask", chosenColumn: "good", rejectedColumn: "bad" };
  assert.deepEqual(await recordsOf([{ ask: "The sky is", good: " blue.", bad: " green." }], named), [texts]);
  const error = await refused(recordsOf([{ prompt: "a", completion: "b" }]));
  assert.equal(error.code, "data/keys");
  assert.match(error.expected!, /\{prompt, chosen, rejected\}, \{chosen, rejected\}/);
  assert.match(error.next!, /--chosen-column/);
  const mixed = await refused(recordsOf([{ prompt: [question], chosen: "blue", rejected: [said("green")] }]));
  assert.equal(mixed.code, "data/value");
});

const decoded = ({ ids, labels }: Example): [string, string] => [
  tokenizer.decode(ids),
  tokenizer.decode(ids.filter((_, i) => labels[i] !== IGNORE)),
];

test("the targets of strings are the answer and the end of the text", () => {
  const encoded = encodePreference(texts, tokenizer);
  assert.deepEqual(answersOf(pairExample(encoded, 100)).map(decoded), [
    ["The sky is blue.<|endoftext|>", " blue.<|endoftext|>"],
    ["The sky is green.<|endoftext|>", " green.<|endoftext|>"],
  ]);
});

test("the targets of a conversation are all that the template writes behind the prompt", () => {
  const start = `<|im_start|>user\n${question.content}<|im_end|>\n<|im_start|>assistant\n`;
  const encoded = encodePreference(conversation, tokenizer);
  assert.deepEqual(answersOf(pairExample(encoded, 100)).map(decoded), [
    [`${start}It is blue.<|im_end|>\n`, "It is blue.<|im_end|>\n"],
    [`${start}It is green.<|im_end|>\n`, "It is green.<|im_end|>\n"],
  ]);
});

test("an answer begins where tokens differ from the prompt's own, which a token across the border moves", () => {
  const encoded = encodePreference({ prompt: "The sky ", chosen: "is blue.", rejected: "was white." }, tokenizer);
  const prompt = tokenizer.encode("The sky ", { addSpecialTokens: false });
  const whole = tokenizer.encode("The sky is blue.", { addSpecialTokens: false });
  assert.notDeepEqual(whole.slice(0, prompt.length), prompt, "a token lies across the border");
  assert.ok(encoded.prompt < prompt.length);
  assert.deepEqual(encoded.chosen.slice(0, encoded.prompt), prompt.slice(0, encoded.prompt));
});

test("texts are cut on the right, and a pair is left out where an answer loses every target", async () => {
  const encoded = { prompt: 3, chosen: Int32Array.of(5, 6, 7, 8, 9, 2), rejected: Int32Array.of(5, 6, 7, 4, 2) };
  const [chosen, rejected] = answersOf(pairExample(encoded, 5));
  assert.deepEqual([...chosen.ids], [5, 6, 7, 8, 9]);
  assert.deepEqual([...chosen.labels], [IGNORE, IGNORE, IGNORE, 8, 9]);
  assert.deepEqual([...rejected.labels], [IGNORE, IGNORE, IGNORE, 4, 2]);
  assert.equal(pairExample(encoded, 3).targets, 0);
  assert.equal(pairExample({ ...encoded, prompt: 0 }, 1).targets, 0, "the first token is no target");
});

test("a batch has the chosen answers, then the rejected ones, and its size is known before", async () => {
  const pairs = [
    { prompt: 1, chosen: Int32Array.of(5, 6, 7), rejected: Int32Array.of(5, 8) },
    { prompt: 2, chosen: Int32Array.of(9, 10, 11), rejected: Int32Array.of(9, 10, 12, 13) },
  ];
  const examples = inMemory(pairs.map((pair) => pairExample(pair, 100)));
  const collator = (await dataOf()).collate(examples);
  assert.deepEqual([...collator.lengths], [3, 4]);
  assert.deepEqual(collator.size([0, 1]), { rows: 4, width: 4, targets: 6 });
  const { feeds, targets, tokens } = await collator.batch([0, 1]);
  const { padId } = tokenizer;
  assert.deepEqual([...feeds["inputIds"]!.data], [5, 6, 7, padId, 9, 10, 11, padId, 5, 8, padId, padId, 9, 10, 12, 13]);
  assert.deepEqual([...feeds["lossTexts"]!.data], [0, 0, 1, 2, 3, 3]);
  assert.deepEqual([...feeds["lossLabels"]!.data], [6, 7, 11, 8, 12, 13]);
  assert.deepEqual([...feeds["otherAnswer"]!.data], [2, 3, 0, 1]);
  assert.deepEqual([...feeds["side"]!.data], [1, 1, -1, -1]);
  assert.deepEqual([targets, tokens], [2, 12]);
});

test("the reference is computed once for all pairs, two numbers each, and fed with whatever batch they are in", async () => {
  const lengths = [2, 5, 3, 4, 2];
  const pairs = lengths.map((length, i) => {
    const text = (last: number) => Int32Array.from({ length }, (_, at) => (at === length - 1 ? last : 3));
    return pairExample({ prompt: 1, chosen: text(10 + i), rejected: text(20 + i) }, 100);
  });
  const collator = (await dataOf()).collate(inMemory(pairs));
  let runs = 0;
  const prepared = await preference.prepare!(collator, {
    batchSize: 2,
    // What stands for a text's log-probability: its last token.
    run: runEach(async ({ feeds }) => {
      runs++;
      const { data, shape } = feeds["inputIds"]!;
      const width = shape[1]!;
      const rows = Array.from({ length: shape[0]! }, (_, row) => [...data].slice(row * width, (row + 1) * width).map(Number));
      const logps = Float32Array.from(rows, (row) => Math.max(...row.filter((id) => id !== tokenizer.padId)));
      return { logps: { dtype: "float32", shape: [rows.length], data: logps } };
    }),
  });
  assert.equal(runs, 3);
  for (const rows of [[0, 1, 2, 3, 4], [4, 2], [3]]) {
    const { feeds } = await prepared.batch(rows);
    assert.deepEqual([...feeds["referenceLogps"]!.data], [...rows.map((i) => 10 + i), ...rows.map((i) => 20 + i)]);
  }
  assert.equal(runs, 3);
  assert.equal(await prepared.name(), await collator.name());
});

test("a preview marks the trained tokens of both answers, counts, and warns of pairs that teach nothing", async () => {
  const data = await jsonl(root, "data.jsonl", [
    texts,
    { ...texts, rejected: texts.chosen },
    { prompt: texts.prompt, chosen: texts.rejected, rejected: texts.chosen },
    { prompt: "word ".repeat(200), chosen: "a", rejected: "b" },
  ]);
  const found = await preview({ base: folder, data, task: "preference", maxLength: 60, examples: 1 });
  assert.deepEqual(found.shown[0]!.texts, [
    { name: "prompt", parts: [{ text: "The sky is", trained: false }] },
    { name: "chosen", parts: [{ text: " blue.<|endoftext|>", trained: true }] },
    { name: "rejected", parts: [{ text: " green.<|endoftext|>", trained: true }] },
  ]);
  const { records, truncated, continued } = found.train;
  assert.deepEqual([records, truncated, continued!.examples, continued!.equal], [4, 1, 3, 1]);
  assert.deepEqual(continued!.dropped, { cut: 1, empty: 0, places: ["line 4"] });
  assert.match(found.warnings.join("\n"), /1 of 4 pairs have equal answers/);
  assert.match(found.warnings.join("\n"), /1 of 4 pairs are truncated at 60 tokens/);
  assert.match(found.warnings.join("\n"), /1 pair is there the other way round/);
});
