// Checks that README.md shows what CI runs (the first two commands, the example of the API), and that the commands, flags, links and
// source files that the pages name exist.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { loadCommands } from "../src/cli/commands.ts";

const commands = await loadCommands();
const readme = readFileSync("README.md", "utf8");
const blocks = [...readme.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language, text]) => ({ language, text: text! }));
const shell = blocks.filter(({ language }) => language === "sh").map(({ text }) => text.trim());
const example = readFileSync("examples/train-and-generate.ts", "utf8");

assert.deepEqual(
  shell.slice(0, 2),
  ["npm ci && npx lowrank demo", "npm test"],
  "the first two commands are not those that .ci/run runs",
);
assert.ok(
  blocks.some(({ language, text }) => language === "ts" && text === example),
  "the example is not the one in examples/",
);
assert.ok(example.trim().split("\n").length < 20, "the example has 20 lines or more");

/** The commands in a page's shell blocks: each has to exist, and its flags; continued lines are one. */
function checkCommands(page: string, text: string): void {
  const all = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(([, block]) => block!.replaceAll("\\\n", " ")).join("\n");
  for (const [, command, rest] of all.matchAll(/^(?:npx )?lowrank (\S+)(.*)$/gm)) {
    assert.ok(Object.hasOwn(commands, command!), `${page}: there is no command ${command}`);
    const known = new Set(Object.keys(commands[command!]!.options));
    for (const [, flag] of rest!.matchAll(/(?<=\s)--([a-z][a-z-]*)/g)) {
      const name = flag!.replace(/^no-/, "").replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
      assert.ok(known.has(name) || common.has(name), `${page}: lowrank ${command} has no flag --${flag}`);
    }
  }
}

/** Flags of every command. */
const common = new Set(["json", "help", "config", "offline"]);

/** The anchors of a page's headings, as GitHub makes them. */
const anchorsOf = (text: string): string[] =>
  [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\w -]/g, "")
      .replaceAll(" ", "-"),
  );

/** Paths of this repository between backticks, those with a placeholder left out. */
const sourcePath = /`((?:src|test|scripts|bench|fuzz|examples|models|docs)\/[\w./-]+)`/g;

const pages = ["README.md", ...readdirSync("docs").flatMap((file) => (file.endsWith(".md") ? [`docs/${file}`] : []))];
for (const page of pages) {
  const text = readFileSync(page, "utf8");
  checkCommands(page, text);
  for (const [, name = "", anchor] of text.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)/g)) {
    const file = name === "" ? page : path.join(path.dirname(page), name);
    assert.ok(existsSync(file), `${page}: ${name} does not exist`);
    if (anchor) assert.ok(anchorsOf(readFileSync(file, "utf8")).includes(anchor), `${page}: ${name} has no heading #${anchor}`);
  }
  for (const [, file] of text.matchAll(sourcePath)) assert.ok(existsSync(file!), `${page}: ${file} does not exist`);
}
console.log("README.md shows what CI runs; the commands, flags, links and files that the docs name exist");
