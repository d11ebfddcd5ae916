// Merging a classifier's head into a base without one: the folder is that of Transformers' classifier, config.json included.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { readTensors } from "../../scripts/oracle/golden.ts";
import { readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { type TensorSource, writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { float32, type Tensor } from "../../src/tensor.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const cases = `${fixtures}/cases`;
const place = temporaryFolder();

/** A base of a golden case with other tensors and another config.json. */
async function baseOf(
  name: string,
  golden: string,
  config: (text: string) => string,
  tensors: Map<string, Tensor>,
): Promise<string> {
  const folder = `${place}/${name}`;
  mkdirSync(folder);
  writeFileSync(`${folder}/config.json`, config(readFileSync(`${cases}/${golden}/base/config.json`, "utf8")));
  const sources = [...tensors].map(
    ([key, { dtype, shape, data }]): TensorSource => ({ name: key, dtype, shape, data: () => bytesOf(data) }),
  );
  await writeSafetensors(nodeFiles, `${folder}/model.safetensors`, sources, { format: "pt" });
  return folder;
}

/** The config.json of a case without its classes, of the class `architecture`. */
const without = (architecture: string) => (text: string) => {
  const { id2label: _, label2id: _ids, ...rest } = JSON.parse(text);
  const json = JSON.stringify({ ...rest, architectures: [architecture] }, null, 2);
  return json.replace(/"initializer_range": [\d.]+/, '"initializer_range": 1.0'); // a float that is a whole number
};

/** The merged tensors are those of `golden`, which PEFT merged. */
async function isGolden(folder: string, golden: string): Promise<void> {
  const [ours, theirs] = [
    await readTensors(`${folder}/model.safetensors`),
    await readTensors(`${cases}/${golden}/merged/model.safetensors`),
  ];
  assert.deepEqual([...ours.keys()].sort(), [...theirs.keys()].sort());
  for (const [name, { shape, data }] of theirs) {
    assert.deepEqual(ours.get(name)!.shape, shape);
    near(ours.get(name)!.data as Float32Array, data as Float32Array, 1e-6, name);
  }
}

const withoutHead = (tensors: Map<string, Tensor>) => new Map([...tensors].filter(([name]) => !name.startsWith("classifier.")));

for (const [name, golden, own, architecture, prefix] of [
  ["masked", "bert-seqcls", "BertForMaskedLM", "BertForSequenceClassification", /^$/],
  ["bare bert", "bert-seqcls", "BertModel", "BertForSequenceClassification", /^bert\./],
  ["bare vit", "vit-imgcls", "ViTModel", "ViTForImageClassification", /^vit\./],
] as const) {
  test(`${own} becomes ${architecture}: class, labels, names; other heads are left out`, async () => {
    const tensors = withoutHead(await readTensors(`${cases}/${golden}/base/model.safetensors`));
    const stored = new Map([...tensors].map(([key, tensor]) => [key.replace(prefix, ""), tensor]));
    if (name === "masked") stored.set("cls.predictions.bias", float32([112], new Float32Array(112)));
    const base = await baseOf(name, golden, without(own), stored);
    const output = `${place}/${name} merged`;
    await mergeAdapter(nodeFiles, { base, adapter: `${cases}/${golden}/adapter`, output });
    await isGolden(output, golden);
    const text = readFileSync(`${output}/config.json`, "utf8");
    const count = golden === "bert-seqcls" ? 3 : 5;
    const labels = Array.from({ length: count }, (_, i) => `LABEL_${i}`);
    assert.deepEqual(JSON.parse(text), {
      ...JSON.parse(readFileSync(`${base}/config.json`, "utf8")),
      architectures: [architecture],
      id2label: Object.fromEntries(labels.map((label, i) => [i, label])),
      label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
    });
    assert.match(text, /"initializer_range": 1\.0/, "Transformers takes no 1 for a float");
  });
}

test("classes of the adapter's own take the place of a head with others", async () => {
  const golden = "bert-seqcls";
  const tensors = await readTensors(`${cases}/${golden}/base/model.safetensors`);
  const nine = (shape: number[]) => float32(shape, new Float32Array(shape.reduce((a, b) => a * b)).fill(1));
  tensors.set("classifier.weight", nine([9, 32])).set("classifier.bias", nine([9]));
  const config = (text: string) => {
    const { id2label: _, label2id: _ids, ...rest } = JSON.parse(text);
    return JSON.stringify({ ...rest, num_labels: 9 });
  };
  const base = await baseOf("nine", golden, config, tensors);
  const adapter = `${place}/named`;
  const labels = ["no", "maybe", "yes"];
  await writeAdapter(nodeFiles, adapter, { ...(await readAdapter(nodeFiles, `${cases}/${golden}/adapter`)), labels });
  await mergeAdapter(nodeFiles, { base, adapter, output: `${place}/three` });
  await isGolden(`${place}/three`, golden);
  const { id2label, label2id, num_labels: count } = JSON.parse(readFileSync(`${place}/three/config.json`, "utf8"));
  assert.deepEqual([id2label, label2id, count], [{ 0: "no", 1: "maybe", 2: "yes" }, { no: 0, maybe: 1, yes: 2 }, undefined]);
});

test("a base that has the head keeps its config.json byte for byte", async () => {
  const golden = `${cases}/bert-seqcls`;
  cpSync(`${golden}/base`, `${place}/own`, { recursive: true });
  await mergeAdapter(nodeFiles, { base: `${place}/own`, adapter: `${golden}/adapter`, output: `${place}/own merged` });
  await isGolden(`${place}/own merged`, "bert-seqcls");
  assert.deepEqual(readFileSync(`${place}/own merged/config.json`), readFileSync(`${golden}/base/config.json`));
});
