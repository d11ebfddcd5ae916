// Adapters as they are found: configurations of other releases and trainers, keys of older ones, folders and files of other programs.
import assert from "node:assert/strict";
import { cp, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { attach } from "../../src/adapters/attach.ts";
import { parseAdapterConfig } from "../../src/adapters/config.ts";
import { openAdapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { convert } from "../../src/commands/convert/convert.ts";
import { inspect } from "../../src/commands/inspect/inspect.ts";
import { verifyFolder } from "../../src/commands/verify/verify.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { writeGguf } from "../../src/formats/gguf/writer.ts";
import { readHeader, readTensor, type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import { openBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { digest } from "../../src/platform/node/host.ts";
import { collect, refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const config = (fields: object) =>
  parseAdapterConfig(JSON.stringify({ peft_type: "LORA", r: 4, lora_alpha: 8, ...fields }), "file");

/** A copy of a golden's adapter, with other keys. */
async function withKeys(golden: string, folder: string, rename: (key: string) => string): Promise<string> {
  await cp(`${cases}/${golden}/adapter`, folder, { recursive: true });
  const path = `${folder}/adapter_model.safetensors`;
  const { tensors } = await readHeader(nodeFiles, path);
  const sources = [...tensors].map(async ([key, entry]): Promise<TensorSource> => {
    const { dtype, shape, data } = await readTensor(nodeFiles, path, entry);
    return { name: rename(key), dtype, shape, data: () => bytesOf(data) };
  });
  await writeSafetensors(nodeFiles, path, await Promise.all(sources), { format: "pt" });
  return folder;
}

test("null is a field that is not given, but for rank and alpha", () => {
  const names = [
    "lora_dropout",
    "bias",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "inference_mode",
    "rank_pattern",
  ];
  const nulls = Object.fromEntries(
    [...names, "init_lora_weights", "ensure_weight_tying", "revision"].map((name) => [name, null]),
  );
  assert.deepEqual(config(nulls), config({}));
  for (const name of ["r", "lora_alpha"]) assert.throws(() => config({ [name]: null }), { code: "lora/config" }, name);
});

test("fields of the first PEFT releases, of Unsloth and of ms-swift say nothing that is computed", () => {
  const alpaca = { enable_lora: null, merge_weights: false, target_modules: ["q_proj"] };
  assert.deepEqual(config(alpaca).targetModules, ["q_proj"]);
  const swift = { lora_dtype: "AUTO", lorap_emb_lr: 1e-6, lorap_lr_ratio: null, model_key_mapping: null };
  assert.deepEqual(config(swift), config({}));
  assert.throws(() => config({ of_tomorrow: { a: 1 } }), { code: "lora/unsupported" });
});

test("biases of adapted layers under the names of PEFT before 0.7 are those of now", async (t) => {
  const older = await withKeys("lora-bias-lora-only", `${temporaryFolder(t)}/older`, (key) =>
    key.replace(".base_layer.bias", ".bias"),
  );
  const base = await openBase(nodeFiles, `${cases}/lora-bias-lora-only/base`);
  const read = async (folder: string) => (await attach(base, await openAdapter(nodeFiles, folder))).adapter;
  const [then, now] = [await read(older), await read(`${cases}/lora-bias-lora-only/adapter`)];
  assert.ok(now.saved!.size > 0);
  assert.deepEqual(then.saved, now.saved);
});

test("keys that PEFT's save_pretrained does not write are named by what they are", async (t) => {
  const root = temporaryFolder(t);
  const strange: Record<string, [rename: (key: string) => string, what: RegExp]> = {
    "no prefix": [
      (key) => key.replace("base_model.model.", ""),
      /a factor under a key that does not begin with base_model\.model\./,
    ],
    parallel: [(key) => `module.${key}`, /does not begin with base_model\.model\./],
    named: [(key) => key.replace(/\.weight$/, ".default.weight"), /an adapter's name in it/],
    resized: [
      (key) => (key.includes("layers.0.self_attn.q_proj.lora_A") ? "base_model.model.lm_head.weight" : key),
      /a table that PEFT stores whole/,
    ],
  };
  for (const [name, [rename, what]] of Object.entries(strange)) {
    const folder = await withKeys("lora-qv-default", `${root}/${name}`, rename);
    await refused(readAdapter(nodeFiles, folder), "adapter/unknown-keys", { message: what });
  }
});

test("an adapter's folder without weights that can be read says what it has instead", async (t) => {
  const root = temporaryFolder(t);
  const having = async (file: string) => {
    const folder = `${root}/${file}`;
    await mkdir(folder);
    await cp(`${cases}/lora-qv-default/adapter/adapter_config.json`, `${folder}/adapter_config.json`);
    await writeFile(`${folder}/${file}`, "");
    return folder;
  };
  const said = {
    "adapters.safetensors": [/in MLX's format/, /lowrank convert .* FOLDER --base BASE/],
    "pytorch_lora_weights.safetensors": [/in diffusers' format/, /lowrank convert/],
    "adapters.npz": [/in MLX's older format/, /mlx\.core\.save_safetensors/],
    "adapter_model.bin": [/PyTorch's pickle format/, /save_pretrained/],
    "adapter_model-00001-of-00002.safetensors": [/no weights/, /Copy/],
  } as const;
  for (const [file, [message, next]] of Object.entries(said)) {
    const folder = await having(file);
    await refused(openAdapter(nodeFiles, folder), "adapter/no-weights", { message, next, got: new RegExp(file) });
    if (/npz|bin/.test(file))
      await refused(convert(nodeFiles, { input: folder, output: `${root}/out` }), "adapter/no-weights", { message });
  }
});

test("an adapter that PEFT saved under a name of its own, in a folder below, is pointed at", async (t) => {
  const folder = temporaryFolder(t);
  await cp(`${cases}/lora-qv-default/adapter`, `${folder}/style`, { recursive: true });
  const next = new RegExp(`: ${folder}/style\\.$`);
  await refused(openAdapter(nodeFiles, folder), "adapter/no-config", { next });
  await refused(inspect(nodeFiles, folder), "inspect/nothing", { next });
  for (const step of [9, 10]) await cp(`${folder}/style`, `${folder}/checkpoint-${step}`, { recursive: true });
  await refused(openAdapter(nodeFiles, folder), "adapter/no-config", { next: /checkpoint-10\.$/ });
});

test("a GGUF adapter is no model and is not damaged, and a file of tensors is verified by itself", async (t) => {
  const root = temporaryFolder(t);
  const file = `${root}/my.gguf`;
  const metadata = [
    ["general.architecture", "string", "llama"],
    ["general.type", "string", "adapter"],
  ] as const;
  const factor = { name: "blk.0.attn_q.weight.lora_a", type: "f32", shape: [1, 8], data: () => [new Float32Array(8)] } as const;
  await writeGguf(nodeFiles, file, [...metadata], [{ ...factor, shape: [1, 8] }]);
  await refused(openBase(nodeFiles, file), "gguf/adapter", { next: /lowrank convert .*my\.gguf FOLDER --base BASE/ });
  const states = async (path: string) => {
    const events = await collect(verifyFolder(path, { files: nodeFiles, digest }));
    return events.flatMap((event) => (event.type === "file" ? event.state : []));
  };
  assert.deepEqual(await states(file), ["ok"]);
  await rename(file, `${root}/whole.gguf`);
  await writeFile(file, (await readFile(`${root}/whole.gguf`)).subarray(0, -8));
  assert.deepEqual(await states(file), ["damaged"]);
  const tensors = `${root}/lora.safetensors`;
  await cp(`${cases}/lora-qv-default/adapter/adapter_model.safetensors`, tensors);
  assert.deepEqual(await states(tensors), ["ok"]);
  await refused(resolveModel(tensors), "reference/file", { next: /lowrank convert/ });
  await rm(tensors);
});
