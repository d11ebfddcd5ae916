// Measures of classifiers and of retrieval against scikit-learn's and NumPy's numbers (scripts/reference/measures.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { argmax, classificationMeasures } from "../../src/tasks/common/classification-measures.ts";
import { openProducts, retrievalMeasures, vectors } from "../../src/tasks/common/retrieval.ts";
import { near } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";

const reference = JSON.parse(readFileSync(`${fixtures}/measures.json`, "utf8"));
const products = await openProducts({ openSession: openNodeSession });
after(() => products.close());

test("accuracy, F1, precision, recall, support and confusions are scikit-learn's", () => {
  for (const [i, each] of reference.classification.entries()) {
    const labels = Array.from({ length: each.classes }, (_, label) => `class ${label}`);
    const got = classificationMeasures(each.expected, each.predicted, labels);
    near(got.accuracy, each.accuracy, 1e-12, `${i} accuracy`);
    near(got.macroF1, each.macro_f1, 1e-12, `${i} macro F1`);
    assert.equal(got.count, each.expected.length);
    for (const [label, measures] of got.classes.entries()) {
      assert.equal(measures.label, labels[label]);
      assert.equal(measures.support, each.support[label]);
      for (const name of ["precision", "recall", "f1"] as const)
        near(measures[name], each[name][label], 1e-12, `${i} ${name} of ${label}`);
    }
    const matrix = labels.map(() => labels.map(() => 0));
    for (const { expected, predicted, count } of got.confusions) matrix[expected]![predicted] = count;
    assert.deepEqual(matrix, each.confusion);
    assert.ok(got.confusions.every(({ count }, at) => count > 0 && count <= (got.confusions[at - 1]?.count ?? count)));
  }
});

test("of no rows every measure is 0", () => {
  const { accuracy, macroF1, count, classes, confusions } = classificationMeasures([], [], ["a", "b"]);
  assert.deepEqual([accuracy, macroF1, count, confusions], [0, 0, 0, []]);
  assert.deepEqual(classes[1], { label: "b", precision: 0, recall: 0, f1: 0, support: 0 });
  assert.equal(argmax([1, 3, 3, 2]), 1);
});

test("recall@k counts any of an image's texts, and the earlier of equally near ones first", async () => {
  for (const { width, images, texts, image_of, image_to_text, text_to_image } of reference.retrieval) {
    const of = (values: number[]) => ({ data: Float32Array.from(values), width });
    const got = await retrievalMeasures(products, of(images), of(texts), image_of);
    assert.deepEqual({ ...got.imageToText }, image_to_text);
    assert.deepEqual({ ...got.textToImage }, text_to_image);
    assert.deepEqual([got.images, got.texts], [images.length / width, image_of.length]);
  }
});

test("a model that gives every input the same vector finds nothing better than by chance", async () => {
  const same = { data: new Float32Array(100 * 4).fill(0.5), width: 4 };
  const { imageToText, textToImage } = await retrievalMeasures(
    products,
    same,
    same,
    Array.from({ length: 100 }, (_, i) => i),
  );
  assert.deepEqual({ ...imageToText }, { 1: 0.01, 5: 0.05, 10: 0.1 });
  assert.deepEqual(imageToText, textToImage);
});

test("vectors that are no numbers are refused, not ranked", async () => {
  const good = vectors([Float32Array.of(1, 0), Float32Array.of(0, 1)], 2);
  const bad = vectors([Float32Array.of(1, 0), Float32Array.of(Number.NaN, 1)], 2);
  await assert.rejects(retrievalMeasures(products, good, bad, [0, 1]), { code: "predict/not-finite", subject: "texts, row 2" });
});

test("many columns are multiplied in blocks of rows, and every row comes once", async () => {
  const columns = 1 << 20; // four rows make a block
  const a = { data: Float32Array.from({ length: 11 }, (_, i) => i + 1), width: 1 };
  const b = { data: new Float32Array(columns).fill(2), width: 1 };
  const seen: [number, number][] = [];
  for await (const { first, products: block } of products.blocks(a, b)) {
    assert.ok(block.length <= 1 << 22);
    for (let row = 0; row * columns < block.length; row++) seen.push([first + row, block[(row + 1) * columns - 1]!]);
  }
  assert.deepEqual(
    seen,
    Array.from({ length: 11 }, (_, i) => [i, 2 * (i + 1)]),
  );
});
