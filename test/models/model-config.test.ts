// models/config.ts and rope-config.ts against what Transformers reads from the same JSON, and what they refuse.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import type { LlamaConfig } from "../../src/models/config/llama-config.ts";
import { ropeFrequencies } from "../../src/models/config/rope-config.ts";
import { near, refusedSync } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { decoderConfig } from "../helpers/tiny-decoder.ts";

interface Row {
  name: string;
  config: Record<string, unknown>;
  expected: LlamaConfig;
  inverseFrequencies: number[];
}
const rows: Row[] = JSON.parse(readFileSync(`${fixtures}/configs/model-configs.json`, "utf8"));

/** The failure of reading `change` on top of a small valid llama config. */
function failure(change: Record<string, unknown>): LowrankError {
  const base = { model_type: "llama", hidden_size: 32, num_attention_heads: 4, num_hidden_layers: 2, vocab_size: 96 };
  const error = refusedSync(() => decoderConfig({ ...base, ...change }, "base/config.json"), undefined, {
    subject: /^base\/config\.json/,
  });
  assert.ok(error.expected && error.got, error.describe());
  return error;
}

/** What a language model has on its backbone where config.json says nothing of a head. */
const lmHead = {
  ...{ head: "lm", labels: ["LABEL_0", "LABEL_1"], problemType: null, uninitializedHead: null },
  ...{ pooling: "last", maxTokens: null, prompts: {}, promptName: null },
};

test("every fixture is read as Transformers reads it", () => {
  assert.deepEqual(new Set(rows.map((row) => row.expected.modelType)), new Set(["llama", "mistral", "qwen2", "qwen3"]));
  for (const { name, config, expected } of rows) assert.deepEqual(decoderConfig(config), { ...expected, ...lmHead }, name);
});

test("inverse frequencies are Transformers' to the last bit, but for the rounding of its vectorised power", () => {
  let compared = 0;
  let different = 0;
  for (const { name, expected, inverseFrequencies } of rows) {
    const ours = ropeFrequencies(expected.rope, expected.headDim);
    assert.equal(ours.length, inverseFrequencies.length, name);
    for (const [i, theirs] of inverseFrequencies.entries()) {
      compared++;
      if (ours[i] === theirs) continue;
      different++;
      near(ours[i]!, theirs, { rtol: 2 ** -22 }, `${name}, pair ${i}`);
    }
  }
  assert.ok(compared > 1000);
  assert.ok(different <= compared / 100, `${different} of ${compared} differ`);
});

/** Made by scripts/reference/yarn.py. */
const yarn: { rope_parameters: { factor: number }; attentionFactor: number; inverseFrequencies: number[] }[] = JSON.parse(
  readFileSync(`${fixtures}/configs/yarn.json`, "utf8"),
);

test("YaRN's frequencies and its factor of attention are Transformers'", () => {
  for (const { rope_parameters, attentionFactor, inverseFrequencies } of yarn) {
    const shape = { model_type: "llama", hidden_size: 1024, num_attention_heads: 8, num_hidden_layers: 1, vocab_size: 64 };
    const config = decoderConfig({ ...shape, max_position_embeddings: 131072, rope_parameters }) as unknown as LlamaConfig;
    assert.ok(config.rope.type === "yarn" && Math.abs(config.rope.attentionFactor - attentionFactor) < 1e-12);
    near(
      ropeFrequencies(config.rope, config.headDim),
      inverseFrequencies,
      { rtol: 2 ** -21 },
      `factor ${rope_parameters.factor}`,
    );
  }
  assert.equal(yarn.length, 4);
});

test("dynamic scaling changes nothing up to the model's positions", () => {
  const read = (rope_parameters: object) =>
    decoderConfig({
      model_type: "llama",
      hidden_size: 32,
      num_attention_heads: 4,
      num_hidden_layers: 2,
      vocab_size: 96,
      rope_parameters,
    });
  const theta = { rope_theta: 5e4 };
  assert.deepEqual(read({ ...theta, rope_type: "dynamic", factor: 2 }), read({ ...theta, rope_type: "default" }));
});

test("the three rope types give different frequencies", () => {
  const theta = 10000;
  const plain = ropeFrequencies({ type: "default", theta }, 64);
  assert.equal(plain[0], 1);
  const linear = ropeFrequencies({ type: "linear", theta, factor: 2 }, 64);
  assert.deepEqual(
    [...linear],
    [...plain].map((f) => f / 2),
  );
  const bands = { factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 };
  const llama3 = ropeFrequencies({ type: "llama3", theta, ...bands }, 64);
  assert.equal(llama3[0], plain[0]);
  assert.equal(llama3[31], plain[31]! / 8);
  assert.ok([...llama3].some((f, i) => f < plain[i]! && f > plain[i]! / 8));
});

test("an unknown model type names what there is and where a new one goes", () => {
  for (const type of ["llamma", "constructor", "__proto__"]) {
    const error = failure({ model_type: type });
    assert.equal(error.code, "model/unsupported");
    assert.match(error.expected!, /\bllama, llava, mistral, .*qwen3\b/);
    assert.match(error.next!, /src\/models\//);
  }
  assert.match(failure({ model_type: "llamma" }).next!, /nearest supported one is llama\b/);
  for (const json of [null, 3, "llama", [], {}]) {
    assert.throws(
      () => decoderConfig(json),
      (error: LowrankError) => error.code === "model/config",
    );
  }
});

test("what is not built is refused by name", () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ rope_scaling: { type: "ntk", factor: 4 } }, /rope_scaling\.rope_type: the rope type "ntk"/],
    [{ rope_parameters: { rope_type: "proportional", factor: 4 } }, /rope_parameters\.rope_type: the rope type "proportional"/],
    [{ rope_scaling: { rope_type: 7 } }, /rope type 7/],
    [{ rope_parameters: { full_attention: { rope_type: "default" } } }, /full_attention/],
    [{ partial_rotary_factor: 0.4 }, /partial_rotary_factor[\s\S]*even/],
    [{ rope_parameters: { rope_type: "longrope", short_factor: [1, 2] } }, /short_factor[\s\S]*4 numbers[\s\S]*2/],
    [{ quantization_config: { quant_method: "awq", bits: 4 } }, /quantization_config[\s\S]*"awq"/],
    [{ hidden_act: "relu6" }, /hidden_act[\s\S]*silu/],
    [{ hidden_act: "toString" }, /hidden_act/],
    [{ model_type: "qwen3", layer_types: ["full_attention", "linear_attention"] }, /layer_types\.1[\s\S]*linear_attention/],
  ];
  for (const [change, pattern] of cases) {
    const error = failure({ num_key_value_heads: 4, ...change });
    assert.equal(error.code, "model/unsupported");
    assert.match(error.describe(), pattern);
  }
});

test("contradictions and values out of range name the key", () => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ num_key_value_heads: 3 }, /num_key_value_heads[\s\S]*num_attention_heads 4[\s\S]*3/],
    [{ hidden_size: 33 }, /hidden_size[\s\S]*multiple of num_attention_heads 4/],
    [{ head_dim: 9 }, /head_dim[\s\S]*even/],
    [{ pad_token_id: 96 }, /pad_token_id[\s\S]*vocab_size 96/],
    [{ hidden_size: 0 }, /hidden_size/],
    [{ hidden_size: -32 }, /hidden_size/],
    [{ hidden_size: 32.5 }, /hidden_size/],
    [{ hidden_size: "32" }, /hidden_size/],
    [{ vocab_size: 1e15 }, /vocab_size/],
    [{ vocab_size: Number.POSITIVE_INFINITY }, /vocab_size/],
    [{ num_hidden_layers: 1e9 }, /num_hidden_layers/],
    [{ num_attention_heads: 2 ** 53 }, /num_attention_heads/],
    [{ intermediate_size: null }, /intermediate_size/],
    [{ max_position_embeddings: 1e12 }, /max_position_embeddings/],
    [{ rms_norm_eps: 0 }, /rms_norm_eps/],
    [{ tie_word_embeddings: 1 }, /tie_word_embeddings/],
    [{ torch_dtype: "float8_e4m3fn" }, /torch_dtype/],
    [{ eos_token_id: [2, "3"] }, /eos_token_id/],
    [{ eos_token_id: Array(10_000).fill(2) }, /eos_token_id/],
    [{ rope_theta: 0 }, /rope_theta/],
    [{ rope_theta: "10000" }, /rope_theta/],
    [{ rope_scaling: "linear" }, /rope_scaling/],
    [{ rope_scaling: { type: "linear" } }, /rope_scaling\.factor/],
    [{ rope_scaling: { type: "linear", factor: 0 } }, /rope_scaling\.factor/],
    [{ rope_scaling: { rope_type: "llama3", factor: 8, high_freq_factor: 4 } }, /rope_scaling\.low_freq_factor/],
    [{ rope_parameters: { rope_type: "default", rope_theta: -1 } }, /rope_parameters\.rope_theta/],
    [{ model_type: "qwen2", num_key_value_heads: 4, layer_types: ["full_attention"] }, /layer_types/],
    [{ model_type: "qwen3", num_key_value_heads: 4, layer_types: Array(2).fill("sliding_attention") }, /sliding_window/],
    [{ model_type: "mistral", num_key_value_heads: 4, sliding_window: 0 }, /sliding_window/],
    [{ model_type: "qwen2" }, /num_key_value_heads[\s\S]*32/],
  ];
  for (const [change, pattern] of cases) {
    const error = failure(change);
    assert.equal(error.code, "model/config", error.describe());
    assert.match(error.describe(), pattern);
  }
  const bands = { rope_type: "llama3", factor: 8, low_freq_factor: 4, high_freq_factor: 4 };
  assert.match(failure({ rope_scaling: bands }).describe(), /high_freq_factor[\s\S]*more than low_freq_factor 4/);
});

test("a hostile value is shown cut, and __proto__ keys change nothing", () => {
  assert.ok(failure({ hidden_size: "9".repeat(1e6) }).describe().length < 500);
  const json = JSON.parse(
    '{"model_type":"llama","__proto__":{"hidden_size":8},"rope_scaling":{"__proto__":{"rope_type":"yarn"}}}',
  );
  const config = decoderConfig(json);
  assert.equal(config.hiddenSize, 4096);
  assert.equal((config as unknown as LlamaConfig).rope.type, "default");
});

test("negative token ids of old configs mean none", () => {
  const config = decoderConfig({ model_type: "llama", pad_token_id: -1, eos_token_id: -1, bos_token_id: -1 });
  assert.deepEqual([config.padId, config.eosIds, config.bosId], [null, [], null]);
});
