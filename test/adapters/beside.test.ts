// saved.ts and beside.ts: what is trained beside the factors of a language model. The goldens' numbers of training are the oracle's;
// here generation has PEFT's logits, adapters are switched, and what cannot be trained is refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import { integers, readTensors } from "../../scripts/oracle/golden.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { layoutOf, lengthOfTheta } from "../../src/adapters/layout.ts";
import { matchModules, resolveConfig } from "../../src/adapters/match.ts";
import { type Adapter, readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { isCopyOfBias, type SavedTensor, savedWeights } from "../../src/adapters/saved.ts";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { openDecoder } from "../../src/generate/decoder.ts";
import { loadBase } from "../../src/models/base.ts";
import { allModulesOf, forwardGraph, modelConfig } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const names = [
  "lora-b-bias",
  "lora-bias-all",
  "lora-bias-lora-only",
  "lora-modules-group",
  "lora-modules-to-save",
  "lora-trainable-tokens",
  "lora-trainable-tokens-two",
  "lora-weight-tying",
];

/** The first row of a golden's batch without its padding, and the logits of its last token. */
async function firstRow(name: string) {
  const io = await readTensors(`${cases}/${name}/io.safetensors`);
  const width = io.get("input_ids")!.shape[1]!;
  const count = integers(io.get("attention_mask")!)
    .subarray(0, width)
    .reduce((sum, one) => sum + one, 0);
  const logits = (which: string) => {
    const tensor = io.get(`logits_${which}`)!;
    const vocab = tensor.shape[2]!;
    return toFloat32(tensor).slice((count - 1) * vocab, count * vocab);
  };
  const ones = new Int32Array(count).fill(1);
  const ids = integers(io.get("input_ids")!).slice(0, count);
  const prompt = { rows: 1, width: count, ids, attentionMask: ones, positionIds: Int32Array.from(ids.keys()) };
  return { prompt, base: logits("base"), adapter: logits("adapter") };
}

for (const name of names) {
  test(`${name}: generation has PEFT's logits with the adapter, and the base's without`, async () => {
    const base = await loadBase(nodeFiles, `${cases}/${name}/base`);
    const adapter = await readAdapter(nodeFiles, `${cases}/${name}/adapter`);
    const opened = { count: 0 };
    const openSession: OpenSession = (...given) => {
      opened.count++;
      return openNodeSession(...given);
    };
    const { prompt, ...expected } = await firstRow(name);
    const decoder = await openDecoder({ ...base, openSession });
    for (const which of ["base", "adapter", "base", "adapter", "adapter"] as const) {
      await decoder.useAdapter(which === "adapter" ? adapter : null);
      near(await decoder.start(prompt), expected[which], 3e-5, `${name} ${which}`);
      await decoder.end();
    }
    assert.ok(opened.count <= 4, `opened ${opened.count} times`);
    await decoder.close();
  });
}

test("a tied model is merged where both uses are trained, and refused where one is", async (t) => {
  const folder = await temporaryFolder(t);
  for (const name of ["lora-trainable-tokens", "lora-weight-tying"]) {
    const given = { base: `${cases}/${name}/base`, adapter: `${cases}/${name}/adapter`, output: `${folder}/${name}` };
    await mergeAdapter(nodeFiles, { ...given, certify: "weights" });
    const { prompt, adapter } = await firstRow(name);
    const decoder = await openDecoder({ ...(await loadBase(nodeFiles, given.output)), openSession: openNodeSession });
    near(await decoder.start(prompt), adapter, 3e-5, name);
    await decoder.close();
  }
  const tied = await loadBase(nodeFiles, `${cases}/lora-weight-tying/base`);
  const whole = await readAdapter(nodeFiles, `${cases}/lora-modules-to-save/adapter`);
  const { embed_tokens: embedding } = { embed_tokens: whole.saved!.get("model.embed_tokens.weight")! };
  const alone: Adapter = {
    ...whole,
    config: { ...whole.config, modulesToSave: ["embed_tokens"] },
    saved: new Map([["model.embed_tokens.weight", embedding]]),
  };
  await writeAdapter(nodeFiles, `${folder}/alone`, alone);
  const merging = {
    base: tied.checkpoint.folder,
    adapter: `${folder}/alone`,
    output: `${folder}/untied`,
    certify: "none",
  } as const;
  await assert.rejects(mergeAdapter(nodeFiles, merging), { code: "merge/tied", subject: "model.embed_tokens.weight" });
  await mergeAdapter(nodeFiles, { ...merging, untie: true });
  const { prompt } = await firstRow("lora-weight-tying");
  const logitsOf = async (base: string, adapter?: Adapter) => {
    const decoder = await openDecoder({ ...(await loadBase(nodeFiles, base)), adapter, openSession: openNodeSession });
    const logits = await decoder.start(prompt);
    await decoder.close();
    return logits;
  };
  near(await logitsOf(merging.output), await logitsOf(merging.base, alone), 3e-5, "untied");
});

test("a bias of B is merged into the layer's bias, a trained one too, and refused where there is none", async (t) => {
  const output = `${await temporaryFolder(t)}/merged`;
  const adapter = `${cases}/lora-b-bias/adapter`;
  const own = { base: `${cases}/lora-b-bias/base`, certify: "weights" } as const;
  const certificate = await mergeAdapter(nodeFiles, { ...own, adapter, output: `${output}-own` });
  assert.deepEqual(certificate!.weights.problems, []);
  const both = await readAdapter(nodeFiles, adapter);
  const config = { ...both.config, bias: "lora_only" as const };
  const saved = both.modules.map(({ path, outFeatures }, i): [string, SavedTensor] => {
    return [
      `${path}.bias`,
      { shape: [outFeatures], key: `${path}.base_layer.bias`, data: new Float32Array(outFeatures).fill(i + 1) },
    ];
  });
  await writeAdapter(nodeFiles, `${output}-both`, { ...both, config, saved: new Map(saved) });
  await mergeAdapter(nodeFiles, { ...own, adapter: `${output}-both`, output: `${output}-merged` });
  const merged = await readTensors(`${output}-merged/model.safetensors`);
  for (const [i, { path, scale }] of both.modules.entries()) {
    const expected = both.tensors.get(path)!["bias"]!.map((value) => i + 1 + scale * value);
    near(toFloat32(merged.get(`${path}.bias`)!), expected, 1e-6, path);
  }
  await assert.rejects(mergeAdapter(nodeFiles, { base: `${cases}/lora-rslora/base`, adapter, output }), {
    code: "merge/no-bias",
    subject: "model.layers.0.self_attn.q_proj",
  });
});

const llama = (keys: object) =>
  allModulesOf(
    forwardGraph(
      modelConfig({
        model_type: "llama",
        hidden_size: 16,
        intermediate_size: 24,
        num_attention_heads: 2,
        num_hidden_layers: 1,
        vocab_size: 30,
        ...keys,
      }),
    ),
  );
const untied = llama({ tie_word_embeddings: false, attention_bias: true });
const tied = llama({ tie_word_embeddings: true });

/** What PEFT 0.21.2 has in the file of such an adapter beside factors, and which of its tensors are one. */
function beside(modules: typeof tied, fields: Parameters<typeof loraConfig>[0]) {
  const config = loraConfig({ targetModules: ["q_proj", "v_proj"], rank: 2, ...fields });
  const adapted = matchModules(modules, config, "llama");
  const resolved = resolveConfig(config, modules, adapted, "llama");
  const saved = savedWeights(modules, resolved, adapted);
  assert.deepEqual(savedWeights(modules, config, adapted), saved, "as it is stored, it trains the same");
  const layout = layoutOf({ config: resolved, modules: adapted, saved }).filter((entry) => "saved" in entry);
  const keys = layout.map(({ key, copies = [] }) =>
    [key, ...copies].map((one) => one.replace("base_model.model.", "")).join(" = "),
  );
  return { keys, names: resolved.modulesToSave, parameters: lengthOfTheta(layout) };
}

test("what PEFT trains beside the factors of a language model, under its keys", () => {
  const embedding = "model.embed_tokens.weight";
  const norms = ["model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"];
  assert.deepEqual(beside(untied, { modulesToSave: ["norm"] }).keys, norms, "every path that ends in the letters");
  assert.deepEqual(beside(tied, { modulesToSave: ["lm_head"] }), {
    keys: ["lm_head.weight"],
    names: ["lm_head"],
    parameters: 480,
  });
  assert.deepEqual(beside(tied, { modulesToSave: ["embed_tokens", "lm_head"] }).keys.sort(), ["lm_head.weight", embedding]);
  const one = { keys: [`${embedding} = lm_head.weight`], parameters: 480 };
  const tying = { ensureWeightTying: true };
  assert.deepEqual(beside(tied, { modulesToSave: ["lm_head"], ...tying }), { ...one, names: ["model.embed_tokens"] });
  assert.deepEqual(beside(tied, { modulesToSave: ["embed_tokens", "lm_head"], ...tying }), {
    ...one,
    names: ["embed_tokens", "model.embed_tokens"],
  });
  assert.deepEqual(beside(untied, { modulesToSave: ["embed_tokens"], ...tying }).keys, [embedding], "nothing is tied");

  const end = "token_adapter.trainable_tokens_delta";
  const rows = (...paths: string[]) => paths.map((path) => `${path}.${end}`);
  assert.deepEqual(beside(untied, { trainableTokenIndices: [1, 2] }), {
    keys: rows("model.embed_tokens"),
    names: null,
    parameters: 32,
  });
  const both = (a: number[], b: number[]) => ({ trainableTokenIndices: { embed_tokens: a, lm_head: b } });
  assert.deepEqual(beside(tied, both([1, 2], [1, 2])).keys, rows("model.embed_tokens"));
  assert.deepEqual(beside(tied, both([1, 2], [1, 3])).keys, rows("model.embed_tokens", "lm_head"));
  assert.deepEqual(beside(tied, { trainableTokenIndices: { lm_head: [1, 3] } }).keys, rows("lm_head"));
  assert.deepEqual(beside(untied, { trainableTokenIndices: [1], modulesToSave: ["lm_head"] }).keys, [
    "lm_head.weight",
    ...rows("model.embed_tokens"),
  ]);

  const bias = (...ends: string[]) => ends.map((one) => `model.layers.0.self_attn.${one}.bias`);
  assert.deepEqual(beside(untied, { bias: "lora_only" }).keys.sort(), bias("q_proj.base_layer", "v_proj.base_layer"));
  const all = bias("k_proj", "o_proj", "q_proj.base_layer", "v_proj.base_layer");
  assert.deepEqual(beside(untied, { bias: "all", useDora: true }).keys.sort(), all);
  const withoutO = beside(untied, { bias: "all", modulesToSave: ["o_proj"] }).keys.sort();
  assert.deepEqual(withoutO, [...all, "model.layers.0.self_attn.o_proj.weight"].sort(), "one of the module itself");
  assert.deepEqual(beside(tied, { bias: "all" }).keys, []);
  const group = beside(untied, { bias: "all", modulesToSave: ["self_attn"], targetModules: ["up_proj"] }).keys.sort();
  const attention = ["k_proj", "o_proj", "q_proj", "v_proj"].flatMap((name) => [`${name}.bias`, `${name}.weight`]);
  assert.deepEqual(
    group,
    attention.map((name) => `model.layers.0.self_attn.${name}`),
    "one of each layer in the group",
  );
});

test("the copies of biases that PEFT writes of what is saved are no weights of their own", () => {
  const mlp = "model.layers.0.mlp";
  const ends = [
    "lm_head.original_module.bias",
    `${mlp}.original_module.up_proj.bias`,
    `${mlp}.modules_to_save.default.up_proj.bias`,
  ];
  for (const key of ends) assert.ok(isCopyOfBias(key, { bias: "all" }), key);
  assert.ok(!isCopyOfBias(`${mlp}.up_proj.bias`, { bias: "all" }));
});

test("biases of norms are among all of them", () => {
  const gpt2 = allModulesOf(forwardGraph(modelConfig({ model_type: "gpt2", n_embd: 16, n_head: 2, n_layer: 1, vocab_size: 30 })));
  const config = loraConfig({ bias: "all", targetModules: ["c_attn"] });
  const names = savedWeights(gpt2, config, matchModules(gpt2, config, "gpt2")).map(({ name }) =>
    name.replace("transformer.", ""),
  );
  const block = ["attn.c_attn", "attn.c_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj"].map((name) => `h.0.${name}.bias`);
  assert.deepEqual(names.sort(), [...block, "ln_f.bias"].sort());
});

test("what PEFT refuses, or merges wrongly, is refused by name", () => {
  const refused = (modules: typeof tied, fields: Parameters<typeof loraConfig>[0], code: string) =>
    assert.throws(() => beside(modules, fields), { code }, JSON.stringify(fields));
  const targets = (name: string) => ({ targetModules: ["q_proj", name] });
  refused(tied, { ...targets("embed_tokens"), ensureWeightTying: true }, "lora/unsupported");
  refused(tied, { ...targets("embed_tokens"), trainableTokenIndices: [1] }, "lora/unsupported");
  refused(untied, { ...targets("lm_head"), trainableTokenIndices: { lm_head: [1] } }, "lora/unsupported");
  refused(untied, { modulesToSave: ["embed_tokens"], trainableTokenIndices: [1] }, "lora/unsupported");
  refused(untied, { trainableTokenIndices: { k_proj: [1] } }, "lora/unsupported");
  refused(untied, { trainableTokenIndices: { norm: [1] } }, "lora/unsupported");
  refused(untied, { trainableTokenIndices: { wte: [1] } }, "lora/no-match");
  for (const rows of [[], [30], [1, 1]]) refused(untied, { trainableTokenIndices: rows }, "lora/config");
  const different = { trainableTokenIndices: { embed_tokens: [1], lm_head: [2] }, ensureWeightTying: true };
  refused(tied, different, "lora/config");
  refused(untied, { ...targets("embed_tokens"), loraBias: true }, "lora/unsupported");
});
