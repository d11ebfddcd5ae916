// lowrank extract: what was merged comes out again, a full fine-tune as far as its rank goes.
// slow
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { matrixRows } from "../../src/adapters/vectors.ts";
import { certify, extractAdapter, inspectAdapter, inspectBase, loadAdapter, mergeAdapter } from "../../src/index.ts";
import { refused } from "../helpers/assert.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { withoutHead } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const root = temporaryFolder();
const of = (name: string) => ({ base: `${cases}/${name}/base`, adapter: `${cases}/${name}/adapter` });

/** s·B·A of each module, row by row. */
async function updates(folder: string): Promise<Map<string, number[]>> {
  const { modules, tensors } = await loadAdapter(folder);
  return new Map(
    modules.map(({ path, rank, scale, inFeatures, outFeatures }) => {
      const { loraA, loraB } = tensors.get(path)!;
      const rows = matrixRows(loraA, rank);
      const update = Array.from({ length: outFeatures }, (_, i) =>
        Array.from({ length: inFeatures }, (_, j) =>
          rows.reduce((sum, row, k) => sum + scale * loraB[i * rank + k]! * row[j]!, 0),
        ),
      );
      return [path, update.flat()];
    }),
  );
}

for (const name of ["llama-gqa-tied", "gpt2-conv1d", "lora-rslora"]) {
  test(`${name}: a merged adapter is extracted again, to rounding`, async () => {
    const [tuned, output] = [`${root}/tuned ${name}`, `${root}/extracted ${name}`];
    await mergeAdapter({ ...of(name), output: tuned, certify: "none" });
    const { modules, left } = await extractAdapter({ base: of(name).base, tuned, output, rank: 8 });
    const [was, is] = [await updates(of(name).adapter), await updates(output)];
    assert.deepEqual([...is.keys()].sort(), [...was.keys()].sort());
    for (const [path, update] of was) {
      const largest = Math.max(...update.map(Math.abs));
      assert.ok(
        update.every((value, i) => Math.abs(value - is.get(path)![i]!) < 1e-5 * largest + 2e-7),
        path,
      );
    }
    assert.deepEqual(left, []);
    assert.ok(modules.every(({ energy, change }) => energy > 0.999999 && change > 0));
    const { passed } = await certify({ base: of(name).base, adapter: output, merged: tuned });
    assert.ok(passed);
  });
}

for (const name of ["bert-seqcls", "bert-tokencls", "vit-imgcls"]) {
  test(`${name}: the adapter of a classifier has the tuned model's head, and is loaded, merged and inspected`, async () => {
    const [tuned, output, merged] = ["tuned", "extracted", "merged"].map((what) => `${root}/${what} ${name}`);
    const { base, adapter } = of(name);
    await mergeAdapter({ base, adapter, output: tuned!, certify: "none" });
    const { left } = await extractAdapter({ base, tuned: tuned!, output: output!, rank: 8 });
    assert.deepEqual(left, []);
    const [was, is] = [await loadAdapter(adapter), await loadAdapter(output!)];
    assert.deepEqual([is.saved, is.config.modulesToSave], [was.saved, was.config.modulesToSave]);
    assert.deepEqual(is.labels, (await inspectBase(base)).config.labels);
    assert.equal((await inspectAdapter(output!, { base })).madeForBase, true);
    await mergeAdapter({ base, adapter: output!, output: merged!, certify: "none" });
    const { passed } = await certify({ base, adapter: output!, merged: tuned! });
    assert.ok(passed);
  });
}

test("a base without a classifier gets the tuned model's", async () => {
  const [base, output] = [`${root}/bare`, `${root}/extracted bare`];
  cpSync(of("bert-seqcls").base, base, { recursive: true });
  await withoutHead(base);
  writeFileSync(`${base}/config.json`, readFileSync(`${of("bert-embedding").base}/config.json`));
  await extractAdapter({ base, tuned: `${root}/tuned bert-seqcls`, output, rank: 8, task: "sequence-classification" });
  assert.equal((await inspectAdapter(output, { base })).madeForBase, true);
  assert.deepEqual((await loadAdapter(output)).labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
});

test("the adapter of a sentence embedding pools as the tuned model does", async () => {
  const { base, adapter } = of("bert-embedding");
  const [tuned, output] = [`${root}/tuned bert-embedding`, `${root}/extracted bert-embedding`];
  await mergeAdapter({ base, adapter, output: tuned, certify: "none" });
  const modules = ["Transformer", "Pooling"].map((kind, idx) => ({
    ...{ idx, name: String(idx), path: idx === 0 ? "" : "1_Pooling" },
    type: `sentence_transformers.models.${kind}`,
  }));
  mkdirSync(`${tuned}/1_Pooling`, { recursive: true });
  writeFileSync(`${tuned}/modules.json`, JSON.stringify(modules));
  writeFileSync(`${tuned}/1_Pooling/config.json`, JSON.stringify({ pooling_mode: "cls" }));
  await extractAdapter({ base, tuned, output, rank: 8, task: "sentence-embedding" });
  assert.equal((await loadAdapter(output)).head?.pooling, "cls");
});

test("a lower rank is taken where it keeps enough, and what is lost is said", async () => {
  const tuned = `${root}/tuned llama-gqa-tied`;
  const { base } = of("llama-gqa-tied");
  const half = await extractAdapter({ base, tuned, output: `${root}/half`, rank: 8, energy: 0.6 });
  assert.ok(half.modules.every(({ energy }) => energy >= 0.6) && half.modules.some(({ energy }) => energy < 0.99));
  const ranks = new Set((await loadAdapter(`${root}/half`)).modules.map(({ rank }) => rank));
  assert.ok([...ranks].every((rank) => rank < 8));
  const args = ["--base", base, "--tuned", tuned, "--rank", "1", "--target-modules", "q_proj"];
  const { stdout, stderr, status } = await printed("extract", ...args, "--output", `${root}/one`);
  assert.equal(status, 0, stderr);
  assert.match(
    stdout,
    /^module +rank +change +energy kept\n.*\nextracted into .*: 2 modules, \d+\.\d % of a module's change on average\n$/s,
  );
  assert.match(stderr, /not in the adapter, though they differ: model\.layers\.0\.self_attn\.k_proj\.weight .* more\n$/);
  const [done] = jsonLines((await printed("extract", ...args, "--output", `${root}/json`, "--json")).stdout);
  assert.equal((done!["left"] as unknown[]).length, 12);
});

test("models that are the same, or of different shapes, give nothing", async () => {
  const { base } = of("llama-gqa-tied");
  await refused(extractAdapter({ base, tuned: base, output: `${root}/none` }), "extract/same");
  await refused(extractAdapter({ base, tuned: of("lora-rslora").base, output: `${root}/none` }), "extract/shape");
  assert.ok(!readdirSync(root).includes("none"));
});
