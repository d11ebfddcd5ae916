// The direction of imports: which folder may use which, what runs in a browser, and that folders form no cycles.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const src = fileURLToPath(new URL("../../src", import.meta.url));

/** Files at the top of src/ that every folder may import. */
const shared = ["errors.ts", "files.ts", "random.ts", "tensor.ts", "units.ts"];

/** What each folder may import beside itself and `shared`: folders, single files, packages. Lower layers first. */
const allowed: Record<string, string[]> = {
  formats: [],
  graph: ["onnx/emitter.ts"],
  onnx: ["graph", "@bufbuild/protobuf"],
  text: ["formats", "@huggingface/jinja", "@huggingface/tokenizers"],
  data: ["text", "images", "models/images.ts", "multimodal", "formats", "csv-parse", "hyparquet", "hyparquet-compressors"],
  lora: ["graph", "formats", "zod"],
  models: ["graph", "formats", "text", "lora/match.ts", "onnx/emitter.ts", "zod"],
  images: ["formats/json.ts", "zod"],
  multimodal: ["text", "models", "images"],
  runtime: ["node:", "text/limit.ts", "images", "onnxruntime-node", "sharp"],
  hub: ["node:", "formats", "runtime/node-files.ts", "runtime/node-limits.ts", "@huggingface/hub"],
  generate: ["text", "graph", "onnx", "lora", "models", "formats", "images", "multimodal", "runtime/session.ts"],
  predict: [
    ...["text", "graph", "onnx", "lora", "models", "formats", "images", "runtime/session.ts", "runtime/runtime.ts"],
    "generate/adapted.ts", // graphs that take adapters as inputs
  ],
  train: [
    ...[
      "data",
      "text",
      "images",
      "graph",
      "onnx",
      "lora",
      "models",
      "multimodal",
      "formats",
      "runtime/session.ts",
      "runtime/runtime.ts",
      "zod",
    ],
    ...["generate/generator.ts", "generate/prompts.ts"], // samples of the adapter in training
    "predict/measures.ts", // accuracy while a classifier trains
  ],
  jobs: [
    ...["data", "text", "images", "graph", "onnx", "lora", "models", "multimodal", "formats", "train", "generate", "predict"],
    "runtime/runtime.ts",
  ],
  report: ["lora", "train"],
};

/** The program around the library, for Node: it may import everything. */
const unrestricted = ["cli", "index.ts", "node.ts"];

/** Folders that run unchanged in a browser. */
const neutral = [
  "graph",
  "onnx",
  "models",
  "lora",
  "formats",
  "images",
  "multimodal",
  "text",
  "data",
  "train",
  "generate",
  "predict",
  "jobs",
  "report",
];

/** Cycles that are there on purpose: the edge that closes each, whether it is types only, and why. */
const acceptedCycles = [
  { from: "graph", to: "onnx", why: "an op's row in the table says how it is lowered, so it names the Emitter it is given" },
];

interface Import {
  from: string;
  to: string;
  typeOnly: boolean;
}

const files = readdirSync(src, { recursive: true, encoding: "utf8" })
  .map((file) => file.split(path.sep).join("/"))
  .filter((file) => /\.(ts|mjs)$/.test(file));

/** The text of a file below src/ without its comment lines. */
const codeOf = (file: string) => readFileSync(path.join(src, file), "utf8").replace(/^\s*(\/\/|\*|\/\*).*$/gm, "");

/** Every static, re-exporting and dynamic import of a file; of relative ones the path below src/. */
function importsOf(file: string): Import[] {
  const text = codeOf(file);
  const written = [...text.matchAll(/^(?:import|export)\s(type\s)?(?:[^;"']*?\sfrom\s+)?["']([^"']+)["']/gm)];
  const dynamic = [...text.matchAll(/\bimport\(\s*["']([^"']+)["']\s*\)/g)];
  return [
    ...written.map(([, type, to]) => ({ typeOnly: type !== undefined, to: to! })),
    ...dynamic.map(([, to]) => ({ typeOnly: false, to: to! })),
  ].map(({ typeOnly, to }) => ({
    from: file,
    to: to.startsWith(".") ? path.posix.normalize(path.posix.join(path.posix.dirname(file), to)) : to,
    typeOnly,
  }));
}

const imports = files.flatMap(importsOf);
const isFile = (name: string) => files.includes(name);
/** The folder of a file, or the file itself at the top of src/. */
const folderOf = (file: string) => file.split("/")[0]!;

test("imports are found", () => {
  assert.ok(imports.length > 200);
  const found = (from: string, to: string, typeOnly: boolean) =>
    assert.ok(
      imports.some((one) => one.from === from && one.to === to && one.typeOnly === typeOnly),
      `${from} imports ${to}`,
    );
  found("graph/ops/attention.ts", "onnx/emitter.ts", true);
  found("runtime/node-files.ts", "node:fs/promises", false);
  found("onnx/emitter.ts", "onnx/proto/onnx_pb.ts", false); // its braces span lines
});

test("every import of a file in src/ is to a file there, by its whole name", () => {
  const packages = Object.values(allowed)
    .flat()
    .filter((entry) => !entry.includes(".") && !(entry in allowed));
  const lost = imports.filter(
    ({ to }) => /\.(ts|mjs|js|json)$/.test(to) && !isFile(to) && !packages.some((name) => covers(name, to)),
  );
  assert.deepEqual(lost, []);
});

test("every folder has a row in the table", () => {
  const known = [...Object.keys(allowed), ...unrestricted, ...shared];
  assert.deepEqual(
    [...new Set(files.map(folderOf))].filter((folder) => !known.includes(folder)),
    [],
    "say in this file what the folder may import",
  );
  assert.deepEqual(
    Object.keys(allowed).filter((folder) => !files.some((file) => folderOf(file) === folder)),
    [],
    "a row without a folder",
  );
});

const covers = (entry: string, to: string) => to === entry || to.startsWith(entry.endsWith(":") ? entry : `${entry}/`);

test("imports follow the table", () => {
  const wrong = imports.filter(({ from, to }) => {
    const folder = folderOf(from);
    if (unrestricted.includes(folder)) return false;
    const rows = shared.includes(folder) ? [] : [folder, ...allowed[folder]!];
    return ![...shared, ...rows].some((entry) => covers(entry, to));
  });
  assert.deepEqual(
    wrong.map(({ from, to }) => `${from} imports ${to}`),
    [],
  );
});

test("the table allows nothing that no file uses", () => {
  const unused = Object.entries(allowed).flatMap(([folder, entries]) =>
    entries
      .filter((entry) => !imports.some(({ from, to }) => folderOf(from) === folder && covers(entry, to)))
      .map((entry) => `${folder} → ${entry}`),
  );
  assert.deepEqual(unused, []);
});

test("what runs in a browser reaches neither Node nor the engine", () => {
  const reached = new Set(files.filter((file) => neutral.includes(folderOf(file))));
  assert.ok(reached.size > 50);
  for (const file of reached) {
    for (const { to } of imports.filter(({ from }) => from === file)) {
      assert.ok(!/^(node:|onnxruntime)/.test(to), `${file} imports ${to}`);
      if (isFile(to)) reached.add(to);
    }
    assert.ok(!/\bprocess\.|\bBuffer\.|\brequire\(|\b__dirname\b/.test(codeOf(file)), `${file} uses a global of Node`);
  }
});

test("whoever opens a base to tokenize gives the time limit", () => {
  /** These never ask for the tokenizer. */
  const without = ["jobs/inspect.ts", "jobs/merge.ts"];
  const calls = files.flatMap((file) =>
    [...codeOf(file).matchAll(/\b(?:openBase|loadBase|loadBaseIn|loadTextBase|loadTokenizer)\((\w*[fF]iles, [^;]*?)\);/g)].map(
      ([, given]) => ({
        file,
        given,
      }),
    ),
  );
  assert.ok(calls.length > 4, "no call is found");
  const unlimited = calls.filter(({ file, given }) => !without.includes(file) && !given!.includes("timeLimit"));
  assert.deepEqual(unlimited, []);
});

test("folders form no cycle but the accepted ones", () => {
  const edges = new Map<string, Set<string>>();
  for (const { from, to } of imports) {
    const [a, b] = [folderOf(from), folderOf(to)];
    if (a === b || !isFile(to)) continue;
    if (acceptedCycles.some((edge) => edge.from === a && edge.to === b)) continue;
    edges.set(a, (edges.get(a) ?? new Set()).add(b));
  }
  const done = new Set<string>();
  const visit = (folder: string, trail: string[]): void => {
    assert.ok(!trail.includes(folder), `a cycle: ${[...trail, folder].join(" → ")}`);
    if (done.has(folder)) return;
    for (const next of edges.get(folder) ?? []) visit(next, [...trail, folder]);
    done.add(folder);
  };
  for (const folder of edges.keys()) visit(folder, []);
  assert.ok(done.size > 8);
});

test("the accepted cycles are closed by types alone, so that no module waits for another", () => {
  for (const { from, to, why } of acceptedCycles) {
    const closing = imports.filter((one) => folderOf(one.from) === from && folderOf(one.to) === to);
    assert.ok(closing.length > 0, `${from} → ${to} is accepted but not there (${why})`);
    assert.deepEqual(
      closing.filter(({ typeOnly }) => !typeOnly),
      [],
    );
  }
});
