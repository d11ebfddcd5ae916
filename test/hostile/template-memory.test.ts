// Chat templates that ask for memory without end: each is stopped before, in a thread that has little.
// slow
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { compiled } from "../helpers/repository.ts";

/** JavaScript memory of the thread. */
const MEMORY_MB = 400;

const times = (n: number, text: string) => text.repeat(n);
/** `x`: so many million characters. */
const long = (character: string, millions = 8) =>
  `{% set x = '${character.repeat(1000)}' %}${times(Math.log2(millions) + 10, "{% set x = x + x %}")}`;
const list = (item: string) => `{% set x = [${item}] %}${times(13, "{% set x = x + x %}")}`;

const bombs: [name: string, source: string][] = [
  ["an indent of JSON", "{{ [1, [2]] | tojson(indent=100000000) }}"],
  ["an indent of JSON for many", `${list("[1]")}{{ x | tojson(indent=100000) | length }}`],
  ["separators of JSON", `${long(",")}{{ [1, 2, 3, 4] | tojson(separators=(x, x)) | length }}`],
  ["JSON of what is escaped", `${long("\\x01".replace("\\x01", "\u0001"))}{{ [x] | tojson | length }}`],
  ["JSON of what is escaped, in ASCII", `${long("é")}{{ x | tojson(ensure_ascii=true) | length }}`],
  ["JSON by writing", `${long("\u0001", 2)}${times(40, "{{ [x] }}")}`],
  ["JSON by ~", `${long("\u0001")}{{ ([x] ~ 'a') | length }}`],
  ["JSON by comparing", `${long("\u0001")}{{ [x, x] == 'a' }}`],
  ["JSON by joining", `${long("\u0001")}{{ [[x]] | join | length }}`],
  ["a split by a character", `${long("a")}{{ x.split('a') | length }}`],
  ["a split of the second sort", `${long("a")}{{ x.split('a', 1) | length }}`],
  ["a split at white space", `${long("a ")}{{ x.split() | length }}`],
  ["a split by another name", `${long("a")}{% set f = x.split %}{{ f('a') | length }}`],
  ["a split by a computed name", `${long("a")}{{ x['sp' + 'lit']('a') | length }}`],
  ["a split by a call block", `${long("a")}{% set f = x.split %}{% call f('a') %}{% endcall %}`],
  ["a replacement", `${long("a")}{{ x.replace('a', x) | length }}`],
  ["a replacement by a filter", `${long("a")}{{ x | replace('', x) | length }}`],
  ["replacements of nothing", `${long("a")}{{ x.replace('a', '') | length }}`],
  ["a join of a text", `${long("é")}{{ x | join('é') | length }}`],
  ["a join of a list", `${list("1")}${long("a").replaceAll("x", "y")}{{ x | join(y) | length }}`],
  ["an indent of a text", `${long("\\n")}{{ x | indent(500000000) | length }}`],
  ["an indent of a block", `{% filter indent(400000000, true) %}a\nb\nc{% endfilter %}`],
  ["a title", `${long("é ")}{{ x | title | length }}`],
  ["a title by a method", `${long("é ")}{{ x.title() | length }}`],
  ["a slice", `${long("漢")}{{ x[1:] | length }}`],
  ["characters to strip", `${long("漢")}{{ x.strip('a') | length }}`],
  ["a namespace of characters", `${long("漢")}{{ namespace([x]) }}`],
  ["the path of an attribute", `${long(".")}{{ [{}] | map(attribute=x) | length }}`],
  ["the path of an attribute to sort by", `${long(".")}{{ [{}, {}] | sort(attribute=x) | length }}`],
  ["texts in many variables", `${long("a")}${Array.from({ length: 60 }, (_, i) => `{% set v${i} = x | upper %}`).join("")}`],
  ["texts in a list", `${long("a")}{{ [${times(60, "x | upper, ")}1] | length }}`],
  ["texts as arguments", `${long("a")}{{ namespace(${Array.from({ length: 60 }, (_, i) => `a${i}=(x | lower)`).join(", ")}) }}`],
  [
    "texts of ropes",
    `${long("a")}${Array.from({ length: 60 }, (_, i) => `{% set v${i} = x ~ ${i} %}{{ 'b' in v${i} }}`).join("")}`,
  ],
  ["lists of arguments", `${list("1")}{{ ${times(200, "namespace(*x, a=")}1${times(200, ")")} }}`],
  ["loops with a condition", `${list("1")}${times(100, "{% for i in x if true %}")}${times(100, "{% endfor %}")}`],
  ["a date of megabytes", `${long("%A")}{{ strftime_now(x) | length }}`],
  ["a message of megabytes", `${long("\u0001")}{{ raise_exception([x]) }}`],
];

/** How each template ends, or that the process died of it. */
async function ends(sources: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  while (found.length < sources.length) {
    const script = compiled("test/helpers/template-process.ts");
    const child = spawn(process.execPath, [`--max-old-space-size=${MEMORY_MB}`, script], { stdio: ["pipe", "pipe", "ignore"] });
    child.stdin.end(JSON.stringify(sources.slice(found.length)));
    const lines = (await text(child.stdout)).split("\n").slice(0, -1);
    found.push(...lines);
    if (found.length < sources.length) found.push("died of it");
  }
  return found;
}

describe("templates in little memory", async () => {
  const found = await ends(bombs.map(([, source]) => source));
  for (const [i, [name]] of bombs.entries())
    it(name, () => assert.match(found[i]!, /^(template\/(limit|failed|refused)|rendered),/));
});

/** What the package can do with a value, and how much larger than what it is given the result can be. */
const GROWTH: Record<"filters" | "functions" | "operators", Record<string, string>> = {
  filters: {
    ...each("nothing", "safe list first last length reverse unique abs int float bool default selectattr rejectattr items trim"),
    ...each("nothing that is copied", "capitalize"),
    ...each("three times", "upper lower"),
    ...each("a piece for each word", "title"),
    ...each("the separator for each part", "join"),
    ...each("the width for each line", "indent"),
    ...each("the new text for each time the old one is found", "replace"),
    ...each("six characters for one; separators and indents for each value", "tojson string"),
    ...each("the path of the attribute in pieces", "map sort"),
  },
  functions: {
    ...each("nothing", "strip lstrip rstrip length startswith endswith get capitalize"),
    ...each("a value for each entry", "items keys values dictsort"),
    ...each("three times", "upper lower"),
    ...each("a piece for each word", "title"),
    ...each("a value for each part", "split"),
    ...each("the new text for each time the old one is found", "replace"),
    ...each("a value for each character of a pair that is a text", "namespace"),
    ...each("nothing, of loops", "index index0 revindex revindex0 first last"),
  },
  operators: {
    ...each("nothing", "% * ** - / // < <= > >= and or in"),
    ...each("nothing that is kept", "== !="),
    ...each("both sides, six characters for one of values in lists", "+ ~"),
  },
};

function each(growth: string, names: string): Record<string, string> {
  return Object.fromEntries(names.split(" ").map((name) => [name, growth]));
}

it("the package has no other filter, method or operator than those that were looked at", () => {
  const source = readFileSync(fileURLToPath(import.meta.resolve("@huggingface/jinja")), "utf8");
  const part = (from: string, to: string) => source.slice(source.indexOf(`\n  ${from}(`), source.indexOf(`\n  ${to}(`));
  const names = (text: string, pattern: RegExp) => [...new Set([...text.matchAll(pattern)].map(([, name]) => name!))].sort();
  const filters = names(part("applyFilter", "evaluateFilterExpression"), /(?:case|filterName ===|filter\.value ===) "(\w+)"/g);
  const functions = names(source, /\[\s*"(\w+)",\s*(?:\/\/.*\s*)*new \w+Value/g);
  const operators = names(part("evaluateBinaryExpression", "evaluateArguments"), /(?:case|===) "(\S+?)"/g);
  const sorted = (table: object) => Object.keys(table).sort();
  assert.deepEqual(filters, sorted(GROWTH.filters));
  assert.deepEqual(functions, sorted(GROWTH.functions));
  assert.deepEqual(operators, sorted(GROWTH.operators));
});
