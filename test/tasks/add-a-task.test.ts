// docs/add-a-task.md, taken at its word: its steps for a task that is not built, in a copy of the sources.
// slow
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, test } from "node:test";
import { taskNames } from "../../src/tasks/index.ts";
import { fixtures, repository } from "../helpers/repository.ts";
import { long } from "../helpers/slow.ts";
import { sourceCopy } from "../helpers/source-copy.ts";
import { type Colour, jsonl, picture, taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const fixture = `${fixtures}/add-a-task`;
const NAME = "image-regression";
const page = readFileSync(path.join(repository, "docs/add-a-task.md"), "utf8");

const copy = sourceCopy("add-a-task", ["scripts/oracle", "scripts/cli-docs.ts", "docs/cli.md"]);
after(copy.remove);
const { at, changed, lowrank } = copy;

const taskFile = `src/tasks/${NAME}/index.ts`;
const tableFile = "src/tasks/table.ts";
const oracleFile = "scripts/oracle/case-task.ts";
const caseFolder = "test/fixtures/cases/vit-regression";

/** The tiny ViT, which has a head of five classes, and pictures with a number for each colour. */
const folder = temporaryFolder();
const base = await taskBase(folder, "vit");
const numbers: Record<Colour, number> = { red: 1, green: 2.5, blue: -0.5 };
const pictures = Object.keys(numbers).flatMap((colour) => [0, 1, 2, 3].map((i) => [colour as Colour, i] as const));
const records = await Promise.all(
  pictures.map(async ([colour, i]) => ({ image: await picture(folder, colour, i), label: numbers[colour] })),
);
const data = await jsonl(folder, "train.jsonl", records);
const run = `${folder}/run`;
const training = ["--base", base, "--data", data, "--task", NAME, "--output", run, "--threads", "1"];
const learning = ["--epochs", "20", "--batch-size", "6", "--learning-rate", "5e-3"];

/** What a command prints with --json, a value a line. */
async function printed(...args: string[]) {
  const { code, text } = await lowrank(...args, "--json");
  assert.equal(code, 0, text);
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/** The blocks of code of the page in this language, without indentation. */
const blocks = (language: string): string[] =>
  [...page.matchAll(new RegExp(`^ *\`\`\`${language}\n([\\s\\S]*?)^ *\`\`\``, "gm"))].map(([, block]) => block!);
/** The line of the page that has this in it, and is code. */
const lineWith = (text: string): string => {
  const found = blocks("ts")
    .flatMap((block) => block.split("\n"))
    .filter((line) => line.includes(text));
  assert.equal(found.length, 1, text);
  return found[0]!.slice(3); // the indentation of a step
};

/** Puts a line into a file of the copy, in front of the one that is found. */
function insert(file: string, line: string, before: RegExp): void {
  const text = readFileSync(at(file), "utf8");
  assert.match(text, before);
  writeFileSync(
    at(file),
    text.replace(before, (found) => `${line}\n${found}`),
  );
}

/** The lines that a file of the copy has more than the working tree's; fails if it lacks one. */
function added(file: string): string[] {
  const [before, now] = [path.join(repository, file), at(file)].map((one) => readFileSync(one, "utf8").split("\n"));
  const more: string[] = [];
  let place = 0;
  for (const line of now!) {
    if (line === before![place]) place++;
    else more.push(line);
  }
  assert.equal(place, before!.length, `${file} has lost a line`);
  return more;
}

test("the page has the steps that this test follows", () => {
  const steps = [...page.matchAll(/^\d\. \*\*(.+?)\*\*/gm)].map(([, step]) => step);
  const taken = [
    "Read",
    "The records",
    "The head",
    "The loss",
    "The measures",
    "The preview",
    "Prediction",
    "The line",
    "The proof",
  ];
  assert.deepEqual(steps, taken);
  assert.ok(!(taskNames as string[]).includes(NAME), "the task is built: take another one for this test");
  assert.ok(page.includes(`one line in \`${tableFile}\``));
  assert.deepEqual(changed(), []);
});

test("the page explains every member of a row, and names what is there", () => {
  const type = /^export interface Task<[\s\S]*?^}/m.exec(readFileSync(path.join(repository, "src/tasks/task.ts"), "utf8"))![0];
  const members = [...type.matchAll(/^ {2}(\w+)[?]?[:(]/gm)].map(([, name]) => name!);
  assert.ok(members.length > 15 && members.includes("prepare"));
  assert.deepEqual(
    members.filter((name) => !new RegExp(`\`${name}[\`:]`).test(page)),
    [],
  );
  const inTasks = [...page.matchAll(/`([a-z-]+\/(?:[\w-]+\.ts)?)`/g)].map(([, name]) => `src/tasks/${name}`);
  const named = [...page.matchAll(/`((?:src|scripts|test|docs)\/[\w./-]+)`/g)].map(([, name]) => name!);
  assert.deepEqual(
    [...inTasks, ...named].filter((name) => !existsSync(path.join(repository, name))),
    [],
  );
  const shared = readdirSync(path.join(repository, "src/tasks/common")).map((name) => `src/tasks/common/${name}`);
  const sources = [
    ...shared,
    "src/tasks/task.ts",
    "src/data/types.ts",
    "src/data/records.ts",
    "src/models/registry.ts",
    "src/adapters/config.ts",
    oracleFile,
  ];
  const words = new Set(sources.flatMap((name) => readFileSync(path.join(repository, name), "utf8").match(/\w+/g) ?? []));
  const functions = [...page.matchAll(/`([a-z]+[A-Z]\w+)(?:\(\w+\))?`/g)].map(([, name]) => name!);
  assert.ok(functions.includes("recordPreview"));
  assert.deepEqual(
    functions.filter((name) => !words.has(name)),
    [],
  );
});

test("until the task is there, --task refuses its name", async () => {
  await copy.compile();
  const { code, text } = await lowrank("train", ...training);
  assert.equal(code, 2, text);
  assert.match(text, /--task: .*\n +expected: one of causal-lm, .*\n +found: +image-regression\n/);
});

test("The records to Prediction: one file, made of the shared pieces", () => {
  // Beside the fixture the sources are further away; types are checked in both places.
  const text = readFileSync(`${fixture}/${NAME}/index.ts`, "utf8");
  const moved = text.replaceAll("../../../../src/tasks/", "../").replaceAll("../../../../src/", "../../");
  const imported = [...moved.matchAll(/from "(.+)"/g)].map(([, name]) => name!);
  assert.ok(
    imported.every((name) => /^\.\.\/(common\/.*|task)\.ts$/.test(name)),
    "no row imports another",
  );
  assert.ok(moved.split("\n").length < 60);
  mkdirSync(path.dirname(at(taskFile)));
  writeFileSync(at(taskFile), moved);
  assert.deepEqual(changed(), [taskFile]);
});

test("The line", () => {
  const line = lineWith(`as "${NAME}"`);
  insert(tableFile, line, /^export \{ multiLabelClassification /m);
  assert.deepEqual(added(tableFile), [line]);
});

test("The proof: golden case, the command line's page", async () => {
  cpSync(`${fixture}/case`, at(caseFolder), { recursive: true });
  const line = lineWith(`"${NAME}": labelled`);
  insert(oracleFile, line, /^ {2}preference: preferred,/m);
  assert.deepEqual(added(oracleFile), [line]);
  await copy.compile();
  const [oracle, docs] = await Promise.all([copy.run("scripts/oracle/main.ts", caseFolder), copy.run("scripts/cli-docs.ts")]);
  assert.match(oracle.text, /\n1 passed, 0 failed, 0 skipped\n$/);
  assert.equal(docs.code, 0, docs.text);
  assert.match(readFileSync(at("docs/cli.md"), "utf8"), /`--task NAME`.*, image-regression[,)]/);
});

test("The proof: types", long, async () => assert.deepEqual(await copy.types(), { code: 0, text: "" }));

test("it learns: train, then eval, preview, plan, classify and inspect", async () => {
  const trained = await lowrank("train", ...training, ...learning, "--eval-split", "0.25");
  assert.equal(trained.code, 0, trained.text);
  const losses = [...trained.text.matchAll(/evaluation loss ([\d.]+)/g)].map(([, loss]) => Number(loss));
  assert.ok(losses.at(-1)! < losses[0]! / 4, `loss ${losses[0]} → ${losses.at(-1)}`);
  const config = JSON.parse(readFileSync(`${run}/adapter_config.json`, "utf8"));
  assert.deepEqual([config.task_type, config.modules_to_save], [null, ["classifier"]]);

  const images = records.slice(0, 5).map(({ image }) => `${folder}/${image}`);
  const classify = ["classify", "--base", base, "--adapter", run, ...images];
  const [scores, shown, planned, found, inspected] = await Promise.all([
    printed("eval", "--base", base, "--data", data, "--adapter", run, "--threads", "1"),
    printed("preview", "--base", base, "--data", data, "--task", NAME),
    printed("plan", `${base}/config.json`, "--task", NAME),
    printed(...classify),
    printed("inspect", run, "--base", base),
  ]);
  const { task, base: alone, adapter } = scores[0];
  assert.deepEqual([task, alone, adapter.count], [NAME, null, records.length], "the adapter says its task");
  assert.ok(adapter.rmse < 0.7 && adapter.pearson > 0.8, JSON.stringify(adapter));
  const counted = shown.at(-1);
  assert.deepEqual([shown[0].label, counted.train.records, counted.train.images, counted.warnings], ["1", 12, 12, []]);
  assert.deepEqual([planned[0].modules, inspected[0].modules.length], [12, 12]);
  for (const [i, { value, scores: classes }] of found.entries()) {
    assert.deepEqual(classes, []);
    assert.ok(Math.abs(value - records[i]!.label) < 1, `${value} for ${records[i]!.label}`);
  }

  const merged = await lowrank("merge", "--base", base, "--adapter", run, "--output", `${folder}/merged`);
  assert.equal(merged.code, 0, merged.text);
  const again = await printed("classify", "--base", `${folder}/merged`, ...images);
  for (const [i, { value }] of again.entries()) {
    assert.ok(Math.abs(value - found[i].value) < 1e-2, "config.json of the merged model says problem_type");
  }
});

test("no other file had to change", () => {
  const places = changed().filter((name) => !name.startsWith(`${caseFolder}/`));
  assert.deepEqual(places.sort(), ["docs/cli.md", oracleFile, taskFile, tableFile].sort());
});
