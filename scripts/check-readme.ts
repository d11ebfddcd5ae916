// Checks that README.md shows what CI runs: the two first commands, and the example of the API as it stands in examples/.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { commands } from "../src/cli/flags.ts";

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
for (const [, command] of shell.join("\n").matchAll(/^npx lowrank (\S+)/gm)) {
  assert.ok(Object.hasOwn(commands, command!), `there is no command ${command}`);
}
for (const [, file] of readme.matchAll(/\]\((?!https?:)([^)#]+)/g)) assert.ok(existsSync(file!), `${file} does not exist`);
console.log("README.md shows what CI runs");
