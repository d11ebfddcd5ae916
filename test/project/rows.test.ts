// Every kind of thing has one table, and a row of it one place: nothing else imports a row or names it.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { methods, unbuiltMethods } from "../../src/adapters/method-table.ts";
import { formats } from "../../src/data/readers/formats.ts";
import { modelTypes } from "../../src/models/registry.ts";
import { taskNames } from "../../src/tasks/index.ts";
import { repository } from "../helpers/repository.ts";

const src = `${repository}src`;
const files = readdirSync(src, { recursive: true, encoding: "utf8" })
  .map((file) => file.replaceAll(path.sep, "/"))
  .filter((file) => file.endsWith(".ts"));
/** A file without its comments. */
const codeOf = (file: string) => readFileSync(path.join(src, file), "utf8").replace(/^\s*(\/\/|\*|\/\*).*$/gm, "");

interface Table {
  /** The folder of the rows, and the file that lists them. */
  rows: string;
  table: string;
  /** The names of rows, as text in quotes or as part of a word. */
  names: readonly (string | RegExp)[];
  /** What in the folder is no row, and anyone may import. */
  shared?: readonly string[];
  /** Rows are files, and may build on each other; otherwise they are folders, and may not. */
  familiar?: true;
  /** Files that may name a row, with the reason. */
  also?: Readonly<Record<string, string>>;
}

const plain = methods.filter(({ isUsed }) => !isUsed);
const tables: Record<string, Table> = {
  tasks: {
    rows: "tasks",
    table: "tasks/table.ts",
    shared: ["common"],
    names: taskNames,
    also: {
      "models/heads/index.ts": "regression is a problem_type of Transformers too",
      "models/heads/head.ts": "the head of a contrastive model has the same name",
    },
  },
  methods: {
    rows: "adapters/methods",
    table: "adapters/methods/index.ts",
    familiar: true,
    names: [
      ...methods.filter((one) => !plain.includes(one)).flatMap(({ fields, title }) => [...Object.keys(fields), title]),
      ...[...methods.flatMap(({ fields }) => Object.values(fields)), ...unbuiltMethods].map(({ peftName }) => peftName),
      /\bdora\b/i,
    ],
    also: { "interop/adapters/mlx.ts": "mlx-lm's configuration names its method so, and has its tensor under a key of its own" },
  },
  families: {
    rows: "models/families",
    table: "models/families/index.ts",
    names: modelTypes,
    familiar: true,
    also: {
      "formats/gguf/architectures.ts":
        "llama.cpp's architectures have the same names, and their config.json has to name the model type",
      "formats/gguf/tokenizer.ts": "llama.cpp names kinds of vocabulary and ways to cut words after models",
      "formats/gguf/vocabulary.ts": "they are written under these names",
      "interop/models/transformers-js.ts": "transformers.js has a class for some model types",
      "interop/adapters/mlx.ts": "mlx-lm has modules under the names of some model types",
    },
  },
  formats: {
    rows: "data/readers",
    table: "data/readers/formats.ts",
    shared: ["blocks.ts"],
    familiar: true,
    names: formats.flatMap(({ endings }) => endings),
  },
  "adapter formats": {
    rows: "interop/adapters",
    table: "interop/adapters/index.ts",
    shared: ["format.ts", "say.ts"],
    familiar: true,
    names: ["mlx", "kohya", "diffusers"],
  },
  "model formats": {
    rows: "interop/models",
    table: "interop/models/index.ts",
    shared: ["format.ts"],
    familiar: true,
    names: [],
  },
};

const isNamed = (code: string, name: string | RegExp): boolean =>
  typeof name === "string" ? ['"', "'", "`"].some((quote) => code.includes(quote + name + quote)) : name.test(code);

for (const [kind, { rows, table, names, shared = [], also = {}, familiar }] of Object.entries(tables)) {
  const outside = files.filter((file) => !file.startsWith(`${rows}/`) && file !== table);

  test(`${kind}: no row is named outside ${rows}`, () => {
    const found = outside.flatMap((file) => {
      const code = codeOf(file);
      return file in also ? [] : names.filter((name) => isNamed(code, name)).map((name) => `${file} names ${name}`);
    });
    assert.deepEqual(found, []);
    for (const file of Object.keys(also))
      assert.ok(
        names.some((name) => isNamed(codeOf(file), name)),
        `${file} names none`,
      );
  });

  test(`${kind}: no row is imported but by ${table}${familiar ? " and by other rows" : ""}`, () => {
    /** The row that a file is, or is of; undefined for others. */
    const rowOf = (file: string): string | undefined => {
      const [first, ...rest] = file.startsWith(`${rows}/`) ? file.slice(rows.length + 1).split("/") : [];
      const isRow = first !== undefined && file !== table && !shared.includes(first) && (familiar || rest.length > 0);
      return isRow ? first : undefined;
    };
    const wrong = files.flatMap((file) =>
      [...codeOf(file).matchAll(/\bfrom\s+"(\.[^"]+)"/g)]
        .map(([, to]) => path.posix.normalize(path.posix.join(path.posix.dirname(file), to!)))
        .filter((to) => rowOf(to) !== undefined && file !== table && rowOf(to) !== rowOf(file) && !(familiar && rowOf(file)))
        .map((to) => `${file} imports ${to}`),
    );
    assert.deepEqual(wrong, []);
  });
}

test("nothing asks which system a config or a batch belongs to", () => {
  const asked = files.filter((file) => /"(task|feeds)" in /.test(codeOf(file)));
  assert.deepEqual(asked, []);
});
