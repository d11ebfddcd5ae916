// Checkpoints of the bare model, as GPT-2's and BLOOM's are on the hub: weights without the first word of their names.
import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { test } from "node:test";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

for (const name of ["gpt2-conv1d", "bloom-alibi"]) {
  test(`${name}: a checkpoint without "transformer." is read and merged under its own names`, async (t) => {
    const golden = `${fixtures}/cases/${name}`;
    const folder = temporaryFolder(t);
    const whole = await openCheckpoint(nodeFiles, `${golden}/base`);
    const bare = (stored: string) => stored.replace(/^transformer\./, "");
    await cp(`${golden}/base/config.json`, `${folder}/base/config.json`);
    const sources = [...whole.tensors.keys()].map(async (stored) => {
      const { dtype, shape, data } = await readWeights(nodeFiles, whole, stored);
      return { name: bare(stored), dtype, shape, data: () => new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
    });
    await writeSafetensors(nodeFiles, `${folder}/base/model.safetensors`, await Promise.all(sources), { format: "pt" });

    const { checkpoint } = await loadBase(nodeFiles, `${folder}/base`);
    assert.equal(checkpoint.aliases?.size, whole.tensors.size);
    await mergeAdapter(nodeFiles, { base: `${folder}/base`, adapter: `${golden}/adapter`, output: `${folder}/merged` });
    const merged = await openCheckpoint(nodeFiles, `${folder}/merged`);
    await cp(`${golden}/base/config.json`, `${folder}/golden/config.json`);
    await cp(`${golden}/merged/model.safetensors`, `${folder}/golden/model.safetensors`);
    const expected = await openCheckpoint(nodeFiles, `${folder}/golden`);
    assert.deepEqual([...merged.tensors.keys()].sort(), [...whole.tensors.keys()].map(bare).sort());
    for (const stored of whole.tensors.keys()) {
      const ours = (await readWeights(nodeFiles, merged, bare(stored))).data as Float32Array;
      const theirs = (await readWeights(nodeFiles, expected, stored)).data as Float32Array;
      near(ours, theirs, 1e-6, stored);
    }
  });
}
