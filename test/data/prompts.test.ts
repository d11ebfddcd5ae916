// data/prompts.ts: what surrounds every prompt of a dataset, and a text put between it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { asPrompt, promptFormatOf } from "../../src/data/prompts.ts";
import type { DataRecord } from "../../src/data/records.ts";

function formatOf(records: DataRecord[]) {
  const seen = promptFormatOf();
  for (const record of records) seen.add(record);
  return seen.format();
}
const prompts = (...texts: string[]) => texts.map((prompt) => ({ prompt, completion: "x" }));

const cases: [string, string[], string, string][] = [
  ["a last line break", ["name[The Eagle], area[x]\n", "name[Cocum], area[y]\n"], "", "\n"],
  ["nothing", ["What is 2+2?", "What is 3+4?"], "", ""],
  [
    "headings",
    ["### Instruction:\nSay hi\n\n### Response:\n", "### Instruction:\nSing\n\n### Response:\n"],
    "### Instruction:\n",
    "\n\n### Response:\n",
  ],
  ["labels on one line", ["Q: why A:", "Q: how A:"], "Q: ", " A:"],
  ["one prompt alone", ["Q: why\nA:\n"], "", "\n"],
  ["the same prompt over and over", ["Once upon\n", "Once upon\n"], "", "\n"],
  ["a prompt without a line break", ["Say hello"], "", ""],
  ["prompts without a text between", ["a: \n", "a: b\n"], "a: ", "\n"],
  ["empty prompts", ["", ""], "", ""],
];
for (const [what, texts, before, after] of cases) {
  test(`around prompts: ${what}`, () => assert.deepEqual(formatOf(prompts(...texts)), { kind: "completion", before, after }));
}

test("the kind is the records'", () => {
  assert.equal(formatOf([]), null);
  assert.deepEqual(formatOf([{ text: "a" }]), { kind: "text" });
  assert.deepEqual(formatOf([{ messages: [{ role: "user", content: "a" }] }]), { kind: "messages" });
});

test("a text gets what it lacks, and keeps what it has", () => {
  const frame = { before: "Q: ", after: "\n\nA:" };
  for (const text of ["why", "Q: why", "why\n", "Q: why\n\n", "why\n\nA", "Q: why\n\nA:"]) {
    assert.equal(asPrompt(text, frame), "Q: why\n\nA:", JSON.stringify(text));
  }
  assert.equal(asPrompt("", { before: "", after: "\n" }), "\n");
});
