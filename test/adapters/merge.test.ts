// Merged checkpoints against PEFT's merge_and_unload, and what a merge refuses.
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { type MergeTarget, mergedRows, mergeIntoCheckpoint } from "../../src/adapters/merge.ts";
import { type Checkpoint, openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { float32ToBfloat16, fromFloat32, toFloat32 } from "../../src/formats/float.ts";
import { readHeader, readTensor, writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { lockFolder } from "../../src/platform/node/lock.ts";
import { greatestDifference, near, refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const CASES = `${fixtures}/cases`;
const root = temporaryFolder();

/** Every tensor of a safetensors file as float32. */
async function floats(file: string): Promise<Map<string, Float32Array>> {
  const { tensors } = await readHeader(nodeFiles, file);
  const values = new Map<string, Float32Array>();
  for (const [name, entry] of tensors) values.set(name, toFloat32(await readTensor(nodeFiles, file, entry)));
  return values;
}

/** A case's adapter as merge targets. */
async function targetsOf(name: string): Promise<MergeTarget[]> {
  const config = JSON.parse(readFileSync(`${CASES}/${name}/adapter/adapter_config.json`, "utf8"));
  const tensors = await floats(`${CASES}/${name}/adapter/adapter_model.safetensors`);
  const scale = config.lora_alpha / (config.use_rslora ? Math.sqrt(config.r) : config.r);
  return [...tensors.keys()].flatMap((key) => {
    const module = /^base_model\.model\.(.*)\.lora_A\.weight$/.exec(key)?.[1];
    if (module === undefined) return [];
    const loraB = tensors.get(key.replace("lora_A", "lora_B"))!;
    return [{ weightName: `${module}.weight`, loraA: tensors.get(key)!, loraB, rank: config.r, scale }];
  });
}

const openCase = async (name: string) => ({
  checkpoint: await openCheckpoint(nodeFiles, `${CASES}/${name}/base`),
  targets: await targetsOf(name),
  expected: await floats(`${CASES}/${name}/merged/model.safetensors`),
});

describe("merging", () => {
  it("a float32 base: PEFT's weights within 1e-5", async () => {
    const { checkpoint, targets, expected } = await openCase("lora-rslora");
    assert.equal(targets.length, 8);
    const out = `${root}/rslora`;
    const seen: number[] = [];
    await mergeIntoCheckpoint(nodeFiles, {
      checkpoint,
      targets,
      outFolder: out,
      onProgress: ({ done, total }) => seen.push(done / total),
    });
    assert.deepEqual(readdirSync(out), ["config.json", "model.safetensors"]);
    const merged = await openCheckpoint(nodeFiles, out);
    assert.deepEqual([...merged.tensors.keys()].sort(), [...expected.keys()].sort());
    let changed = 0;
    for (const [name, values] of expected) {
      const ours = toFloat32(await readWeights(nodeFiles, merged, name));
      const base = toFloat32(await readWeights(nodeFiles, checkpoint, name));
      near(ours, values, 1e-5, name);
      if (greatestDifference(ours, base) > 1e-3) changed++;
      else assert.deepEqual(ours, base);
    }
    assert.equal(changed, 8);
    assert.equal(seen.length, 21);
    assert.equal(seen.at(-1), 1);
  });

  it("a bfloat16 base: PEFT's float32 weights within 1e-5, written rounded once", async () => {
    const { checkpoint, targets, expected } = await openCase("llama-bf16-sharded");
    assert.equal(targets.length, 4);
    const out = `${root}/bf16`;
    await mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder: out });
    const merged = await openCheckpoint(nodeFiles, out);
    for (const target of targets) {
      const entry = checkpoint.tensors.get(target.weightName)!;
      for await (const block of mergedRows(nodeFiles, entry, target)) {
        near(block, expected.get(target.weightName)!, 1e-5, target.weightName);
      }
    }
    let differing = 0;
    for (const [name, values] of expected) {
      const { dtype, data } = await readWeights(nodeFiles, merged, name);
      assert.equal(dtype, "bfloat16");
      differing += float32ToBfloat16(values).filter((bits, i) => bits !== data[i]).length;
    }
    assert.equal(differing, 0, "patterns that differ from PEFT's weights rounded to bfloat16");
  });

  it("keeps the other bytes, and shards under Transformers' names", async () => {
    const { checkpoint, targets } = await openCase("llama-bf16-sharded");
    const out = `${root}/sharded`;
    await mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder: out, maxShardBytes: 20_000 });
    const names = readdirSync(out);
    assert.deepEqual(names, [
      "config.json",
      "model-00001-of-00003.safetensors",
      "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors",
      "model.safetensors.index.json",
    ]);
    assert.deepEqual(readFileSync(`${out}/config.json`), readFileSync(`${checkpoint.folder}/config.json`));
    const index = JSON.parse(readFileSync(`${out}/model.safetensors.index.json`, "utf8"));
    assert.deepEqual(index.metadata, { total_parameters: 25760, total_size: 51520 });
    assert.deepEqual(Object.keys(index.weight_map), [...checkpoint.tensors.keys()].sort());
    const merged = await openCheckpoint(nodeFiles, out);
    const sizes = new Map<string, number>();
    for (const { file, length } of merged.tensors.values()) sizes.set(file, (sizes.get(file) ?? 0) + length);
    for (const size of sizes.values()) assert.ok(size <= 20_000);
    const changed = new Set(targets.map(({ weightName }) => weightName));
    let kept = 0;
    for (const name of checkpoint.tensors.keys()) {
      if (changed.has(name)) continue;
      assert.deepEqual(await readWeights(nodeFiles, merged, name), await readWeights(nodeFiles, checkpoint, name));
      kept++;
    }
    assert.equal(kept, 17);
  });

  it("a tensor beyond the shard limit has a file of its own", async () => {
    const { checkpoint, targets } = await openCase("lora-rslora");
    const out = `${root}/one-each`;
    await mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder: out, maxShardBytes: 1 });
    assert.equal(readdirSync(out).filter((name) => name.endsWith(".safetensors")).length, 21);
    assert.equal((await openCheckpoint(nodeFiles, out)).tensors.size, 21);
  });

  it("copies tokenizer, generation config and template, and nothing else", async () => {
    const { targets } = await openCase("lora-rslora");
    const base = `${root}/with-tokenizer`;
    cpSync(`${CASES}/lora-rslora/base`, base, { recursive: true });
    const wanted = [
      "added_tokens.json",
      "chat_template.jinja",
      "generation_config.json",
      "merges.txt",
      "modeling_tiny.py",
      "sentencepiece.bpe.model",
      "special_tokens_map.json",
      "spiece.model",
      "tokenizer.json",
      "tokenizer.model",
      "tokenizer_config.json",
      "vocab.json",
      "vocab.txt",
    ];
    for (const name of [...wanted, "README.md", "pytorch_model.bin", "optimizer.pt", "tokenizer.safetensors"]) {
      writeFileSync(`${base}/${name}`, `content of ${name}`);
    }
    mkdirSync(`${base}/onnx`);
    const out = `${root}/with-tokenizer-merged`;
    await mergeIntoCheckpoint(nodeFiles, { checkpoint: await openCheckpoint(nodeFiles, base), targets, outFolder: out });
    assert.deepEqual(readdirSync(out), [...wanted, "config.json", "model.safetensors"].sort());
    for (const name of wanted) assert.equal(readFileSync(`${out}/${name}`, "utf8"), `content of ${name}`);
  });

  it("float16, and weights stored as [in, out]", async () => {
    const files = memoryFiles({ "base/config.json": "{}" });
    const weight = Float32Array.of(1, 2, 3, 4, 5, 6); // [in 2, out 3]
    const data = fromFloat32(weight, "float16");
    await writeSafetensors(files, "base/model.safetensors", [
      { name: "w", dtype: "float16", shape: [2, 3], data: () => bytesOf(data) },
    ]);
    const loraA = Float32Array.of(1, 2, /**/ 0, 1); // [r 2, in 2]
    const loraB = Float32Array.of(1, 0, /**/ 0, 1, /**/ 2, 2); // [out 3, r 2]
    const target = { weightName: "w", loraA, loraB, rank: 2, scale: 0.5, fanInFanOut: true };
    await mergeIntoCheckpoint(files, { checkpoint: await openCheckpoint(files, "base"), targets: [target], outFolder: "out" });
    const merged = await readWeights(files, await openCheckpoint(files, "out"), "w");
    assert.equal(merged.dtype, "float16");
    // B·A = [[1, 2], [0, 1], [2, 6]], transposed and halved
    assert.deepEqual([...toFloat32(merged)], [1 + 0.5, 2, 3 + 1, 4 + 1, 5 + 0.5, 6 + 3]);
  });

  it("a matrix of several row blocks is what one block gives", async () => {
    const [rows, columns] = [3000, 1000]; // 12 MB in float32
    const weight = Float32Array.from({ length: rows * columns }, (_, i) => (i % 977) / 977);
    const files = memoryFiles({ "base/config.json": "{}" });
    await writeSafetensors(files, "base/model.safetensors", [
      { name: "w", dtype: "float32", shape: [rows, columns], data: () => bytesOf(weight) },
    ]);
    const checkpoint = await openCheckpoint(files, "base");
    const loraA = Float32Array.from({ length: columns }, (_, i) => i % 7);
    const loraB = Float32Array.from({ length: rows }, (_, i) => i % 5);
    let row = 0;
    let blocks = 0;
    for await (const block of mergedRows(files, checkpoint.tensors.get("w")!, {
      weightName: "w",
      loraA,
      loraB,
      rank: 1,
      scale: 2,
    })) {
      blocks++;
      for (let i = 0; i < block.length; i += 101) {
        const at = row * columns + i;
        const delta = 2 * ((Math.floor(at / columns) % 5) * ((at % columns) % 7));
        assert.equal(block[i], Math.fround(weight[at]! + delta));
      }
      row += block.length / columns;
    }
    assert.equal(row, rows);
    assert.ok(blocks > 1);
  });
});

describe("a merge refuses", () => {
  const refuses = async (
    code: string,
    change: (options: { checkpoint: Checkpoint; targets: MergeTarget[] }) => Partial<Parameters<typeof mergeIntoCheckpoint>[1]>,
  ) => {
    const { checkpoint, targets } = await openCase("llama-bf16-sharded");
    const outFolder = mkdtempSync(path.join(root, "refused-"));
    const options = { checkpoint, targets, outFolder, ...change({ checkpoint, targets }) };
    await assert.rejects(mergeIntoCheckpoint(nodeFiles, options), { code });
    assert.deepEqual(readdirSync(outFolder), []);
  };

  it("a tied weight", () => refuses("merge/tied", ({ targets }) => ({ tiedWeights: [targets[0]!.weightName] })));
  it("an unknown weight", () =>
    refuses("checkpoint/no-tensor", ({ targets }) => ({ targets: [{ ...targets[0]!, weightName: "model.layers.7.weight" }] })));
  it("two updates of one weight", () =>
    refuses("merge/duplicate-target", ({ targets }) => ({ targets: [...targets, targets[0]!] })));
  it("an update of another size", () =>
    refuses("merge/shape", ({ targets }) => ({ targets: [{ ...targets[0]!, loraB: targets[0]!.loraB.subarray(4) }] })));
  it("a weight of one dimension", () =>
    refuses("merge/shape", ({ targets }) => ({ targets: [{ ...targets[0]!, weightName: "model.norm.weight" }] })));
  it("nothing to merge", () => refuses("merge/nothing", () => ({ targets: [] })));
  it("an update that is not finite", () =>
    refuses("merge/not-finite", ({ targets }) => ({ targets: [{ ...targets[0]!, scale: Number.NaN }] })));
  it("an update beyond the largest value of the base's dtype", async () => {
    const files = memoryFiles({ "base/config.json": "{}" });
    const largest = { float16: 65504, bfloat16: 2 ** 128 - 2 ** 120, float32: 2 ** 128 - 2 ** 104 };
    for (const [dtype, value] of Object.entries(largest) as [keyof typeof largest, number][]) {
      const zero = fromFloat32(Float32Array.of(0), dtype);
      await writeSafetensors(files, "base/model.safetensors", [{ name: "w", dtype, shape: [1, 1], data: () => bytesOf(zero) }]);
      const checkpoint = await openCheckpoint(files, "base");
      const merge = (scale: number) => {
        const target = { weightName: "w", loraA: Float32Array.of(value), loraB: Float32Array.of(1), rank: 1, scale };
        return mergeIntoCheckpoint(files, { checkpoint, targets: [target], outFolder: dtype });
      };
      await assert.rejects(merge(1.01), { code: "merge/not-finite" });
      assert.deepEqual(await files.list(dtype), []);
      await merge(-1);
      assert.equal(toFloat32(await readWeights(files, await openCheckpoint(files, dtype), "w"))[0], -value);
    }
  });

  it("a quantised weight", () =>
    refuses("merge/dtype", ({ checkpoint, targets }) => {
      const name = targets[0]!.weightName;
      const tensors = new Map(checkpoint.tensors).set(name, { ...checkpoint.tensors.get(name)!, dtype: "float8_e4m3fn" });
      return { checkpoint: { ...checkpoint, tensors } };
    }));

  it("the base's own folder, under any name, and a folder that holds something", async () => {
    const base = `${root}/base-copy`;
    cpSync(`${CASES}/lora-rslora/base`, base, { recursive: true });
    const before = readFileSync(`${base}/model.safetensors`);
    const { targets } = await openCase("lora-rslora");
    const checkpoint = await openCheckpoint(nodeFiles, base);
    for (const outFolder of [base, `${base}/`, `${root}/../${path.basename(root)}/base-copy`]) {
      await assert.rejects(mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder }), { code: "merge/out-is-base" });
    }
    await assert.rejects(mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder: root }), { code: "folder/not-empty" });
    assert.deepEqual(readFileSync(`${base}/model.safetensors`), before);
    assert.deepEqual(readdirSync(base), ["config.json", "model.safetensors"]);
  });

  it("to leave a part behind when the base changes under it", async () => {
    const base = `${root}/shrinking`;
    cpSync(`${CASES}/lora-rslora/base`, base, { recursive: true });
    const { targets } = await openCase("lora-rslora");
    const checkpoint = await openCheckpoint(nodeFiles, base);
    writeFileSync(`${base}/model.safetensors`, readFileSync(`${base}/model.safetensors`).subarray(0, 50_000));
    const outFolder = `${root}/partial/merged`;
    await assert.rejects(mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder }), { code: "file/past-end" });
    assert.ok(!existsSync(outFolder));
    assert.deepEqual(readdirSync(path.dirname(outFolder)), []);
  });

  const stays = async (code: string, work: (folder: string) => Promise<void>) => {
    const folder = mkdtempSync(path.join(root, "nothing-"));
    const { next } = await refused(work(`${folder}/merged`), code);
    assert.deepEqual(readdirSync(folder), []);
    return next!;
  };

  it("a disk that is too small, before it writes, unless it is forced to", async () => {
    const { checkpoint, targets } = await openCase("lora-rslora");
    const writes: string[] = [];
    const write: typeof nodeFiles.write = (file, chunks) => {
      writes.push(file);
      return nodeFiles.write(file, chunks);
    };
    const host = { freeDisk: async () => 1000 };
    const merge = (outFolder: string, force?: boolean) =>
      mergeIntoCheckpoint({ ...nodeFiles, write }, { checkpoint, targets, outFolder, force }, host);
    assert.match(await stays("merge/disk", merge), /--force/);
    assert.deepEqual(writes, []);
    await merge(`${root}/forced`, true);
    assert.deepEqual(readdirSync(`${root}/forced`), ["config.json", "model.safetensors"]);
  });

  it("to go on when it is stopped, or to show a model without all of its files", async () => {
    const { checkpoint, targets } = await openCase("lora-rslora");
    const stop = new AbortController();
    let seen = 0;
    await stays("merge/stopped", (outFolder) => {
      const { signal } = stop;
      const onProgress = () => {
        seen++;
        stop.abort();
      };
      return mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder, signal, onProgress }, { lock: lockFolder });
    });
    assert.equal(seen, 1);
    await stays("file/missing", (outFolder) => {
      const writeBeside = async (folder: string) => {
        assert.ok(!existsSync(outFolder));
        await nodeFiles.size(`${folder}/1_Pooling`);
      };
      return mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder, writeBeside });
    });
  });
});
