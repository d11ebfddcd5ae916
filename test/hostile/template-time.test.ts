// Chat templates and conversations that take without end: stopped within the time of a record, by name and line.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { makeExamples } from "../../src/data/dataset.ts";
import { encodeChat } from "../../src/generate/prompts.ts";
import { timeLimitOf } from "../../src/platform/node/time-limit.ts";
import { withCheckedTemplate } from "../../src/tasks/common/tokenizer-checks.ts";
import { encodePreference } from "../../src/tasks/preference/data.ts";
import { type ChatMessage, MAX_MESSAGES } from "../../src/text/template.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { refused } from "../helpers/assert.ts";
import { llama2StyleFiles } from "../helpers/llama2-style.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const plain =
  "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
/** A tenth of the usual limit of a record, MAX_TEXT_MS. */
const limit = timeLimitOf(400);
const refusal = async (source: string, messages: object[]) => {
  const tokenizer = await loadTokenizer(memoryFiles(llama2StyleFiles()), "base", limit);
  const template = { source, file: "chat_template.jinja", tokens: {} };
  const records = [{ record: { messages: messages as { role: string; content: string }[] }, place: "line 7" }];
  const started = Date.now();
  const { code, subject } = await refused(makeExamples(records, tokenizer, { maxLength: 64, template, source: "d.jsonl" }));
  assert.ok(Date.now() - started < 15_000, "it hangs");
  return { code, subject };
};
const subject = "d.jsonl, line 7 (chat_template.jinja)";
const turns = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ role: i % 2 ? "assistant" : "user", content: "word ".repeat(50) }));

test("a conversation of as many messages as there may be is stopped at the time limit, and the template is named", async () => {
  assert.deepEqual(await refusal(plain, turns(MAX_MESSAGES)), { code: "template/slow", subject });
});

test("a template that loops is stopped, whatever it does in the loop", async () => {
  const loop = (body: string) => `{% for i in range(9999) %}{% for j in range(9999) %}${body}{% endfor %}{% endfor %}${plain}`;
  const bodies = [
    "",
    "x",
    "{% set x = i %}",
    "{{ messages[0].content | upper | replace('W', 'vv') | length }}",
    "{{ messages | tojson | length }}",
  ];
  for (const body of bodies) {
    const { code, subject: where } = await refusal(loop(body), turns(2));
    assert.match(code, /^template\/(limit|slow)$/, body);
    assert.equal(where, subject);
  }
});

test("a template that is stopped is what the error is about, wherever it is rendered", async () => {
  const source = "{% for i in range(9999) %}{% for j in range(9999) %}{% set x = messages | tojson %}{% endfor %}{% endfor %}";
  const files = { ...llama2StyleFiles(), "base/chat_template.jinja": source };
  const tokenizer = await loadTokenizer(memoryFiles(files), "base", timeLimitOf(200));
  const [question, answer] = turns(2) as [ChatMessage, ChatMessage];
  const read = async function* () {
    yield { record: {}, place: "line 1" };
  };
  const rendering: Record<string, () => unknown> = {
    checked: () => withCheckedTemplate(read(), tokenizer, () => true).next(),
    learnt: () => makeExamples([{ record: { messages: [question, answer] }, place: "line 1" }], tokenizer, { maxLength: 64 }),
    preferred: () => encodePreference({ prompt: [question], chosen: [answer], rejected: [answer] }, tokenizer),
    continued: () => encodeChat(tokenizer, [question]),
  };
  for (const [name, work] of Object.entries(rendering)) {
    const { code, got } = await refused(work);
    assert.equal(code, "template/slow", name);
    assert.match(got!, /message/);
  }
});
