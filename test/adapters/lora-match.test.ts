// Module matching against what PEFT 0.21.2 and Python's re did (test/fixtures/lora/peft-matching.json).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { type LoraConfig, loraConfig, parseAdapterConfig } from "../../src/adapters/config.ts";
import { type AdapterModule, matchModules, resolveConfig } from "../../src/adapters/match.ts";
import { compilePattern, matchBudget } from "../../src/adapters/regex.ts";
import { LowrankError } from "../../src/errors.ts";
import type { ModuleInfo } from "../../src/models/module.ts";
import { refusedSync } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";

interface Fixture {
  models: Record<string, { modelType: string; modules: ModuleInfo[] }>;
  cases: {
    model: string;
    config: Record<string, unknown>;
    error?: string;
    modules?: AdapterModule[];
    target_modules?: string[] | string;
    fan_in_fan_out?: boolean;
  }[];
  paths: string[];
  expressions: [string, (boolean | null)[]][];
}
const fixture: Fixture = JSON.parse(readFileSync(`${fixtures}/lora/peft-matching.json`, "utf8"));
const llama = fixture.models["llama"]!;
const linears = llama.modules.filter(({ kind }) => kind === "linear").map((module) => module.path);

const fromPeft = (fields: Record<string, unknown>): LoraConfig =>
  parseAdapterConfig(JSON.stringify({ peft_type: "LORA", ...fields }), "adapter_config.json");
const match = (fields: Parameters<typeof loraConfig>[0], modules = llama.modules, modelType = "llama") =>
  matchModules(modules, loraConfig(fields), modelType);
const paths = (modules: readonly { path: string }[]) => modules.map((module) => module.path);

/** PEFT only warns of an entry of a pattern that matches nothing. */
const isStricter = (config: Record<string, unknown>) => "attn.q_proj" in ((config["rank_pattern"] as object) ?? {});

for (const { model, config, error, modules, target_modules, fan_in_fan_out } of fixture.cases) {
  test(`${model} ${JSON.stringify(config)}`, () => {
    const { modelType, modules: all } = fixture.models[model]!;
    const run = () => matchModules(all, fromPeft(config), modelType);
    if (error || isStricter(config)) {
      assert.throws(run, LowrankError);
      return;
    }
    assert.ok(modules!.length > 0);
    const matched = run();
    assert.deepEqual(
      matched.map(({ scale, ...rest }) => ({ ...rest, scale: scale.toPrecision(12) })),
      modules!.map(({ scale, ...rest }) => ({ ...rest, scale: scale.toPrecision(12) })),
    );
    const resolved = resolveConfig(fromPeft(config), all, matched, modelType);
    const targets = resolved.targetModules;
    assert.deepEqual(Array.isArray(targets) ? [...new Set(targets)].sort() : targets, target_modules);
    assert.equal(resolved.fanInFanOut, fan_in_fan_out);
    // What is stored selects the same modules when it is read again.
    if (config["layers_to_transform"] === undefined) assert.deepEqual(matchModules(all, resolved, modelType), matched);
  });
}

test("Python's fullmatch, expression by expression", () => {
  let decided = 0;
  for (const [expression, answers] of fixture.expressions) {
    answers.forEach((answer, i) => {
      const text = fixture.paths[i]!;
      const run = () => compilePattern(expression, "targetModules", matchBudget()).fullmatch(text);
      if (answer === null || refusedHere.has(expression)) assert.throws(run, { code: "lora/regex" }, expression);
      else assert.equal(run(), answer, `${expression} on ${JSON.stringify(text)}`);
      decided += answer ? 1 : 0;
    });
  }
  assert.ok(fixture.expressions.length > 80 && decided > 100);
});

/** Valid in Python, refused here by name. */
const refusedHere = new Set(["(?P<x>a)(?P=x)", "(a)\\1", "(?>a)", "a++", "a*+", "(?(1)a|b)", "(?x) a", "\\141"]);

test("constructs that are refused are named", () => {
  for (const [expression, name] of [
    ["(a)\\1", /back-reference/],
    ["(?>a)", /atomic group/],
    ["a++", /possessive/],
    ["(?x)a", /flag "x"/],
    ["a{65}", /more than 64 times/],
    ["(".repeat(50) + ")".repeat(50), /nested more than/],
    ["a".repeat(20_000), /longer than/],
  ] as const) {
    assert.throws(() => compilePattern(expression, "targetModules", matchBudget()), { code: "lora/regex", message: name });
  }
});

test("an entry that matches nothing is named, with the closest names", () => {
  refusedSync(() => match({ targetModules: ["q_proj", "v_prj"] }), "lora/no-match", { got: "v_prj", expected: /v_proj/ });
  refusedSync(() => match({ targetModules: ["self_atn.q_proj"] }), "lora/no-match", { expected: /self_attn\.q_proj/ });
  refusedSync(() => match({ targetModules: "model\\.layer\\..*q_proj" }), "lora/no-match", {
    expected: /model\\\.layers\\\.\\d\+/,
  });
  assert.throws(() => match({ excludeModules: ["qq_proj"] }), { code: "lora/no-match", subject: "excludeModules" });
  assert.throws(() => match({ rankPattern: { o_proj: 4 } }), { code: "lora/no-match", subject: "rankPattern", got: "o_proj" });
  assert.throws(() => match({ alphaPattern: { x: 4 } }), { code: "lora/no-match", subject: "alphaPattern" });
  assert.throws(() => match({ targetModules: ["q_proj"], layersToTransform: [0, 2] }), {
    subject: "layersToTransform",
    got: "2",
  });
  assert.throws(() => match({ targetModules: [] }), { code: "lora/no-match" });
});

test("an entry that also matches a shorter entry's module counts as matched", () => {
  assert.deepEqual(
    paths(match({ targetModules: ["q_proj", "self_attn.q_proj"] })),
    linears.filter((p) => p.endsWith("q_proj")),
  );
});

test("groups of modules are refused by name; embeddings and the output layer are modules like others", () => {
  assert.throws(
    () => match({ targetModules: ["mlp"] }),
    (e: LowrankError) => e.code === "lora/not-a-layer" && /up_proj/.test(e.expected!),
  );
  const [embedding] = match({ targetModules: ["embed_tokens"] });
  assert.deepEqual([embedding!.path, embedding!.isEmbedding], ["model.embed_tokens", true]);
  assert.deepEqual(paths(match({ targetModules: ["lm_head"] })), ["lm_head"]);
  assert.throws(() => match({ targetModules: null }, llama.modules, "phi3"), { code: "lora/no-default-targets" });
  assert.throws(() => match({ targetModules: null }, llama.modules, "constructor"), { code: "lora/no-default-targets" });
});

test("all-linear leaves out a classifier head for sequence classification alone", () => {
  const { modules } = fixture.models["llama-classifier"]!;
  const all = match({ targetModules: "all-linear" }, modules);
  const classification = match({ targetModules: "all-linear", taskType: "SEQ_CLS" }, modules);
  assert.deepEqual(paths(all).at(-1), "score");
  assert.deepEqual(paths(classification), paths(all).slice(0, -1));
});

test("a layers pattern with a bare alternative is refused: PEFT reads it as something else", () => {
  assert.throws(() => match({ targetModules: ["q_proj"], layersToTransform: 0, layersPattern: "h|layers" }), {
    code: "lora/regex",
  });
  assert.equal(match({ targetModules: ["q_proj"], layersToTransform: 0, layersPattern: "(h|layers)" }).length, 1);
});

test("patterns that make a backtracking engine hang are matched or refused within the budget", slow, () => {
  const hostile = [
    "(a+)+$",
    "(a*)*b",
    "((a|a)*)*b",
    "(.*)(.*)(.*)(.*)(.*)(.*)(.*)x",
    "((((((((a*)*)*)*)*)*)*)*)*b",
    "(?=(a+)+b)a*",
    `${"(a?)".repeat(60)}{60}b`,
    "(((a{0,60}){0,60}){0,60}){0,60}b",
    "(?:(?:.*)*(?:.*)*)*\\.",
  ];
  const text = "a".repeat(512);
  let refused = 0;
  for (const expression of hostile) {
    try {
      compilePattern(expression, "targetModules", matchBudget()).fullmatch(text);
    } catch (error) {
      assert.match((error as Error).message, /too many steps/);
      refused++;
    }
  }
  assert.ok(refused < hostile.length);
  assert.throws(() => compilePattern(".*", "targetModules", matchBudget()).fullmatch("a".repeat(513)), /longer than 512/);
});

test("thousands of patterns on thousands of modules stay within the budget", () => {
  const modules = Array.from(
    { length: 2000 },
    (_, i): ModuleInfo => ({
      path: `model.layers.${i}.self_attn.q_proj`,
      kind: "linear",
      inFeatures: 1,
      outFeatures: 1,
    }),
  );
  const rankPattern = Object.fromEntries(modules.slice(0, 500).map(({ path: p }, i) => [p, i + 1]));
  const matched = match({ targetModules: ["q_proj"], rankPattern }, modules);
  assert.equal(matched[0]!.rank, 1);
  assert.equal(matched[499]!.rank, 500);
  assert.equal(matched[500]!.rank, 8);
});
