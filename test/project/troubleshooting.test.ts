// docs/troubleshooting.md quotes messages as the program writes them.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { repository } from "../helpers/repository.ts";

const source = readdirSync(path.join(repository, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .map((file) => readFileSync(path.join(repository, "src", file), "utf8"))
  .join("\n");

/** The quoted parts of the first cell of each row. */
const quoted = readFileSync(path.join(repository, "docs/troubleshooting.md"), "utf8")
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("| message"))
  .map((line) => [...line.split(" | ")[0]!.matchAll(/`([^`]+)`/g)].map(([, words]) => words!));

test("every message in docs/troubleshooting.md is in the source", () => {
  assert.ok(quoted.length > 30);
  assert.deepEqual(
    quoted.flat().filter((words) => !source.includes(words)),
    [],
  );
});
