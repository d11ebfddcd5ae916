// lowrank init: what it suggests, the file it writes, and config files in YAML from anyone.
// slow
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { readConfigFile, writeConfig } from "../../src/commands/config-file.ts";
import { goals, type SuggestOptions, suggest } from "../../src/commands/init/suggest.ts";
import { LowrankError } from "../../src/errors.ts";
import { nodePlatform } from "../../src/node.ts";
import { describeOptions } from "../../src/options.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { runOptions } from "../../src/train/options.ts";
import { readOptions } from "../../src/train/run-file.ts";
import { refused } from "../helpers/assert.ts";
import { lowrank } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const data = `${fixtures}/tiny-e2e/train.jsonl`;
const root = temporaryFolder();

/** A data file of so many records. */
function records(name: string, count: number, record: (i: number) => unknown): string {
  const file = path.join(root, `${name}.jsonl`);
  writeFileSync(file, Array.from({ length: count }, (_, i) => `${JSON.stringify(record(i))}\n`).join(""));
  return file;
}
const pair = (i: number) => ({ prompt: `name[${i}]\n`, completion: "It is a place." });
const ask = (options: Partial<SuggestOptions>, available = 8e9) =>
  suggest({ base, data, goal: "structured", ...options }, { ...nodePlatform, memoryLimits: () => ({ available, total: 8e9 }) });

describe("a suggestion", () => {
  it("fits the data", async () => {
    const found = await ask({});
    const { records: count, more, kind, longest, cut, lookedAt, file } = found.data;
    assert.deepEqual([count, more, kind, longest, cut, lookedAt], [400, false, "completion", 138, 0, 400]);
    assert.deepEqual(file.used, ["prompt", "completion"]);
    const { rank, alpha, maxLength, evalSplit, epochs, batchSize, gradientAccumulation } = found.options;
    assert.deepEqual([rank, alpha, maxLength, evalSplit, epochs, batchSize, gradientAccumulation], [16, 32, 160, 0.1, 3, 16, 1]);
    assert.ok(found.memory > 1e8 && found.seconds! > 0 && found.trainableParameters === 32_768);
  });

  it("goes over few records more often, and holds none of very few out", async () => {
    const { options } = await ask({ data: records("few", 40, pair), goal: "style" });
    assert.deepEqual([options.epochs, options.evalSplit, options.rank], [2 * goals.style.epochs, undefined, goals.style.rank]);
  });

  it("cuts a record that is much longer than the others", async () => {
    const long = { prompt: "name[x]\n", completion: "It is a place. ".repeat(60) };
    const { options, data: facts } = await ask({ data: records("long", 400, (i) => (i === 7 ? long : pair(i))) });
    assert.ok(facts.longest > 200 && options.maxLength! < 100, JSON.stringify([facts, options]));
    assert.equal(facts.cut, 1);
  });

  it("takes smaller batches where memory is short, of the same number of examples a step", async () => {
    const [much, little] = [await ask({}), await ask({}, 230e6)];
    assert.ok(little.options.batchSize! < much.options.batchSize!, `${little.options.batchSize}`);
    assert.equal(little.options.batchSize! * little.options.gradientAccumulation!, 16);
    assert.ok(little.memory < much.memory);
  });

  it("holds nothing out where there are records to evaluate on", async () => {
    assert.equal((await ask({ evalData: data })).options.evalSplit, undefined);
  });

  it("fails as training would", async () => {
    await assert.rejects(ask({ data: records("wrong", 2, () => ({ question: 1 })) }), LowrankError);
    await assert.rejects(ask({ base: root }), { code: "checkpoint/no-config" });
  });
});

const read = (text: string, name = "config.yaml"): Promise<Record<string, unknown>> => {
  const file = path.join(root, name);
  writeFileSync(file, text);
  return readConfigFile(nodeFiles, file, describeOptions(runOptions));
};

describe("the file", () => {
  it("gives train the options that were chosen, and explains all others", async () => {
    const chosen = {
      base: "owner/name",
      data: "it's: a # file.csv",
      output: "1e3",
      targetModules: ["q_proj", "v_proj"],
      learningRate: 2e-4,
      evalSplit: 0.05,
      rankPattern: { q_proj: 4 },
      date: "2025-01-31",
      packing: true,
    };
    const text = writeConfig(runOptions, chosen, ["introduction"]);
    const values = await read(text);
    assert.deepEqual(values, chosen);
    const options = await readOptions(nodeFiles, values);
    assert.deepEqual([options.learningRate, options.targetModules], [2e-4, ["q_proj", "v_proj"]]);
    for (const { name } of describeOptions(runOptions)) {
      if (name !== "resume" && name !== "force") assert.match(text, new RegExp(`\\n# .+\\n#?${name}:`), name);
    }
  });

  it("can have every comment's option made active", async () => {
    const text = writeConfig(runOptions, {}, []).replace(/^#(\w+: .+)$/gm, "$1");
    assert.deepEqual((await read(text))["schedule"], "linear");
  });
});

describe("a config file in YAML", () => {
  it("says what JSON says", async () => {
    const yaml = "rank: 4\nlearning-rate: 1e-4 # a comment\ntargetModules: [q_proj]\ninit: gaussian\nrslora: true\n";
    const expected = { rank: 4, learningRate: 1e-4, targetModules: ["q_proj"], init: "gaussian", rslora: true };
    assert.deepEqual(await read(yaml), expected);
    assert.deepEqual(await read(JSON.stringify(expected), "config.json"), expected);
    assert.deepEqual(await read("# nothing\n"), {});
  });

  const bomb = `a0: &a0 [x]\n${Array.from({ length: 30 }, (_, i) => `a${i + 1}: &a${i + 1} [${Array(10).fill(`*a${i}`)}]\n`).join("")}`;
  const wrong: [string, string, string][] = [
    ["an alias bomb", bomb, "cli/config"],
    ["a key that comes twice", "rank: 1\nrank: 2\n", "cli/config"],
    ["an indent by tab", "rankPattern:\n\tq_proj: 4\n", "cli/config"],
    ["a list", "- rank\n", "cli/config"],
    ["a text", "rank\n", "cli/config"],
    ["two documents", "rank: 1\n---\nrank: 2\n", "cli/config"],
    ["depth without an end", `rankPattern: ${"[".repeat(50_000)}`, "cli/config"],
    ["more bytes than a person writes", `# ${"x".repeat(300_000)}`, "cli/config"],
    ["a value of another kind", "rank: eight\n", "cli/value"],
    ["a number that is none", "learningRate: .nan\n", "cli/value"],
    ["an option without a value", "evalData:\n", "cli/value"],
    ["an unknown key", "learnRate: 1\n", "cli/config-key"],
    ["a key that is special to JavaScript", "__proto__: {rank: 4}\n", "cli/config-key"],
    ["a tag", "rank: !!js/function 'x'\n", "cli/value"],
  ];
  for (const [what, text, code] of wrong) {
    it(`with ${what} is refused`, async () => {
      assert.ok((await refused(read(text), code)).describe().length < 3000);
      assert.equal(({} as Record<string, unknown>)["rank"], undefined);
    });
  }
});

describe("the command", () => {
  const inFolder = (...args: string[]) => lowrank(args, { cwd: root });
  const given = ["init", "--base", base, "--data", data, "--goal", "classification", "--output", "adapter"];

  it("writes a file that train takes, and replaces none", async () => {
    const first = await inFolder(...given, "--json");
    assert.equal(first.status, 0, first.stderr);
    const { type, file, options } = JSON.parse(first.stdout);
    assert.deepEqual(
      [type, file, options.rank, options.output],
      ["config", "lowrank.yaml", goals.classification.rank, "adapter"],
    );
    const trained = await inFolder("train", "--config", "lowrank.yaml", "--steps", "2", "--threads", "1");
    assert.equal(trained.status, 0, trained.stderr);
    assert.ok(existsSync(path.join(root, "adapter/adapter_model.safetensors")));
    const before = readFileSync(path.join(root, "lowrank.yaml"), "utf8");
    const again = await inFolder(...given);
    assert.deepEqual([again.status, readFileSync(path.join(root, "lowrank.yaml"), "utf8")], [2, before]);
    assert.match(again.stderr, /lowrank\.yaml: the file exists already.*--force/s);
  });

  it("without a terminal names the flags that are missing", async () => {
    const { status, stderr } = await inFolder("init", "--data", data, "--file", "other.yaml");
    assert.equal(status, 2);
    assert.match(stderr, /--base MODEL.*--goal GOAL \(chat, structured/s);
    assert.ok(!/--data FILE/.test(stderr));
  });
});
