// What the repository holds: text, small fixtures and the embedded model, nothing large that came in by accident.
import assert from "node:assert/strict";
import { readdirSync, statSync } from "node:fs";
import { test } from "node:test";
import { repository } from "../helpers/repository.ts";

/** Folders that tools make, which git ignores. */
const MADE = new Set([".git", "node_modules", "dist", "build", "tmp", "lowrank-demo", "example-output"]);
const MOST_BYTES = 2 ** 20;
const LARGE = ["models/embedded/model.safetensors"];

const filesBelow = (folder: string): string[] =>
  readdirSync(repository + folder, { withFileTypes: true }).flatMap((entry) => {
    const path = folder + entry.name;
    if (entry.isDirectory()) return MADE.has(entry.name) ? [] : filesBelow(`${path}/`);
    return entry.isFile() ? [path] : [];
  });

test("no file is larger than a megabyte but the embedded model", () => {
  const large = filesBelow("").filter((file) => statSync(repository + file).size > MOST_BYTES);
  assert.deepEqual(large, LARGE);
});
