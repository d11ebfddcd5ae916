// Adapters and the bases they were made for: how two bases are distinguished, and that every job refuses the wrong one.
// slow
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { matchModules } from "../../src/adapters/match.ts";
import type { Adapter } from "../../src/adapters/peft-files.ts";
import type { Files } from "../../src/files.ts";
import { openCheckpoint } from "../../src/formats/checkpoint.ts";
import { evaluate, finetune, inspectAdapter, loadBase, mergeAdapter, openGenerator, saveAdapter } from "../../src/index.ts";
import { loadBase as loadBaseIn } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const data = `${fixtures}/tiny-e2e/eval.jsonl`;
const root = temporaryFolder();

const fingerprintOf = async (folder: string): Promise<string> => (await loadBase(folder)).fingerprint();

function copy(name: string): string {
  cpSync(base, path.join(root, name), { recursive: true });
  return path.join(root, name);
}

/** A copy of the base in which one value of one tensor's middle is another: the least that fine-tuning does. */
async function retrained(name: string, tensor = "model.layers.1.mlp.up_proj.weight"): Promise<string> {
  const folder = copy(name);
  const { file, offset, length } = (await openCheckpoint(nodeFiles, folder)).tensors.get(tensor)!;
  const bytes = readFileSync(file);
  bytes[offset + length / 2]! ^= 1;
  writeFileSync(file, bytes);
  return folder;
}

function withConfig(name: string, change: object): string {
  const folder = copy(name);
  const config = JSON.parse(readFileSync(`${folder}/config.json`, "utf8"));
  writeFileSync(`${folder}/config.json`, JSON.stringify({ ...config, ...change }));
  return folder;
}

async function adapterFor(folder: string, fingerprint?: string): Promise<Adapter> {
  const { modules, config } = await loadBase(folder);
  const lora = loraConfig({ targetModules: ["q_proj"], baseModelNameOrPath: "org/trained-on-this" });
  const matched = matchModules(modules, lora, config.modelType);
  return { config: lora, modules: matched, tensors: initAdapter(matched, lora, 0), baseFingerprint: fingerprint };
}

describe("a base's fingerprint", () => {
  it("is the same for a copy, and for one whose token ids and positions are corrected", async () => {
    const name = await fingerprintOf(base);
    assert.match(name, /^3:[0-9a-f]{16}$/);
    assert.equal(await fingerprintOf(copy("copied")), name);
    assert.equal(await fingerprintOf(withConfig("ids", { eos_token_id: [0, 2], max_position_embeddings: 1024 })), name);
  });

  it("differs when a weight or a setting differs", async () => {
    const folders = [base, await retrained("one"), await retrained("two", "model.norm.weight")];
    folders.push(withConfig("theta", { rope_theta: 5000 }));
    const names = await Promise.all(folders.map(fingerprintOf));
    assert.equal(new Set(names).size, 4, names.join());
  });

  it("costs one small read a tensor", async () => {
    const reads: number[] = [];
    const read: Files["read"] = (file, offset, length) => {
      reads.push(length);
      return nodeFiles.read(file, offset, length);
    };
    const opened = await loadBaseIn({ ...nodeFiles, read }, base);
    reads.length = 0;
    await Promise.all([opened.fingerprint(), opened.fingerprint()]);
    assert.equal(reads.length, opened.checkpoint.tensors.size);
    assert.ok(Math.max(...reads) <= 256);
  });
});

describe("an adapter made for another base", async () => {
  const other = await retrained("other");
  const adapter = path.join(root, "adapter");
  await saveAdapter(adapter, await adapterFor(base, await fingerprintOf(base)));
  const output = path.join(root, "output");
  const consume = async (events: AsyncIterable<unknown>) => {
    for await (const _ of events);
  };
  const jobs: [string, () => Promise<unknown>][] = [
    ["finetune", () => consume(finetune({ base: other, adapter, data, output }))],
    ["evaluate", () => evaluate({ base: other, adapter, data })],
    ["openGenerator", () => openGenerator(other, { adapter })],
    ["mergeAdapter", () => mergeAdapter({ base: other, adapter, output })],
    ["inspectAdapter", () => inspectAdapter(adapter, { base: other })],
  ];
  for (const [name, job] of jobs) {
    it(`is refused by ${name}, with both bases named`, async () => {
      const { got } = await refused(job, "adapter/other-base", { expected: /org\/trained-on-this/, next: /--any-base/ });
      assert.ok(got!.includes(other));
    });
  }

  it("is accepted where any base is allowed", async () => {
    assert.equal((await inspectAdapter(adapter, { base: other, anyBase: true })).madeForBase, false);
    await mergeAdapter({ base: other, adapter, output, anyBase: true });
    assert.ok((await openCheckpoint(nodeFiles, output)).tensors.size > 0);
  });

  it("is known when it carries the first version's fingerprint, and passes when it carries none or a later one", async () => {
    const first = "15c8add1674ebf1a"; // of tiny-llama, as lowrank wrote it before fingerprints had a version
    const madeFor = async (fingerprint: string | undefined, folder: string) => {
      const place = path.join(root, `version-${fingerprint}`);
      await saveAdapter(place, await adapterFor(base, fingerprint));
      return (await inspectAdapter(place, { base: folder, anyBase: true })).madeForBase;
    };
    assert.equal(await madeFor(first, base), true);
    assert.equal(await madeFor(first, withConfig("changed", { rope_theta: 5000 })), false);
    assert.equal(await madeFor(undefined, other), null);
    assert.equal(await madeFor("4:0123456789abcdef", other), null);
  });
});
