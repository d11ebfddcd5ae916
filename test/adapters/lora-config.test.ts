// LoraConfig against the adapter_config.json files that PEFT wrote, and the refusal of every field that is not honoured.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { formatAdapterConfig, limits, loraConfig, parseAdapterConfig } from "../../src/adapters/config.ts";
import { refusedSync } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";

const folder = `${fixtures}/lora/configs`;
const parse = (fields: object) => parseAdapterConfig(JSON.stringify({ peft_type: "LORA", ...fields }), "adapter_config.json");

test("files that PEFT wrote come out byte for byte", () => {
  const files = readdirSync(folder);
  for (const name of files) {
    const text = readFileSync(path.join(folder, name), "utf8");
    assert.equal(formatAdapterConfig(parseAdapterConfig(text, name)), text.trimEnd(), name);
  }
  assert.ok(files.length >= 6);
});

test("the fields arrive under their own names", () => {
  const config = parse({
    r: 4,
    lora_alpha: 6.5,
    lora_dropout: 0.05,
    target_modules: ["a", "b"],
    exclude_modules: "x.*",
    target_parameters: ["y.weight"],
    modules_to_save: ["c"],
    layers_to_transform: [0, 1],
    layers_pattern: "layers",
    rank_pattern: { a: 2 },
    alpha_pattern: { b: 3 },
    layer_replication: [[0, 2]],
    use_rslora: true,
    init_lora_weights: "Gaussian",
    fan_in_fan_out: true,
    task_type: "CAUSAL_LM",
    base_model_name_or_path: "org/base",
    revision: "main",
    inference_mode: true,
  });
  assert.deepEqual(config, {
    rank: 4,
    alpha: 6.5,
    dropout: 0.05,
    targetModules: ["a", "b"],
    excludeModules: "x.*",
    targetParameters: ["y.weight"],
    modulesToSave: ["c"],
    layersToTransform: [0, 1],
    layersPattern: "layers",
    rankPattern: { a: 2 },
    alphaPattern: { b: 3 },
    useRslora: true,
    initLoraWeights: "gaussian",
    evaConfig: null,
    fanInFanOut: true,
    taskType: "CAUSAL_LM",
    baseModelNameOrPath: "org/base",
    revision: "main",
    inferenceMode: true,
    autoMapping: null,
    layerReplication: [[0, 2]],
    aloraInvocationTokens: null,
    useDora: false,
    loraBias: false,
    bias: "none",
    ensureWeightTying: false,
    trainableTokenIndices: null,
  });
});

test("what is trained beside the factors arrives too, and is checked", () => {
  const rows = { embed_tokens: [7, 31], lm_head: [5] };
  const config = parse({ bias: "lora_only", trainable_token_indices: rows, ensure_weight_tying: true, lora_bias: true });
  assert.deepEqual([config.bias, config.trainableTokenIndices], ["lora_only", rows]);
  assert.deepEqual([config.ensureWeightTying, config.loraBias], [true, true]);
  assert.deepEqual(parse({ trainable_token_indices: [3] }).trainableTokenIndices, [3]);
  for (const value of [[-1], [0.5], ["a"], { embed_tokens: 1 }, 3]) {
    assert.throws(() => parse({ trainable_token_indices: value }), { code: "lora/config" }, JSON.stringify(value));
  }
  assert.throws(() => parse({ bias: "some" }), { code: "lora/config", subject: "adapter_config.json: bias" });
  assert.throws(() => parse({ use_dora: true, lora_bias: true }), { code: "lora/unsupported" }, "PEFT refuses the two as well");
});

test("files of older releases, which lack fields or hold null, get PEFT's defaults", () => {
  const config = parse({
    r: 8,
    target_modules: ["q"],
    rank_pattern: null,
    modules_to_save: null,
    enable_lora: null,
    merge_weights: false,
  });
  assert.deepEqual(config, loraConfig({ targetModules: ["q"] }));
  assert.equal(config.alpha, 8);
  assert.deepEqual(config.rankPattern, {});
});

/** A value of each limited field that is not its default. */
const beyond: Record<string, unknown> = {
  peft_type: "LOHA",
  target_parameters: ["mlp.experts.gate_up_proj"],
  layer_replication: [[0, 4]],
  alora_invocation_tokens: [1, 2],
  loftq_config: { loftq_bits: 4 },
};

test("every field that is not honoured is refused by name, with the value", () => {
  for (const name of Object.keys(limits)) {
    const value = beyond[name] ?? (limits[name]!.written === false ? true : { some: 1 });
    const error = refusedSync(() => parse({ [name]: value }), "lora/unsupported", {
      subject: `adapter_config.json: ${name}`,
      got: JSON.stringify(value),
    });
    assert.ok(error.expected && error.message.length > name.length + 40, name);
    assert.doesNotThrow(() => parse({ [name]: limits[name]!.written }), name);
  }
  assert.ok(Object.keys(limits).length > 0);
});

test("a field of a later release is refused unless it is off", () => {
  assert.doesNotThrow(() => parse({ use_newlora: false, new_config: null, new_list: [], new_dict: {}, new_name: "" }));
  for (const name of ["use_newlora", "constructor", "toString"]) {
    assert.throws(() => parse({ [name]: true }), { code: "lora/unsupported", subject: `adapter_config.json: ${name}` });
  }
  assert.throws(() => parseAdapterConfig('{"peft_type":"LORA","__proto__":{"a":1}}', "f"), { code: "lora/unsupported" });
});

test("initializations are read in PEFT's spellings, and others are refused by name", () => {
  for (const name of ["gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "eva"])
    assert.equal(parse({ init_lora_weights: name }).initLoraWeights, name);
  for (const name of ["Gaussian", "OLoRA"]) assert.equal(parse({ init_lora_weights: name }).initLoraWeights, name.toLowerCase());
  for (const name of ["PiSSA", "pissa_niter_", "loftq", "corda", "lora_ga", "mica"]) {
    assert.ok(refusedSync(() => parse({ init_lora_weights: name }), "lora/unsupported").message.includes(name));
  }
});

test("values that PEFT does not take are refused by name", () => {
  const refused: [object, string][] = [
    [{ r: 0 }, "r"],
    [{ r: 1.5 }, "r"],
    [{ r: 1e9 }, "r"],
    [{ r: "8" }, "r"],
    [{ lora_dropout: 1 }, "lora_dropout"],
    [{ lora_dropout: -0.1 }, "lora_dropout"],
    [{ target_modules: 3 }, "target_modules"],
    [{ target_modules: ["q", ""] }, "target_modules"],
    [{ target_modules: [["q"]] }, "target_modules"],
    [{ rank_pattern: { q: 0 } }, "rank_pattern.q"],
    [{ alpha_pattern: { q: "x" } }, "alpha_pattern.q"],
    [{ layers_to_transform: [0.5], target_modules: ["q"] }, "layers_to_transform"],
    [{ task_type: "TRANSLATION" }, "task_type"],
    [{ use_rslora: "yes" }, "use_rslora"],
    [{ target_modules: "q.*", layers_to_transform: [0] }, "layers_to_transform"],
    [{ target_modules: ["q"], layers_pattern: "layers" }, "layers_pattern"],
  ];
  for (const [fields, field] of refused) {
    assert.ok(
      refusedSync(() => parse(fields), "lora/config").subject!.startsWith(`adapter_config.json: ${field}`),
      JSON.stringify(fields),
    );
  }
  for (const text of ["", "[]", "null", "{", '{"r": NaN}', "{}"]) {
    assert.throws(() => parseAdapterConfig(text, "f"), { code: "lora/config" }, text);
  }
  refusedSync(() => loraConfig({ ranks: 3 } as object), "lora/config", { expected: /rank/ });
  assert.throws(() => loraConfig({ rank: 0 }), { code: "lora/config", subject: "rank" });
});

test("numbers and texts are written as Python writes them", () => {
  const line = (text: string, name: string) =>
    text
      .split("\n")
      .find((l) => l.includes(`"${name}"`))!
      .trim();
  const dropout = (value: number) => line(formatAdapterConfig(loraConfig({ dropout: value })), "lora_dropout");
  assert.equal(dropout(0), '"lora_dropout": 0.0,');
  assert.equal(dropout(0.05), '"lora_dropout": 0.05,');
  assert.equal(dropout(0.00001), '"lora_dropout": 1e-05,');
  assert.equal(dropout(1.5e-10), '"lora_dropout": 1.5e-10,');
  const text = formatAdapterConfig(loraConfig({ alpha: 16.5, baseModelNameOrPath: 'é"\u007f😀' }));
  assert.equal(line(text, "lora_alpha"), '"lora_alpha": 16.5,');
  assert.equal(line(text, "base_model_name_or_path"), '"base_model_name_or_path": "\\u00e9\\"\\u007f\\ud83d\\ude00",');
});

test("the order of pattern entries, which decides, survives a file", () => {
  const config = loraConfig({ rankPattern: { z_proj: 2, ".*proj": 4, a: 3 } });
  assert.deepEqual(Object.keys(parseAdapterConfig(formatAdapterConfig(config), "f").rankPattern), ["z_proj", ".*proj", "a"]);
});
