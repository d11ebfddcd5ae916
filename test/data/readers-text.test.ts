// data/readers/text.ts: paragraphs gathered into records, long ones cut, nothing lost.
import assert from "node:assert/strict";
import { test } from "node:test";
import { READ_BLOCK_BYTES } from "../../src/data/readers/blocks.ts";
import { TEXT_RECORD_CHARS } from "../../src/data/readers/text.ts";
import { readRecords } from "../../src/data/readers.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

async function read(content: string, name = "d.txt") {
  const found: { text: string; place: string }[] = [];
  for await (const { record, place } of readRecords(memoryFiles({ [name]: content }), name)) {
    found.push({ text: (record as { text: string }).text, place });
  }
  return found;
}
const words = (text: string) => text.split(/\s+/).filter(Boolean);

test("a short file is one record: its byte order mark, line ends and white space around it go", async () => {
  const content = "\uFEFF\r\n# Title\r\n\r\n\r\nOne  line,\r\nanother. \r\n\r\n    code\r\n\r\n";
  assert.deepEqual(await read(content, "d.md"), [{ text: "# Title\n\nOne  line,\nanother.\n\n    code", place: "line 2" }]);
  assert.deepEqual(await read('{"text":"a"}'), [{ text: '{"text":"a"}', place: "line 1" }]);
  assert.deepEqual(await read(" \n\n"), []);
});

test("whole paragraphs are gathered while they fit", async () => {
  const paragraph = (i: number) => `${i} ${"word ".repeat(120)}`.trim();
  const paragraphs = Array.from({ length: 9 }, (_, i) => paragraph(i));
  const found = await read(paragraphs.join("\n\n"));
  assert.deepEqual(
    found.map(({ text }) => text.split("\n\n").length),
    [3, 3, 3],
  );
  assert.deepEqual(
    found.map(({ place }) => place),
    ["line 1", "line 7", "line 13"],
  );
  assert.equal(found.map(({ text }) => text).join("\n\n"), paragraphs.join("\n\n"));
});

test("a long paragraph is cut behind a line, else behind a word, else between characters", async () => {
  const lines = Array.from({ length: 100 }, (_, i) => `line ${i} ${"x".repeat(90)}`);
  const byLine = await read(lines.join("\n"));
  assert.ok(byLine.length > 4 && byLine.every(({ text }) => text.length <= TEXT_RECORD_CHARS && text.startsWith("line ")));
  assert.equal(byLine.map(({ text }) => text).join("\n"), lines.join("\n"));
  for (const { text, place } of byLine) assert.equal(place, `line ${Number(text.split(" ")[1]) + 1}`);

  const oneLine = Array.from({ length: 3000 }, (_, i) => `w${i}`).join(" ");
  const byWord = await read(`${oneLine}\n\nend`);
  assert.deepEqual(words(byWord.map(({ text }) => text).join(" ")), [...words(oneLine), "end"]);

  const emoji = "👩".repeat(3001);
  const cut = await read(`x${emoji}`);
  assert.equal(cut.map(({ text }) => text).join(""), `x${emoji}`);
  assert.ok(cut.every(({ text }) => !/\p{Surrogate}/u.test(text)));
});

test("a file of several blocks loses no word, and no line break becomes a blank line", async () => {
  const line = `${"é".repeat(30)} end\n`;
  const count = Math.ceil((2.5 * READ_BLOCK_BYTES) / Buffer.byteLength(line));
  const found = await read(line.repeat(count));
  const all = found.map(({ text }) => text).join("\n");
  assert.equal(words(all).length, 2 * count);
  assert.doesNotMatch(all, /\n\n/);
});
