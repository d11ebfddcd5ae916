// text/template.ts and text/mask.ts: renderings that Transformers made of templates in each common style, and whose the tokens are.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import { encodeSpans, renderWithMask } from "../../src/text/mask.ts";
import { type ChatMessage, type ChatTemplate, renderChat } from "../../src/text/template.ts";
import { loadTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { llama2StyleFiles } from "../helpers/llama2-style.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";
import { smollm2Tokenizer, smollm2TokenizerWith } from "../helpers/smollm2.ts";

const read = (name: string) => readFileSync(`${fixtures}/chat-templates/${name}`, "utf8");

interface Rendering {
  template: string;
  conversation: string;
  addGenerationPrompt: boolean;
  text?: string;
  /** In code points. */
  spans?: [number, number][];
  error?: string;
}
const golden = JSON.parse(read("renderings.json")) as {
  date: [number, number, number];
  tokens: Record<string, string>;
  conversations: Record<string, ChatMessage[]>;
  renderings: Rendering[];
};
const now = new Date(golden.date[0], golden.date[1] - 1, golden.date[2]);
const load = (name: string): ChatTemplate => ({ source: read(`${name}.jinja`), file: `${name}.jinja`, tokens: golden.tokens });
const inline = (source: string): ChatTemplate => ({ source, file: "inline", tokens: {} });
const turns = (template: ChatTemplate, messages: ChatMessage[]) => {
  const { text, spans } = renderWithMask(template, messages, { now });
  return spans.map(([start, end]) => text.slice(start, end));
};

for (const name of new Set(golden.renderings.map(({ template }) => template))) {
  test(`${name}: renders as Transformers does`, () => {
    const template = load(name);
    const rows = golden.renderings.filter((row) => row.template === name);
    assert.ok(rows.length >= 6);
    for (const { conversation, addGenerationPrompt, text, error } of rows) {
      const render = () => renderChat(template, golden.conversations[conversation]!, { addGenerationPrompt, now });
      if (error === undefined) assert.equal(render(), text, conversation);
      else assert.throws(render, (thrown: LowrankError) => thrown.code === "template/refused" && thrown.message.includes(error));
    }
  });
}

test("{% generation %} marks give the spans that Transformers reports", () => {
  let checked = 0;
  for (const { template, conversation, addGenerationPrompt, text, spans } of golden.renderings) {
    if (spans === undefined || addGenerationPrompt) continue;
    const points = Array.from(text!);
    const expected = spans.map(([start, end]) => points.slice(start, end).join(""));
    assert.deepEqual(turns(load(template), golden.conversations[conversation]!), expected, `${template}, ${conversation}`);
    checked += expected.length;
  }
  assert.ok(checked >= 6);
});

const tokenizerOfAll = smollm2TokenizerWith(
  "<s> </s> <|eot_id|> <|start_header_id|> <|end_header_id|> <start_of_turn> <end_of_turn>".split(" "),
);

// The assistant's turns of the conversation "two turns", as each style writes them.
const twoTurns: [template: string, turns: string[]][] = [
  ["chatml", ["Hello there.<|im_end|>", "Now\nthis — ok 🙂<|im_end|>"]],
  ["llama2", [" Hello there. </s>", " Now\nthis — ok 🙂 </s>"]],
  ["llama3", ["Hello there.<|eot_id|>", "Now\nthis — ok 🙂<|eot_id|>"]],
  ["gemma", ["Hello there.<end_of_turn>", "Now\nthis — ok 🙂<end_of_turn>"]],
  ["marked", ["Hello there.<|im_end|>", "Now\nthis — ok 🙂<|im_end|>"]],
];
for (const [name, expected] of twoTurns) {
  test(`${name}: the mask is the assistant's turns with their end-of-turn token, and nothing else`, async () => {
    const template = load(name);
    const messages = golden.conversations["two turns"]!;
    assert.deepEqual(turns(template, messages), expected);
    assert.deepEqual(turns(template, golden.conversations["question"]!), []);
    // The same in tokens: those inside decode to the turns, and all are those of the whole text.
    const tokenizer = await tokenizerOfAll;
    const { text, spans } = renderWithMask(template, messages, { now });
    const { ids, inside } = encodeSpans(tokenizer, text, spans);
    assert.deepEqual(ids, tokenizer.encode(text, { addSpecialTokens: false }));
    assert.equal(tokenizer.decode(ids.filter((_, i) => inside[i])), expected.join(""));
    assert.equal(tokenizer.decode(ids.filter((_, i) => !inside[i])).length, text.length - expected.join("").length);
  });
}

test("a line break is part of the turn only where nothing else ends it", () => {
  const plain = inline(
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
  );
  assert.deepEqual(turns(plain, golden.conversations["system"]!), ["4\n"]);
});

test("a template that writes a thought only into the last answer: each answer as it is written", () => {
  const template = load("thinking");
  assert.deepEqual(turns(template, golden.conversations["system"]!), ["<think>\n\n</think>\n\n4<|im_end|>"]);
  assert.deepEqual(turns(template, golden.conversations["two turns"]!), [
    "Hello there.<|im_end|>",
    "<think>\n\n</think>\n\nNow\nthis — ok 🙂<|im_end|>",
  ]);
});

/** Templates whose turns cannot be located, and the error's text. */
const untold: [name: string, source: string, got: RegExp][] = [
  [
    "another header for generation than for a turn",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}",
    /generation is given ".*bot.*the conversation has ".*assistant/,
  ],
  [
    "an answer written twice",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}|{{ m.content }}{% endif %}<|end|>{% endfor %}" +
      "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    /content 2 times/,
  ],
  [
    "answers that stand before their questions",
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }};{% endif %}{% endfor %}" +
      "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}?{% endif %}{% endfor %}",
    /./,
  ],
  [
    "the end of an answer depends on the answer",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end{{ m.content | length }}|>{% endfor %}" +
      "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    /another end of the text/,
  ],
];
for (const [name, source, got] of untold) {
  test(`refused, not masked wrongly: ${name}`, () => {
    assert.throws(
      () => turns(inline(source), golden.conversations["two turns"]!),
      (error: LowrankError) => {
        assert.equal(error.code, "template/unstable");
        assert.equal(error.subject, "inline");
        assert.match(error.message, /message 1$/);
        assert.match(error.got!, got);
        assert.match(error.next!, /generation/);
        return true;
      },
    );
  });
}

test("a tool's result that is written inside the assistant's turn is refused", () => {
  const source =
    "{% for m in messages %}{% if m.role != 'tool' %}<|{{ m.role }}|>{% if m.calls %}call;{{ messages[loop.index0 + 1].content }};{% endif %}" +
    "{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
  const messages = [
    { role: "user", content: "Weather?" },
    { role: "assistant", content: "", calls: true },
    { role: "tool", content: "sunny" },
    { role: "assistant", content: "Sun." },
  ];
  assert.throws(() => turns(inline(source), messages), { code: "template/unstable", got: /next message inside|at the end/ });
});

test("a mapping that is joined to a text is refused, as in Python", () => {
  const calls = (value: unknown) => [{ role: "assistant", content: "", calls: value }];
  const template = inline("{% for m in messages %}{{ 'call ' + m.calls }}{% endfor %}");
  assert.throws(() => renderChat(template, calls({ city: "Rome" })), { code: "template/failed", got: /a mapping/ });
  assert.equal(renderChat(template, calls('{"city": "Rome"}')), 'call {"city": "Rome"}');
});

test("strip takes away the characters it is given, as in Python", () => {
  const render = (source: string) => renderChat(inline(source), [{ role: "user", content: "x" }]);
  assert.equal(render("{{ '\n a \n'.strip('\n') }}|"), " a |");
  assert.equal(render("{{ 'xyaxy'.lstrip('yx') }}|{{ 'xyaxy'.rstrip('yx') }}|{{ ' a '.strip() }}|"), "axy|xya|a|");
});

test("text that already holds the marks' characters is refused, not misread", () => {
  const messages = [{ role: "assistant", content: "a\uFDD1b" }];
  assert.throws(() => turns(load("marked"), messages), { code: "template/marks" });
});

test("tools, dates and constants reach the template", () => {
  const messages = [{ role: "user", content: "x", extra: { n: 1 } }];
  const at = new Date(2025, 0, 5, 7, 8, 9);
  const render = (source: string) => renderChat(inline(source), messages, { tools: [{ name: "f" }], now: at });
  assert.equal(render("{{ tools[0].name }}{{ messages[0].extra.n }}{{ documents is none }}"), "f1true");
  assert.equal(
    render("{{ strftime_now('%a %A %d %b %B %Y-%m-%y %H:%M:%S %%') }}"),
    "Sun Sunday 05 Jan January 2025-01-25 07:08:09 %",
  );
  assert.equal(render("{% for i in range(7, 1, -2) %}{{ i }}{% endfor %}{% for i in range(3) %}{{ i }}{% endfor %}"), "753012");
  assert.throws(() => render("{{ strftime_now('%Q') }}"), { code: "template/failed" });
});

test("a token across a turn's border is the turn's, where the text can be followed token by token", async () => {
  const tokenizer = await smollm2Tokenizer();
  const text = "[/INST]\n\nHello 🙂 there</s><s>";
  const at = (part: string): [number, number] => [text.indexOf(part), text.indexOf(part) + part.length];
  const targets = (part: string) => {
    const { ids, inside } = encodeSpans(tokenizer, text, [at(part)]);
    assert.deepEqual(ids, tokenizer.encode(text));
    return tokenizer.decode(ids.filter((_, i) => inside[i]));
  };
  assert.equal(targets("Hello"), "Hello");
  assert.equal(targets("lo 🙂 the"), "Hello 🙂 there");
  assert.equal(targets("Hello 🙂 there</s>"), "Hello 🙂 there</s><");
});

test("SentencePiece's added spaces do not move a turn's border", async () => {
  const tokenizer = await loadTokenizer(memoryFiles(llama2StyleFiles()), "base");
  const messages = golden.conversations["two turns"]!;
  const { text, spans } = renderWithMask(load("llama2"), messages);
  const { ids, inside } = encodeSpans(tokenizer, text, spans);
  assert.deepEqual(ids, tokenizer.encode(text, { addSpecialTokens: false }));
  assert.equal(tokenizer.decode(ids.filter((_, i) => inside[i])), "Hello there. </s> Now\nthis — ok 🙂 </s>");
});

test("without a decoder that gives the text back, borders are where beginnings agree", () => {
  // Encodes pairs of letters, so that a border between two letters of a pair lies inside a token.
  const pairs = {
    encode: (text: string) =>
      Int32Array.from(text.match(/..?/gs) ?? [], (pair) => pair.charCodeAt(0) * 256 + (pair.charCodeAt(1) || 0)),
    decode: () => "",
    specialIds: new Set<number>(),
    limited: <T>(work: () => T) => work(),
  } as unknown as Tokenizer;
  const whole = pairs.encode("abcdefgh");
  assert.deepEqual(encodeSpans(pairs, "abcdefgh", [[2, 4]]), { ids: whole, inside: Uint8Array.from([0, 1, 0, 0]) });
  assert.deepEqual(encodeSpans(pairs, "abcdefgh", [[3, 7]]), { ids: whole, inside: Uint8Array.from([0, 1, 1, 0]) });
});
