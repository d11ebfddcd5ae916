// Options out of range, adapters that don't fit, config files: through the API and through the command line.
import assert from "node:assert/strict";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { bytesOf } from "../../../src/formats/dtypes.ts";
import { writeSafetensors } from "../../../src/formats/safetensors.ts";
import { mergeAdapter, openGenerator } from "../../../src/index.ts";
import { nodeFiles } from "../../../src/platform/node/files.ts";
import { type Case, filesWith, goodBase, goodData, type Place } from "../../helpers/hostile.ts";

type Json = Record<string, unknown>;

const option = (change: Json) => (place: Place) => place.train(change);
const train = (place: Place, ...flags: string[]) =>
  place.lowrank("train", "--base", goodBase, "--data", goodData, "--output", place.at("output"), ...flags);
const flags =
  (...given: string[]) =>
  (place: Place) =>
    train(place, ...given);
/** A list in a list, 100,000 deep. */
const nested = (): unknown => {
  let value: unknown = [];
  for (let depth = 0; depth < 100_000; depth++) value = [value];
  return value;
};
const configFile = (text: string) => (place: Place) => train(place, "--config", place.file("run.json", text));

const q = "model.layers.0.self_attn.q_proj";
/** A good adapter of rank 2 for one layer of the base, whose files `change` damages. */
const adapter =
  (change: {
    config?: Json;
    rank?: number;
    value?: number;
    /** Of the module. */
    path?: string;
    text?: (json: string) => string;
    weights?: Uint8Array;
  }) =>
  async (place: Place): Promise<unknown> => {
    const { config = {}, rank = 2, value = 0.5, path = q, text = (json) => json, weights } = change;
    const json = { peft_type: "LORA", r: 2, lora_alpha: 4, target_modules: "model\\.layers\\.0\\.self_attn\\.q_proj", ...config };
    const folder = place.file("adapter/adapter_config.json", text(JSON.stringify(json))).replace(/\/[^/]*$/, "");
    const tensor = (name: string, shape: number[]) => ({
      name: `base_model.model.${path}.${name}.weight`,
      dtype: "float32" as const,
      shape,
      data: () => bytesOf(new Float32Array(shape[0]! * shape[1]!).fill(value)),
    });
    await writeSafetensors(
      nodeFiles,
      `${folder}/adapter_model.safetensors`,
      [tensor("lora_A", [rank, 64]), tensor("lora_B", [64, rank])],
      { format: "pt" },
    );
    if (weights) writeFileSync(`${folder}/adapter_model.safetensors`, weights);
    return place.train({ adapter: folder });
  };

/** An adapter that the base itself made, moved to a base with other weights. */
async function moved(place: Place): Promise<void> {
  await place.train();
  const base = place.base();
  const weights = readFileSync(`${base}/model.safetensors`);
  weights.fill(0x3c, weights.length - 4096);
  for (let i = weights.length - 200_000; i < weights.length; i += 2) weights[i]! ^= 1;
  writeFileSync(`${base}/model.safetensors`, weights);
  await place.train({ base, adapter: place.at("output"), output: place.at("second") });
}

/** An adapter of the base's layer whose A is [700, 2^20], nearly 3 GB, of which the disk has nothing. */
async function sparse(place: Place): Promise<void> {
  const [rows, columns] = [700, 2 ** 20];
  const [sizeOfA, sizeOfB] = [4 * rows * columns, 4 * 64 * rows];
  const entry = (shape: number[], from: number, to: number) => ({ dtype: "F32", shape, data_offsets: [from, to] });
  const header = JSON.stringify({
    [`base_model.model.${q}.lora_A.weight`]: entry([rows, columns], 0, sizeOfA),
    [`base_model.model.${q}.lora_B.weight`]: entry([64, rows], sizeOfA, sizeOfA + sizeOfB),
  });
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true);
  const file = place.file("adapter/adapter_model.safetensors", Buffer.concat([length, Buffer.from(header)]));
  truncateSync(file, 8 + header.length + sizeOfA + sizeOfB);
  const json = { peft_type: "LORA", r: rows, lora_alpha: 4, target_modules: [q] };
  const folder = place.file("adapter/adapter_config.json", JSON.stringify(json)).replace(/\/[^/]*$/, "");
  const files = filesWith("read", (read) => (path, offset, bytes) => {
    assert.ok(path !== file || bytes < 1000, "its values are read");
    return read(path, offset, bytes);
  });
  await place.train({ adapter: folder }, { files });
}

export const optionCases: Case[] = [
  { name: "a seed of 2^53", ends: "train/option", message: /seed/, work: option({ seed: 2 ** 53 }) },
  { name: "a seed that is a fraction", ends: "train/option", message: /seed/, work: option({ seed: 0.5 }) },
  { name: "a seed below zero", ends: "accepted", work: option({ seed: -1 }) },
  { name: "the largest seed", ends: "accepted", work: option({ seed: Number.MAX_SAFE_INTEGER }) },
  { name: "a seed that is a word", ends: "cli/value", message: /--seed/, work: flags("--seed", "lucky") },
  { name: "a rank of a billion", ends: "lora/config", message: /rank/, work: option({ rank: 1e9 }) },
  { name: "a rank of NaN", ends: "train/option", message: /rank/, work: option({ rank: Number.NaN }) },
  {
    name: "a rank above both sides of a layer, which is warned of",
    ends: "accepted",
    work: async (place) => {
      const events = await place.train({ rank: 300, targetModules: ["q_proj", "v_proj"] });
      const prepared = events.find((event) => event.type === "prepared");
      const warning = /rank 300 .* 64 × 64 can use: model\.layers\.0\.self_attn\.q_proj, and 3 other modules/;
      assert.match(prepared?.type === "prepared" ? prepared.warnings.join() : "", warning);
    },
  },
  {
    name: "a rank that no memory suffices for, before anything is made or read",
    ends: "train/memory",
    message: /--rank/,
    work: (place) => {
      const files = filesWith("read", (read) => (path, offset, bytes) => {
        assert.ok(path !== goodData, "the data is read");
        return read(path, offset, bytes);
      });
      return place.train({ rank: 65_536 }, { files, memoryLimits: () => ({ available: 2e9, total: 2e9 }) });
    },
  },
  { name: "a learning rate of NaN", ends: "train/option", message: /learningRate/, work: option({ learningRate: Number.NaN }) },
  { name: "a learning rate of infinity", ends: "cli/value", message: /--learning-rate/, work: flags("--learning-rate", "1e999") },
  { name: "a learning rate below zero", ends: "train/option", work: option({ learningRate: -1 }) },
  {
    name: "a learning rate that no float holds",
    ends: "train/non-finite",
    message: /learning rate 1e\+300[\s\S]*checkpoint-0/,
    work: option({ learningRate: 1e300, schedule: "constant" }),
  },
  { name: "an alpha that no float holds", ends: "lora/config", message: /alpha/, work: option({ alpha: 1e300 }) },
  {
    name: "an alpha pattern that no float holds",
    ends: "lora/config",
    message: /alphaPattern/,
    work: option({ alphaPattern: { q_proj: -1e39 } }),
  },
  { name: "the largest alpha of a float", ends: "accepted", work: option({ alpha: 3.4e38 }) },
  { name: "a million threads", ends: "train/option", message: /threads[\s\S]*1024/, work: flags("--threads", "1000000") },
  {
    name: "a million threads, by the API",
    ends: "runtime/option",
    message: /threads[\s\S]*1024/,
    work: () => openGenerator(goodBase, { threads: 1_000_000 }),
  },
  {
    name: "files of weights without a byte",
    ends: "merge/option",
    message: /maxShardBytes/,
    work: (place) =>
      place.lowrank("merge", "--base", goodBase, "--adapter", goodBase, "--output", place.at("merged"), "--max-shard-bytes", "0"),
  },
  {
    name: "files of weights of a byte, by the API",
    ends: "merge/option",
    message: /maxShardBytes[\s\S]*1000000/,
    work: (place) => mergeAdapter({ base: goodBase, adapter: goodBase, output: place.at("merged"), maxShardBytes: 1 }),
  },
  { name: "steps without end", ends: "train/option", message: /steps/, work: option({ steps: 1e300 }) },
  {
    name: "epochs without end",
    ends: "train/option",
    message: /epochs|steps/,
    work: option({ steps: undefined, epochs: 1e300 }),
  },
  { name: "no steps", ends: "train/option", work: option({ steps: 0 }) },
  { name: "a batch nested without end", ends: "train/option", message: /batchSize/, work: option({ batchSize: nested() }) },
  { name: "no rows in a batch", ends: "train/option", message: /batch/, work: option({ batchSize: 0 }) },
  { name: "a batch of a fraction", ends: "train/option", work: option({ batchSize: 1.5 }) },
  { name: "sequences longer than the model's positions", ends: "train/option", message: /512/, work: option({ maxLength: 1e9 }) },
  { name: "a dropout of 1", ends: "lora/config", message: /dropout/, work: option({ dropout: 1 }) },
  { name: "an option that there is not", ends: "train/option", message: /learningRate/, work: option({ learningrate: 1 }) },
  {
    name: "an option called __proto__",
    ends: "train/option",
    work: (place) => place.train(JSON.parse('{"__proto__":{"polluted":1}}')),
  },
  { name: "a target that is no module", ends: "lora/no-match", message: /q_proj/, work: option({ targetModules: ["q_porj"] }) },
  { name: "a target expression that never ends", ends: "lora/no-match", work: option({ targetModules: "((a+)+)+b" }) },
  {
    name: "a target expression nested without end",
    ends: "lora/regex",
    work: option({ targetModules: `${"(".repeat(5000)}a${")".repeat(5000)}` }),
  },
  {
    name: "a rank pattern with __proto__, which names no module",
    ends: "accepted",
    work: option({ rankPattern: JSON.parse('{"__proto__":4}') }),
  },
  { name: "a flag that there is not", ends: "cli/usage", message: /--rnak/, work: flags("--rnak", "4") },
  { name: "a config file that is no JSON", ends: "json/syntax", message: /run\.json/, work: configFile("rank: 4") },
  { name: "a config file that is a list", ends: "json/not-object", work: configFile("[1]") },
  { name: "a config file with __proto__", ends: "cli/config-key", work: configFile('{"__proto__":{"rank":4,"polluted":1}}') },
  { name: "a config file with a value of another kind", ends: "cli/value", message: /rank/, work: configFile('{"rank":"4"}') },
  {
    name: "a config file nested without end",
    ends: "cli/value",
    work: configFile(`{"rank":${"[".repeat(100_000)}${"]".repeat(100_000)}}`),
  },
  { name: "no such config file", ends: "file/missing", work: flags("--config", "/none/run.json") },
  { name: "a good adapter", ends: "accepted", work: adapter({}) },
  { name: "an adapter of another rank than it says", ends: "adapter/rank", work: adapter({ rank: 3 }) },
  { name: "an adapter with NaN", ends: "adapter/not-finite", work: adapter({ value: Number.NaN }) },
  { name: "an adapter with infinity", ends: "adapter/not-finite", work: adapter({ value: Number.POSITIVE_INFINITY }) },
  { name: "an adapter with an alpha that no float holds", ends: "lora/config", work: adapter({ config: { lora_alpha: 1e300 } }) },
  { name: "an adapter of a billion ranks", ends: "lora/config", work: adapter({ config: { r: 1e9 } }) },
  {
    name: "an adapter for other modules",
    ends: "adapter/not-targeted",
    work: adapter({ config: { target_modules: ["v_proj"] } }),
  },
  {
    name: "an adapter with an expression that never ends",
    ends: "lora/regex",
    work: adapter({ config: { target_modules: "((a+)+)+b" }, path: "a".repeat(500) }),
  },
  { name: "an adapter of gigabytes for a layer of 64", ends: "adapter/other-base", message: /1048576 inputs/, work: sparse },
  { name: "an adapter of another method", ends: "lora/unsupported", work: adapter({ config: { peft_type: "IA3" } }) },
  {
    name: "an adapter_config.json with __proto__",
    ends: "lora/unsupported",
    work: adapter({ text: (json) => json.replace("{", '{"__proto__":{"polluted":1},') }),
  },
  { name: "an adapter_config.json that is cut off", ends: "lora/config", work: adapter({ text: (json) => json.slice(0, -5) }) },
  { name: "an adapter without weights", ends: "safetensors/too-small", work: adapter({ weights: new Uint8Array() }) },
  { name: "an adapter made for a base with other weights", ends: "adapter/other-base", message: /any-base/, work: moved },
  {
    name: "eval of a base with an adapter that is none",
    ends: "adapter/no-config",
    work: (place) =>
      place.lowrank("eval", "--base", goodBase, "--adapter", place.file("a/x", "").replace(/\/x$/, ""), "--data", goodData),
  },
  {
    name: "generate for a model that is none",
    ends: "reference/unknown",
    work: (place) => place.lowrank("generate", "--base", "no such/model/at all", "--prompt", "a"),
  },
  { name: "inspect of a file", ends: "reference/file", work: (place) => place.lowrank("inspect", place.file("x.txt", "x")) },
  {
    name: "merge into a folder that holds something",
    ends: "folder/not-empty",
    work: async (place) => {
      await place.train();
      const output = place.file("taken/thesis.tex", "x").replace(/\/[^/]*$/, "");
      await place.lowrank("merge", "--base", goodBase, "--adapter", place.at("output"), "--output", output);
    },
  },
];
