// npm run check:package: what the tarball holds, and that it works where it is installed.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const MAX_PACKED_BYTES = 7_000_000;
const MAX_UNPACKED_BYTES = 10_000_000;

const root = process.cwd();
const place = mkdtempSync(path.join(tmpdir(), "lowrank-package-"));
/** npm without the CUDA libraries that onnxruntime-node's postinstall downloads otherwise. */
const npm = (cwd: string, ...args: string[]): string =>
  execFileSync("npm", args, {
    cwd,
    encoding: "utf8",
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: "skip" },
    stdio: ["ignore", "pipe", "inherit"],
    shell: process.platform === "win32",
  });

try {
  // dist/ is already built: by `npm ci`, or by the script of package.json.
  const [packed] = JSON.parse(npm(root, "pack", "--json", "--ignore-scripts", "--pack-destination", place));
  const names: string[] = packed.files.map((file: { path: string }) => file.path);
  for (const name of names)
    assert.match(
      name,
      /^(dist\/.*|models\/(embedded|demo)\/[^/]+|README\.md|LICENSE|package\.json)$/,
      `${name} does not belong there`,
    );
  for (const name of [
    "README.md",
    "LICENSE",
    "dist/index.js",
    "dist/index.d.ts",
    "dist/cli/main.js",
    "dist/core.js",
    "dist/web.js",
    "dist/platform/node/engine/api.js",
    "dist/platform/web/worker.mjs",
    "models/embedded/model.safetensors",
    "models/demo/test.jsonl",
  ]) {
    assert.ok(names.includes(name), `${name} is missing`);
  }
  assert.ok(!names.some((name) => /^(test|src)\/|fixture/.test(name)), "test files are in the package");
  assert.ok(packed.size <= MAX_PACKED_BYTES, `the tarball has ${packed.size} bytes, more than ${MAX_PACKED_BYTES}`);
  assert.ok(packed.unpackedSize <= MAX_UNPACKED_BYTES, `unpacked it has ${packed.unpackedSize} bytes`);
  console.log(`${names.length} files, ${packed.size} bytes packed, ${packed.unpackedSize} unpacked`);

  const consumer = path.join(place, "consumer");
  mkdirSync(consumer);
  writeFileSync(path.join(consumer, "package.json"), JSON.stringify({ private: true, type: "module" }));
  npm(consumer, "install", "--no-audit", "--no-fund", "--prefer-offline", path.join(place, packed.filename));
  assert.equal(npm(consumer, "exec", "--", "lowrank", "--version").trim(), packed.version);
  const fixtures = path.join(root, "test/fixtures");
  const [base, data] = [path.join(fixtures, "tiny-llama"), path.join(fixtures, "tiny-e2e/eval.jsonl")];
  const train = ["train", "--base", base, "--data", data, "--output", "adapter", "--steps", "2", "--json"];
  const lines = npm(consumer, "exec", "--", "lowrank", ...train)
    .trim()
    .split("\n");
  assert.equal(JSON.parse(lines.at(-1)!).type, "done");
  assert.ok(existsSync(path.join(consumer, "adapter/adapter_model.safetensors")), "no adapter was written");
  assert.match(readFileSync(path.join(consumer, "adapter/report.html"), "utf8"), /var uPlot=/);
  const code = "import('lowrank').then((api) => console.log(Object.keys(api).sort().join(' ')))";
  const api = execFileSync(process.execPath, ["-e", code], { cwd: consumer, encoding: "utf8" }).trim();
  assert.match(api, /finetune/);
  console.log(`installed elsewhere it trains; its API: ${api}`);
} finally {
  rmSync(place, { recursive: true, force: true });
}
