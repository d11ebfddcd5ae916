// The classes of a classifier: those of its config, those that an adapter brings, and what names them in the adapter's file.
import assert from "node:assert/strict";
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { fitAdapter } from "../../src/adapters/attach.ts";
import { type Adapter, readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { classesOf } from "../../src/data/classes.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { readHeader, readTensor, writeSafetensors } from "../../src/formats/safetensors.ts";
import { type AnyBase, forAdapter, openBase, relabelled } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { refused } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const bert = "test/fixtures/cases/bert-seqcls";
const base = await openBase(nodeFiles, `${bert}/base`);
const adapter = await readAdapter(nodeFiles, `${bert}/adapter`);
const headOf = ({ modules }: AnyBase) => modules.find(({ path }) => path === "classifier")!.outFeatures;
const labelsOf = ({ config }: AnyBase) => config.labels;

test("a model keeps its head for its own classes, and gets a new one for others", () => {
  const own = relabelled(base, labelsOf(base));
  assert.equal(own.config.uninitializedHead, null);
  const other = relabelled(base, ["a", "b", "c", "d", "e"]);
  assert.equal(other.config.uninitializedHead, "classifier");
  assert.equal(headOf(other), 5);
  assert.equal(headOf(base), labelsOf(base).length);
});

test("whether there is a head is determined by the weights, whatever class config.json names", async (t) => {
  const folder = temporaryFolder(t);
  const { architectures: _, ...json } = JSON.parse(await readFile(`${bert}/base/config.json`, "utf8"));
  const open = async (config: object) => {
    await writeFile(`${folder}/config.json`, JSON.stringify(config));
    return (await openBase(nodeFiles, folder)).config;
  };
  await copyFile(`${bert}/base/model.safetensors`, `${folder}/model.safetensors`);
  assert.equal((await open(json)).uninitializedHead, null);
  assert.equal((await open({ ...json, id2label: { 0: "a", 1: "b" } })).uninitializedHead, "classifier");
});

test("the base has the same name whatever its classes", async () => {
  const renamed = relabelled(base, ["a", "b", "c", "d", "e"]);
  assert.equal(await renamed.fingerprint(), await base.fingerprint());
});

test("an adapter's file keeps the names of its classes, and the base takes them over", async (t) => {
  const folder = temporaryFolder(t);
  const rows = labelsOf(base).length;
  const labels = Array.from({ length: rows }, (_, i) => `kind "${i}"`);
  await writeAdapter(nodeFiles, folder, { ...adapter, labels });
  const read = await readAdapter(nodeFiles, folder);
  assert.deepEqual(read.labels, labels);
  assert.deepEqual(labelsOf(forAdapter(base, read)), labels);
  fitAdapter(read, forAdapter(base, read).modules);
});

test("a head of PEFT's without names: those of the base where there are as many, numbers where not", () => {
  assert.deepEqual(labelsOf(forAdapter(base, adapter)), labelsOf(base));
  const wide: Adapter = {
    ...adapter,
    saved: new Map([["classifier.weight", { shape: [7, 32], data: new Float32Array(7 * 32) }]]),
  };
  assert.deepEqual(labelsOf(forAdapter(base, wide)).slice(5), ["LABEL_5", "LABEL_6"]);
});

test("two classes of the same name, as ImageNet's cranes, stay two", async (t) => {
  const folder = temporaryFolder(t);
  const labels = labelsOf(base).map((_, i) => (i < 2 ? "crane" : `kind ${i}`));
  await writeAdapter(nodeFiles, folder, { ...adapter, labels });
  const read = await readAdapter(nodeFiles, folder);
  assert.deepEqual(labelsOf(forAdapter(base, read)), labels);
});

/** The classes of data with these labels, for a model with classes of its own, and the place of each label. */
function placesIn(own: readonly string[], given: readonly string[], fixed = false) {
  const classes = classesOf(own, fixed);
  const numbers = given.map((label) => classes.numberOf(label, "data"));
  classes.settle("data");
  return { labels: classes.labels(), places: numbers.map(classes.placeOf) };
}

test("labels name a model's classes by name, or by number where no name is a number", () => {
  const own = ["cat", "dog", "bird"];
  assert.deepEqual(placesIn(own, ["dog", "cat"]), { labels: own, places: [1, 0] });
  assert.deepEqual(placesIn(own, ["2", "0"]), { labels: own, places: [2, 0] });
  const years = ["1", "2", "3"];
  assert.deepEqual(placesIn(years, ["3", "1"]), { labels: years, places: [2, 0] });
  // Were 0 the first class, it would be the same as 1, which is the first one's name.
  assert.deepEqual(placesIn(years, ["0", "1", "2"]), { labels: ["0", "1", "2"], places: [0, 1, 2] });
  assert.throws(() => placesIn(years, ["0", "1"], true), { code: "data/label", got: "0" });
  assert.throws(() => placesIn(own, ["01"], true), { code: "data/label", got: "01" });
});

test("new classes whose names are numbers are in the order of these, whatever comes first", () => {
  for (const given of [
    ["10", "9", "-3", "1", "01"],
    ["01", "1", "-3", "9", "10"],
  ]) {
    assert.deepEqual(placesIn([], given).labels, ["-3", "01", "1", "9", "10"]);
  }
  assert.deepEqual(placesIn([], ["10.0", "2.0", "0.5"]).labels, ["0.5", "2.0", "10.0"]);
  assert.deepEqual(placesIn([], ["10", "2", "b"]).labels, ["10", "2", "b"]);
});

for (const [what, text] of [
  ["no JSON", "a, b"],
  ["no list", '{"a": 0}'],
  ["one class", '["a"]'],
  ["numbers", "[0, 1, 2]"],
] as const) {
  test(`names of classes that cannot be read are refused: ${what}`, async (t) => {
    const folder = temporaryFolder(t);
    await writeAdapter(nodeFiles, folder, adapter);
    const file = `${folder}/adapter_model.safetensors`;
    const { tensors } = await readHeader(nodeFiles, file);
    const sources = [...tensors].map(async ([name, entry]) => {
      const { dtype, shape, data } = await readTensor(nodeFiles, file, entry);
      return { name, dtype, shape: [...shape], data: () => bytesOf(data) };
    });
    await writeSafetensors(nodeFiles, file, await Promise.all(sources), { "lowrank.labels": text });
    await refused(readAdapter(nodeFiles, folder), "adapter/labels", { subject: /lowrank\.labels/ });
  });
}
