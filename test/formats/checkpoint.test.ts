// Checkpoint folders as they lie on a disk: single files, shards, the Hugging Face cache's links, and what is no checkpoint.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { type Checkpoint, findTensor, openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const CASES = `${fixtures}/cases`;
const SHARDED = `${CASES}/llama-bf16-sharded/base`;
const SINGLE = `${CASES}/lora-rslora/base`;

const root = temporaryFolder();

/** Every weight by name, as it was stored. */
async function allWeights(checkpoint: Checkpoint) {
  const weights = new Map<string, unknown>();
  for (const name of checkpoint.tensors.keys()) weights.set(name, await readWeights(nodeFiles, checkpoint, name));
  return weights;
}

describe("openCheckpoint", () => {
  it("opens one file", async () => {
    const checkpoint = await openCheckpoint(nodeFiles, SINGLE);
    assert.equal(checkpoint.config["model_type"], "llama");
    assert.deepEqual({ ...checkpoint.metadata }, { format: "pt" });
    assert.equal(checkpoint.tensors.size, 21);
    const entry = checkpoint.tensors.get("model.layers.1.self_attn.k_proj.weight")!;
    assert.equal(entry.file, `${SINGLE}/model.safetensors`);
    assert.deepEqual(
      { dtype: entry.dtype, shape: entry.shape, length: entry.length },
      { dtype: "float32", shape: [16, 32], length: 2048 },
    );
  });

  it("opens shards", async () => {
    const checkpoint = await openCheckpoint(nodeFiles, SHARDED);
    assert.equal(checkpoint.tensors.size, 21);
    const homes = new Set([...checkpoint.tensors.values()].map(({ file }) => path.basename(file)));
    assert.deepEqual([...homes], ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    const weight = await readWeights(nodeFiles, checkpoint, "model.layers.1.mlp.up_proj.weight");
    assert.equal(weight.dtype, "bfloat16");
    assert.deepEqual(weight.shape, [64, 32]);
    assert.ok(weight.data.some((bits) => bits !== 0));
  });

  it("follows the links of the Hugging Face cache to the blobs", async () => {
    const repo = path.join(root, "models--tiny--llama");
    const snapshot = path.join(repo, "snapshots/0123abc");
    mkdirSync(snapshot, { recursive: true });
    mkdirSync(path.join(repo, "blobs"));
    for (const [i, name] of readdirSync(SHARDED).entries()) {
      cpSync(path.join(SHARDED, name), path.join(repo, `blobs/${i}f00d`));
      symlinkSync(`../../blobs/${i}f00d`, path.join(snapshot, name));
    }
    const checkpoint = await openCheckpoint(nodeFiles, snapshot);
    for (const { file } of checkpoint.tensors.values()) assert.match(file.slice(repo.length), /^\/blobs\/\df00d$/);
    assert.deepEqual(await allWeights(checkpoint), await allWeights(await openCheckpoint(nodeFiles, SHARDED)));
  });

  it("a link to a blob that is gone names the shard", async () => {
    const folder = path.join(root, "dangling");
    cpSync(SHARDED, folder, { recursive: true });
    rmSync(path.join(folder, "model-00002-of-00002.safetensors"));
    symlinkSync("../blobs/gone", path.join(folder, "model-00002-of-00002.safetensors"));
    await assert.rejects(openCheckpoint(nodeFiles, folder), {
      code: "file/missing",
      subject: path.join(folder, "model-00002-of-00002.safetensors"),
    });
  });

  it("reads no weight", async () => {
    const contents: Record<string, Uint8Array> = {};
    for (const name of readdirSync(SHARDED)) {
      contents[`base/${name}`] = await nodeFiles.read(`${SHARDED}/${name}`, 0, await nodeFiles.size(`${SHARDED}/${name}`));
    }
    const files = memoryFiles(contents);
    const { tensors } = await openCheckpoint(files, "base");
    const weightReads = files.reads.filter(({ path }) => path.endsWith(".safetensors"));
    assert.equal(weightReads.length, 4);
    for (const { path, offset, length } of weightReads) {
      const payload = Math.min(...[...tensors.values()].filter(({ file }) => file === path).map((entry) => entry.offset));
      assert.ok(offset + length <= payload);
    }
  });

  it("takes a tensor that the index does not list; where two shards hold one, the index decides", async () => {
    const files = memoryFiles({ "base/config.json": "{}" });
    const tensor = (name: string, value: number) => ({
      name,
      dtype: "uint8" as const,
      shape: [1],
      data: () => Uint8Array.of(value),
    });
    await writeSafetensors(files, "base/1.safetensors", [tensor("a", 1), tensor("b", 2)]);
    await writeSafetensors(files, "base/2.safetensors", [tensor("a", 3), tensor("c", 4)]);
    await files.write(
      "base/model.safetensors.index.json",
      Buffer.from('{"weight_map":{"a":"2.safetensors","c":"2.safetensors","b":"1.safetensors"}}'),
    );
    const listed = await openCheckpoint(files, "base");
    assert.equal((await readWeights(files, listed, "a")).data[0], 3);
    await files.write(
      "base/model.safetensors.index.json",
      Buffer.from('{"weight_map":{"a":"2.safetensors","b":"1.safetensors"}}'),
    );
    assert.equal((await readWeights(files, await openCheckpoint(files, "base"), "c")).data[0], 4);
  });

  it("an unknown tensor is refused with the names most like it", async () => {
    const checkpoint = await openCheckpoint(nodeFiles, SINGLE);
    assert.throws(() => findTensor(checkpoint, "model.layers.0.self_attn.q_prj.weight"), {
      code: "checkpoint/no-tensor",
      next: /model\.layers\.0\.self_attn\.q_proj\.weight/,
    });
  });
});

describe("a folder that is no checkpoint", () => {
  const FOLDERS: [title: string, code: string, next: RegExp, files: Record<string, string>][] = [
    ["nothing in it", "checkpoint/no-config", /path/, {}],
    ["an adapter", "checkpoint/no-config", /base model/, { "adapter_config.json": "{}" }],
    ["a config alone", "checkpoint/no-weights", /Download/, { "config.json": "{}" }],
    ["pickled weights", "checkpoint/pytorch-weights", /save_pretrained/, { "config.json": "{}", "pytorch_model.bin": "" }],
    [
      "pickled shards",
      "checkpoint/pytorch-weights",
      /save_pretrained/,
      { "config.json": "{}", "pytorch_model-00001-of-00002.bin": "" },
    ],
    ["GGUF", "checkpoint/gguf-weights", /original/, { "config.json": "{}", "model.Q4_K_M.gguf": "" }],
    ["TensorFlow", "checkpoint/other-framework", /safetensors/, { "config.json": "{}", "tf_model.h5": "" }],
    ["an adapter with a config", "checkpoint/adapter", /base model/, { "config.json": "{}", "adapter_model.safetensors": "" }],
    ["a config that is a list", "json/not-object", /right file/, { "config.json": "[]", "model.safetensors": "" }],
    ["a config that is null", "json/not-object", /right file/, { "config.json": "null", "model.safetensors": "" }],
    ["a config that is cut short", "json/syntax", /Repair/, { "config.json": '{"a":', "model.safetensors": "" }],
  ];
  for (const [title, code, next, contents] of FOLDERS) {
    it(`${title}: ${code}`, async () => {
      const folder = mkdtempSync(path.join(root, "no-"));
      for (const [name, text] of Object.entries(contents)) writeFileSync(path.join(folder, name), text);
      await assert.rejects(openCheckpoint(nodeFiles, folder), { code, next });
    });
  }

  it("no folder at all", async () => {
    await assert.rejects(openCheckpoint(nodeFiles, `${root}/none`), { code: "file/missing", subject: `${root}/none` });
  });

  it("a config too large to be one", async () => {
    const files = memoryFiles({ "base/config.json": "{}" });
    const huge = { ...files, size: async () => 2 ** 40 };
    await assert.rejects(openCheckpoint(huge, "base"), { code: "text/too-large", subject: "base/config.json" });
    assert.equal(files.reads.length, 0);
  });
});
