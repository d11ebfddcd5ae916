// Tokenizers and chat templates that mean harm, or are broken: each is refused by name, and nothing hangs.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_TEXT_BYTES } from "../../src/files.ts";
import { renderWithMask } from "../../src/text/mask.ts";
import { MAX_MESSAGES, MAX_TEMPLATE_BLANKS, MAX_TEMPLATE_CHARS, renderChat } from "../../src/text/template.ts";
import { MAX_RANGE } from "../../src/text/template-bounds.ts";
import { loadTokenizer, MAX_TOKEN_ID } from "../../src/text/tokenizer.ts";
import { refused, refusedSync } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const sound = {
  added_tokens: [{ id: 2, content: "<end>", special: true }] as unknown,
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: { type: "BPE", vocab: { a: 0, b: 1 } as Record<string, unknown>, merges: [] } as Record<string, unknown>,
};
const load = (json: unknown, others: Record<string, unknown> = {}) =>
  loadTokenizer(
    memoryFiles(
      Object.fromEntries(
        Object.entries({ "tokenizer.json": json, ...others }).map(([name, value]) => [
          `m/${name}`,
          typeof value === "string" || value instanceof Uint8Array ? value : JSON.stringify(value),
        ]),
      ),
    ),
    "m",
  );
const vocab = (entries: string) => JSON.stringify(sound).replace('"a":0', entries);

test("the tokenizer that the broken ones are made from is sound", async () => {
  assert.deepEqual([...(await load(sound)).encode("ab<end>")], [0, 1, 2]);
  const odd = await load(vocab('"a":0,"__proto__":3,"constructor":4'));
  assert.equal(odd.tokenToId("__proto__"), 3);
  assert.equal(odd.tokenToId("toString"), undefined);
  assert.equal(odd.vocabSize, 5);
});

const brokenTokenizers: [name: string, code: string, pattern: RegExp, json: unknown, others?: Record<string, unknown>][] = [
  ["no JSON", "json/syntax", /tokenizer\.json/, "{"],
  ["a list", "json/not-object", /array/, []],
  ["not UTF-8", "text/utf8", /tokenizer\.json/, Uint8Array.from([0x7b, 0xff, 0x7d])],
  ["no model", "tokenizer/malformed", /no model/, {}],
  ["a model that is a number", "tokenizer/malformed", /no model/, { ...sound, model: 3 }],
  ["no vocabulary", "tokenizer/malformed", /no vocabulary/, { ...sound, model: { type: "BPE", merges: [] } }],
  ["a negative id", "tokenizer/malformed", /"a" has no usable id/, vocab('"a":-1')],
  ["a fractional id", "tokenizer/malformed", /usable id/, vocab('"a":0.5')],
  ["an id in a string", "tokenizer/malformed", /usable id/, vocab('"a":"0"')],
  ["an id of 4 billion", "tokenizer/malformed", new RegExp(String(MAX_TOKEN_ID)), vocab('"a":4294967294')],
  ["an added id of 4 billion", "tokenizer/malformed", /<x>/, { ...sound, added_tokens: [{ id: 2 ** 32 - 2, content: "<x>" }] }],
  ["added tokens that are no list", "tokenizer/malformed", /added_tokens/, { ...sound, added_tokens: { a: 1 } }],
  ["an added token without content", "tokenizer/malformed", /added_tokens\[0\]/, { ...sound, added_tokens: [{ id: 3 }] }],
  ["an empty added token", "tokenizer/malformed", /added_tokens\[0\]/, { ...sound, added_tokens: [{ id: 3, content: "" }] }],
  [
    "an unknown kind of model",
    "tokenizer/malformed",
    /BPE, WordPiece, Unigram, WordLevel[\s\S]*Magic/,
    { ...sound, model: { type: "Magic", vocab: {} } },
  ],
  ["an unknown pre-tokenizer", "tokenizer/malformed", /cannot be built/, { ...sound, pre_tokenizer: { type: "Magic" } }],
  ["merges that are a number", "tokenizer/malformed", /cannot be built/, { ...sound, model: { ...sound.model, merges: 3 } }],
  ["an EOS that no token is", "tokenizer/malformed", /eos_token/, sound, { "tokenizer_config.json": { eos_token: "</s>" } }],
  ["an EOS id that is text", "tokenizer/malformed", /eos_token_id/, sound, { "generation_config.json": { eos_token_id: "2" } }],
  ["an EOS id below 0", "tokenizer/malformed", /eos_token_id/, sound, { "generation_config.json": { eos_token_id: [0, -2] } }],
  [
    "a template that is a number",
    "tokenizer/malformed",
    /chat_template/,
    sound,
    { "tokenizer_config.json": { chat_template: 3 } },
  ],
  [
    "no default template",
    "tokenizer/malformed",
    /named rag/,
    sound,
    { "tokenizer_config.json": { chat_template: [{ name: "rag", template: "" }] } },
  ],
  ["a config that is text", "json/not-object", /tokenizer_config/, sound, { "tokenizer_config.json": '"x"' }],
];
for (const [name, code, pattern, json, others] of brokenTokenizers) {
  test(`tokenizer: ${name}`, async () => {
    await refused(load(json, others), code, { subject: /./, text: pattern });
  });
}

test("tokenizer: a file over the limit is not read", async () => {
  const files = memoryFiles({ "m/tokenizer.json": "{}" });
  const large = { ...files, size: async () => MAX_TEXT_BYTES + 1 };
  await refused(loadTokenizer(large, "m"), "text/too-large", { subject: /./ });
  assert.equal(files.reads.length, 0);
});

const render = (
  source: string,
  messages: { role: string; content: string }[] = [{ role: "user", content: "hi" }],
  tools?: unknown[],
) => renderChat({ source, file: "chat_template.jinja", tokens: {} }, messages, { tools });
const times = (n: number, text: string) => text.repeat(n);

const hostileTemplates: [name: string, code: string | RegExp, source: string][] = [
  ["a range without end", "template/limit", "{% for i in range(10**12) %}x{% endfor %}"],
  ["a range backwards", "template/limit", "{% for i in range(0, -1000000000000, -1) %}x{% endfor %}"],
  ["a range of no integers", "template/failed", "{{ range(0, 1, 0.0000001) }}"],
  ["a range of text", "template/failed", "{{ range('9') }}"],
  ["a range that stands still", "template/failed", "{{ range(0, 1, 0) }}"],
  ["loops in loops", "template/limit", `${times(6, "{% for i in range(9999) %}")}x${times(6, "{% endfor %}")}`],
  ["loops in loops that do nothing", "template/limit", `${times(6, "{% for i in range(9999) %}")}${times(6, "{% endfor %}")}`],
  ["text that doubles", "template/limit", `{% set x = 'xx' %}${times(60, "{% set x = x + x %}")}{{ x }}`],
  ["text that doubles by ~", "template/limit", `{% set x = 'xx' %}${times(60, "{% set x = x ~ x %}")}{{ x }}`],
  [
    "text that doubles by replacement",
    /template\/(limit|failed)/,
    `{% set x = 'aaaa' %}${times(60, "{% set x = x.replace('a', x) %}")}{{ x }}`,
  ],
  ["a list that doubles", "template/limit", `{% set x = [1, 2] %}${times(60, "{% set x = x + x %}")}{{ x | length }}`],
  ["lists of the same list", "template/limit", `{% set x = ['laugh'] %}${times(60, "{% set x = [x, x, x] %}")}{{ x | tojson }}`],
  [
    "mappings of the same mapping",
    "template/limit",
    `{% set x = {'a': 1} %}${times(60, "{% set x = {'a': x, 'b': x} %}")}{{ x }}`,
  ],
  ["a namespace that holds itself", "template/limit", "{% set ns = namespace(a=1) %}{% set ns.a = ns %}{{ ns }}"],
  ["a namespace in a list", "template/limit", "{% set ns = namespace(a=1) %}{% set ns.a = [ns] %}{{ ns.a | tojson }}"],
  ["output in a loop", "template/limit", `{% set x = '${"y".repeat(1000)}' %}{% for i in range(100000) %}{{ x }}{% endfor %}`],
  ["an indent of a billion", /template\/(limit|failed)/, "{{ [1, [2]] | tojson(indent=1000000000) }}"],
  ["an indented text of a billion", /template\/(limit|failed)/, "{{ 'a\\nb' | indent(1000000000) }}"],
  ["a macro that calls itself", /template\/(limit|failed)/, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"],
  [
    "a macro that calls itself twice",
    /template\/(limit|failed)/,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
  ],
  ["brackets without end", /template\/(syntax|failed)/, `{{ ${"(".repeat(100_000)} }}`],
  ["nested brackets", /template\/(syntax|failed)/, `{{ ${"(".repeat(50_000)}1${")".repeat(50_000)} }}`],
  ["a tag that is not closed", "template/syntax", "{% if messages"],
  ["an unknown tag", "template/syntax", "{% include 'x' %}"],
  ["an unknown filter", "template/failed", "{{ messages | sum }}"],
  ["a call of no function", "template/failed", "{{ messages() }}"],
  ["the host's objects", "template/failed", "{{ messages.constructor.constructor('return 1')() }}"],
  ["too long a source", "template/limit", "x".repeat(MAX_TEMPLATE_CHARS + 1)],
  ["white space without end", "template/limit", `{{ 1 }}${" ".repeat(MAX_TEMPLATE_BLANKS + 1)}`],
];
for (const [name, code, source] of hostileTemplates) {
  test(`template: ${name}`, () => {
    refusedSync(() => render(source), code, { subject: /./, text: /chat_template\.jinja/ });
  });
}

test("template: what is just within the bounds renders", () => {
  assert.equal(render(`{{ range(${MAX_RANGE}) | length }}`), String(MAX_RANGE));
  assert.equal(render(`${" ".repeat(MAX_TEMPLATE_BLANKS)}x`).trim(), "x");
  assert.equal(render("{{ messages.__proto__ }}{{ __proto__ }}{{ messages.constructor }}"), "");
});

test("template: too many messages", () => {
  const messages = Array.from({ length: MAX_MESSAGES + 1 }, () => ({ role: "user", content: "" }));
  refusedSync(() => render("", messages), "template/limit", { subject: /./, text: new RegExp(String(MAX_MESSAGES)) });
});

test("template: tools nested without end", () => {
  let tool: unknown = {};
  for (let i = 0; i < 100_000; i++) tool = { tool };
  refusedSync(() => render("{{ tools | tojson }}", [], [tool]), "template/failed", { subject: /./ });
});

test("template: marks out of order", () => {
  for (const source of [
    "{% generation %}x",
    "{% endgeneration %}x",
    "{% set y %}{% generation %}x{% endgeneration %}{% endset %}{{ y[1:] }}",
  ]) {
    const template = { source, file: "chat_template.jinja", tokens: {} };
    refusedSync(() => renderWithMask(template, [{ role: "assistant", content: "x" }]), "template/marks", { subject: /./ });
  }
});
