// Merged models and their certificates: PEFT's merges and ours pass, wrong ones are caught; unmerging gives the base back.
// slow
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { attach } from "../../src/adapters/attach.ts";
import { openAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { type Certificate, certify, mergeAdapter, unmergeAdapter } from "../../src/index.ts";
import { openBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { near, refused } from "../helpers/assert.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const root = temporaryFolder();
const of = (name: string) => ({ base: `${cases}/${name}/base`, adapter: `${cases}/${name}/adapter` });
const failures = ({ bounds }: Certificate) => bounds.filter(({ holds }) => !holds).map(({ what }) => what);

/** What PEFT merged, as a model's folder. */
function mergedByPeft(name: string): string {
  const folder = `${root}/peft ${name}`;
  cpSync(`${cases}/${name}/merged`, folder, { recursive: true });
  cpSync(`${cases}/${name}/base/config.json`, `${folder}/config.json`);
  return folder;
}

for (const name of ["llama-gqa-tied", "lora-dora", "gpt2-conv1d", "llama-bf16-sharded", "lora-rslora", "bert-seqcls"]) {
  test(`${name}: PEFT's merge and ours pass`, async () => {
    const output = `${root}/ours ${name}`;
    const own = (await mergeAdapter({ ...of(name), output }))!;
    assert.deepEqual(failures(own), []);
    assert.ok(own.passed && own.weights.merged.length > 0);
    assert.ok(own.weights.merged.every(({ arrived, possible }) => arrived === possible && Math.abs(arrived - 1) < 0.05));
    assert.ok(["SHA256SUMS", "certificate.html", "certificate.json"].every((file) => readdirSync(output).includes(file)));
    assert.deepEqual(JSON.parse(readFileSync(`${output}/certificate.json`, "utf8")), JSON.parse(JSON.stringify(own)));
    assert.match((await printed("verify", output)).stdout, / ok\n$/);
    if (name === "bert-seqcls") return; // its head has no fixture of its own
    const theirs = await certify({ ...of(name), merged: mergedByPeft(name) });
    assert.deepEqual(failures(theirs), []);
    assert.equal(theirs.weights.compared, own.weights.compared);
  });
}

test("without data a language model is compared on texts or tokens of ours, in float32 to 1e-4", async () => {
  const { outputs } = (await mergeAdapter({ ...of("llama-gqa-tied"), output: `${root}/outputs`, tokens: 100 }))!;
  const [logits] = outputs!.merged;
  assert.deepEqual([logits!.output, logits!.vectors, logits!.agreement], ["logits", 100, 1]);
  assert.ok(logits!.largest > 0 && logits!.largest < 1e-4, `${logits!.largest}`);
  // The base alone is far away, or the comparison says nothing.
  assert.ok(outputs!.base![0]!.divergence!.mean > 0.1);
});

/** Merges with another adapter than the one that is certified. */
const wrongMerges: Record<string, (config: Record<string, unknown>) => Record<string, unknown>> = {
  "the scale doubled": (config) => ({ ...config, lora_alpha: 2 * Number(config["lora_alpha"]) }),
  "half of the scale": (config) => ({ ...config, lora_alpha: Number(config["lora_alpha"]) / 2 }),
};

for (const name of ["llama-gqa-tied", "llama-bf16-sharded"]) {
  for (const [what, change] of Object.entries(wrongMerges)) {
    test(`${name}: ${what} is caught`, async () => {
      const { base, adapter } = of(name);
      const wrong = `${root}/${name} ${what}`;
      cpSync(adapter, wrong, { recursive: true });
      const config = JSON.parse(readFileSync(`${wrong}/adapter_config.json`, "utf8"));
      writeFileSync(`${wrong}/adapter_config.json`, JSON.stringify(change(config)));
      const merged = `${wrong} merged`;
      await mergeAdapter({ base, adapter: wrong, output: merged, certify: "none" });
      assert.ok(!readdirSync(merged).includes("certificate.json"));
      const found = await certify({ base, adapter, merged });
      assert.ok(!found.passed && failures(found)[0] === "weights that are not as they should be");
      assert.equal(found.weights.problems.length, found.weights.merged.length);
    });
  }

  test(`${name}: one layer left out, and the heads of one permuted, are caught by name`, async () => {
    const { base, adapter } = of(name);
    const output = `${root}/${name} whole`;
    await mergeAdapter({ base, adapter, output, maxShardBytes: 1_000_000 });
    const checkpoint = await openCheckpoint(nodeFiles, output);
    const weight = "model.layers.1.self_attn.q_proj.weight";
    const entry = checkpoint.tensors.get(weight)!;
    const own = (await openCheckpoint(nodeFiles, base)).tensors.get(weight)!;
    const bytes = readFileSync(entry.file);
    const before = readFileSync(own.file).subarray(own.offset, own.offset + own.length);
    const right = Buffer.from(bytes.subarray(entry.offset, entry.offset + entry.length));
    const half = entry.length / 2;
    const permuted = Buffer.concat([right.subarray(half), right.subarray(0, half)]);
    for (const [what, wrong] of Object.entries({ left: before, permuted })) {
      const merged = `${output} ${what}`;
      cpSync(output, merged, { recursive: true });
      bytes.set(wrong, entry.offset);
      writeFileSync(entry.file.replace(output, merged), bytes);
      const { passed, weights } = await certify({ base, adapter, merged });
      assert.ok(!passed);
      assert.deepEqual([weights.problems.length, weights.problems[0]!.split(":")[0]], [1, weight]);
    }
  });
}

test("a weight that the adapter does not change, and differs, is caught; and one that is missing", async () => {
  const { base, adapter } = of("llama-gqa-tied");
  const [output, merged] = [`${root}/kept`, `${root}/kept changed`];
  await mergeAdapter({ base, adapter, output });
  cpSync(output, merged, { recursive: true });
  const { file, offset } = (await openCheckpoint(nodeFiles, merged)).tensors.get("model.norm.weight")!;
  const bytes = readFileSync(file);
  bytes.writeFloatLE(bytes.readFloatLE(offset) + 1e-3, offset);
  writeFileSync(file, bytes);
  const changed = await certify({ base, adapter, merged });
  assert.match(changed.weights.problems.join(), /^model\.norm\.weight: the adapter does not change it, and it differs/);
  const other = await certify({ ...of("llama-gqa-tied"), merged: of("lora-rslora").base }).catch((error) => error.code);
  assert.ok(typeof other === "string" || !other.passed);
});

test("the command exits with 1 for a failed certificate, prints why and writes it where it is told", async () => {
  const { base, adapter } = of("llama-gqa-tied");
  const args = ["certify", "--base", base, "--adapter", adapter, "--merged", base, "--output", `${root}/page`];
  const { status, stdout, stderr } = await printed(...args);
  assert.equal(status, 1);
  assert.match(stdout, /broken: weights that are not as they should be: 14, limit 0\n.*failed\n$/s);
  assert.match(stderr, /the merged model is not the base with the adapter/);
  assert.match(readFileSync(`${root}/page/certificate.html`, "utf8"), /class="status bad">failed</);
  const [found] = jsonLines<Certificate & Record<string, unknown>>((await printed(...args, "--json")).stdout);
  assert.equal(found!.passed, false);
});

test("the user's data are compared on, and their columns are those of the task", async () => {
  const data = `${root}/data.jsonl`;
  writeFileSync(data, `${JSON.stringify({ text: "no tokenizer here" })}\n`);
  await refused(certify({ ...of("llama-gqa-tied"), merged: of("llama-gqa-tied").base, data }), "tokenizer/missing");
});

test("another dtype is written, and what rounding costs is said", async () => {
  const output = `${root}/bfloat16`;
  const found = (await mergeAdapter({ ...of("llama-gqa-tied"), output, outDtype: "bfloat16" }))!;
  assert.ok(found.passed);
  assert.ok(found.weights.merged.every(({ dtype, error }) => dtype === "bfloat16" && error > 1e-5));
  const checkpoint = await openCheckpoint(nodeFiles, output);
  assert.ok([...checkpoint.tensors.values()].every(({ dtype }) => dtype === "bfloat16"));
  assert.equal(checkpoint.config["dtype"] ?? checkpoint.config["torch_dtype"], "bfloat16");
  assert.ok(found.outputs!.merged[0]!.divergence!.mean > 1e-9);
});

test("an adapter on tied weights is refused, or merges into a model that is untied", async () => {
  const tied = of("lora-tied-embed");
  await refused(mergeAdapter({ ...tied, output: `${root}/tied` }), "merge/tied");
  const found = (await mergeAdapter({ ...tied, output: `${root}/untied`, untie: true }))!;
  assert.ok(found.passed && found.outputs!.merged[0]!.largest < 1e-4);
  const { config, tensors } = await openCheckpoint(nodeFiles, `${root}/untied`);
  assert.ok(config["tie_word_embeddings"] === false && tensors.has("lm_head.weight"));
  await refused(mergeAdapter({ ...of("lora-rslora"), output: `${root}/none`, untie: true }), "merge/option");
});

test("unmerging gives the base back to rounding", async () => {
  for (const name of ["llama-gqa-tied", "gpt2-conv1d"]) {
    const [merged, output] = [`${root}/to unmerge ${name}`, `${root}/unmerged ${name}`];
    await mergeAdapter({ ...of(name), output: merged, certify: "weights" });
    await unmergeAdapter({ merged, adapter: of(name).adapter, output });
    await nearBase(of(name).base, output);
  }
  await mergeAdapter({ ...of("lora-dora"), output: `${root}/dora` });
  const { status, stderr } = await printed(
    ...["unmerge", "--merged", `${root}/dora`, "--adapter", of("lora-dora").adapter, "--output", `${root}/none`, "--json"],
  );
  assert.deepEqual([status, jsonLines(stderr)[0]!["error"]], [2, "unmerge/lost"]);
});

test("first values that were taken off the base are refused by unmerging; a converted adapter is taken out", async () => {
  for (const name of ["lora-init-pissa", "lora-init-olora"]) {
    const [merged, output] = [`${root}/merged ${name}`, `${root}/base of ${name}`];
    await mergeAdapter({ ...of(name), output: merged, certify: "none" });
    await refused(unmergeAdapter({ merged, adapter: of(name).adapter, output }), "unmerge/lost", {
      got: `one whose first values (${name.slice(10)}) are computed from the base`,
    });
    assert.ok(!existsSync(output));
    const plain = `${root}/plain ${name}`;
    const { adapter } = await attach(await openBase(nodeFiles, of(name).base), await openAdapter(nodeFiles, of(name).adapter));
    await writeAdapter(nodeFiles, plain, adapter);
    await unmergeAdapter({ merged, adapter: plain, output });
    await nearBase(of(name).base, output);
  }
});

/** Every weight is the base's to rounding. */
async function nearBase(folder: string, unmerged: string): Promise<void> {
  const [base, back] = [await openCheckpoint(nodeFiles, folder), await openCheckpoint(nodeFiles, unmerged)];
  for (const weight of base.tensors.keys()) {
    const [was, is] = [await readWeights(nodeFiles, base, weight), await readWeights(nodeFiles, back, weight)].map(toFloat32);
    near(is!, was!, 3e-7, weight);
  }
}
