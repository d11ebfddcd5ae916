// The direction of imports: which folder may use which, what runs in a browser, and that folders form no cycles.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { repository } from "../helpers/repository.ts";

const src = `${repository}src`;

const architecture = readFileSync(`${repository}docs/architecture.md`, "utf8");

/** Files at the top of src/ that every folder may import. */
const shared = ["clock.ts", "errors.ts", "files.ts", "options.ts", "random.ts", "tensor.ts", "units.ts"];

/** The layers that docs/architecture.md states, top down: names of folders and of files at the top of src/; a row may have several. */
const layers = (/```layers\n([\s\S]*?)```/.exec(architecture)?.[1] ?? "")
  .trim()
  .split("\n")
  .map((line) => line.split(/ {2,}/)[0]!.trim().split(/\s+/));

/** Packages, and Node, that a folder may import. */
const packages: Record<string, string[]> = {
  onnx: ["@bufbuild/protobuf"],
  formats: ["flatbuffers"],
  text: ["@huggingface/jinja", "@huggingface/tokenizers"],
  data: ["csv-parse", "hyparquet", "hyparquet-compressors"],
  adapters: ["zod"],
  models: ["zod"],
  images: ["zod"],
  sweep: ["zod"],
  interop: ["zod"],
  train: ["zod"],
  tasks: ["zod"],
  platform: ["node:", "koffi", "onnxruntime-web", "sharp", "@bufbuild/protobuf"],
  hub: ["node:", "@huggingface/hub"],
  "options.ts": ["zod"],
};

/** The program around the library, for Node: it may import every package. */
const unrestricted = ["cli", "commands", "terminal", "core.ts", "index.ts", "node.ts", "web.ts"];

/** What runs unchanged in any JavaScript engine, with all that it reaches. */
const neutral = [
  ...[
    "graph",
    "onnx",
    "models",
    "adapters",
    "formats",
    "images",
    "multimodal",
    "text",
    "data",
    "tasks",
    "train",
    "generate",
    "predict",
    "sweep",
  ],
  ...["report", "runtime", "distributed", "core.ts"],
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
  found("graph/ops/attention.ts", "graph/emitter.ts", true);
  found("platform/node/files.ts", "node:fs/promises", false);
  found("onnx/emitter.ts", "onnx/proto/onnx_pb.ts", false); // its braces span lines
});

test("every import of a file in src/ is to a file there, by its whole name", () => {
  const allowed = Object.values(packages).flat();
  const lost = imports.filter(
    ({ to }) => /\.(ts|mjs|js|json)$/.test(to) && !isFile(to) && !allowed.some((name) => covers(name, to)),
  );
  assert.deepEqual(lost, []);
});

const covers = (entry: string, to: string) => to === entry || to.startsWith(entry.endsWith(":") ? entry : `${entry}/`);

/** The number of the layer that a file is in, from the top. */
const layerOf = (file: string) => layers.findIndex((row) => row.includes(folderOf(file)));

test("docs/architecture.md states the layer of every folder, and of no other", () => {
  const there = [...new Set(files.map(folderOf))].filter((name) => !shared.includes(name));
  assert.deepEqual(layers.flat().sort(), there.sort());
});

test("imports go down, and within a row to the right", () => {
  const wrong = imports.filter(({ from, to }) => {
    const [a, b] = [folderOf(from), folderOf(to)];
    if (a === b || !isFile(to) || shared.includes(b)) return false;
    if (shared.includes(a)) return true;
    const [above, below] = [layerOf(from), layerOf(to)];
    return above === below ? layers[above]!.indexOf(a) > layers[above]!.indexOf(b) : above > below;
  });
  assert.deepEqual(
    wrong.map(({ from, to }) => `${from} imports ${to}`),
    [],
  );
});

test("packages are imported where the table says, and every row of it is used", () => {
  const outside = imports.filter(({ to }) => !isFile(to));
  const wrong = outside.filter(
    ({ from, to }) =>
      !unrestricted.includes(folderOf(from)) && !(packages[folderOf(from)] ?? []).some((entry) => covers(entry, to)),
  );
  assert.deepEqual(
    wrong.map(({ from, to }) => `${from} imports ${to}`),
    [],
  );
  const unused = Object.entries(packages).flatMap(([folder, entries]) =>
    entries.filter((entry) => !outside.some(({ from, to }) => folderOf(from) === folder && covers(entry, to))),
  );
  assert.deepEqual(unused, []);
});

test("what runs in any engine reaches neither Node nor ONNX Runtime", () => {
  const reached = new Set(files.filter((file) => neutral.includes(folderOf(file))));
  assert.ok(reached.size > 50);
  for (const file of reached) {
    for (const { to } of imports.filter(({ from }) => from === file)) {
      assert.ok(!/^(node:|onnxruntime|sharp)/.test(to), `${file} imports ${to}`);
      if (isFile(to)) reached.add(to);
    }
    assert.ok(!/\bprocess\.|\bBuffer\.|\brequire\(|\b__dirname\b/.test(codeOf(file)), `${file} uses a global of Node`);
  }
});

test("whoever opens a base to tokenize gives the time limit", () => {
  /** These never ask for the tokenizer. */
  const without = ["commands/inspect/inspect.ts", "commands/merge/merge.ts", "commands/verify/verify.ts"];
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

test("only src/terminal writes to the terminal, where every text is made harmless", () => {
  const writes = /\bconsole\.|\bprocess\.std(out|err)\.write\b|\bprocess\.std(out|err)\b(?!\.)|\bwriteSync\(/;
  const wrong = files.filter((file) => folderOf(file) !== "terminal" && writes.test(codeOf(file)));
  assert.deepEqual(wrong, []);
});
