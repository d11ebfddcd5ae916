// What `npm ci` in a clone may do: run no script of a dependency, ask no registry by name.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { repository } from "../helpers/repository.ts";

const read = (file: string) => JSON.parse(readFileSync(`${repository}${file}`, "utf8"));

interface Locked {
  resolved?: string;
  hasInstallScript?: boolean;
}

/** On Linux onnxruntime-node's script downloads CUDA libraries; without its script the package is complete for the CPU. */
test("no dependency's install script runs: for npm 10 by the lock file, for npm 11 and later by package.json", () => {
  const packages: Record<string, Locked> = read("package-lock.json").packages;
  const marked = Object.entries(packages).flatMap(([name, { hasInstallScript }]) => (hasInstallScript ? [name] : []));
  assert.deepEqual(marked, [], `remove "hasInstallScript" of these from package-lock.json`);
  assert.deepEqual(read("package.json").allowScripts, {
    esbuild: false,
    koffi: false,
    "onnxruntime-node": false,
    protobufjs: false,
  });
});

test("the lock file names no registry", () => {
  const packages: Record<string, Locked> = read("package-lock.json").packages;
  assert.deepEqual(
    Object.values(packages).flatMap(({ resolved }) => resolved ?? []),
    [],
  );
});
