// The fused output layer over W in a stored form: the parts are its inputs, and it gives what it gives with W widened first.
import assert from "node:assert/strict";
import { test } from "node:test";
import { apply, nodesOf, type Value } from "../../src/graph/graph.ts";
import { input, weight } from "../../src/graph/ops/leaves.ts";
import { linearCrossEntropy, withParts } from "../../src/graph/ops/loss.ts";
import { type FormName, forms, stored, widened } from "../../src/graph/ops/stored.ts";
import { whole } from "../../src/graph/stages.ts";
import { storeWeights } from "../../src/graph/store.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { normal, purpose } from "../../src/random.ts";
import { float32, int32 } from "../../src/tensor.ts";

const [ROWS, DIM, VOCAB] = [7, 64, 23];
const head = { path: "lm_head", chunks: 2, vocabChunks: 4 };
const labelsOf = [22, 0, 5, 6, 11, 17, 5];
const furtherLabelsOf = [23, 0, 24, 6, 24, 22, 5];

/** The forms that keep rows together: an output layer is read by them. */
const names = ["bfloat16", "float16", "int8", "int4"] satisfies FormName[];

for (const form of names) {
  test(`an output layer in ${form} gives what it gives when W is widened first`, async () => {
    const x = input("x", "float32", ["n", DIM]);
    const parts = stored(input("w", "float32", [VOCAB, DIM]), form);
    const outputs: Record<string, Value> = {};
    const cases = [
      { name: "plain", attributes: head, others: [input("labels", "int32", ["n"])] },
      { name: "one chunk", attributes: { ...head, chunks: 1, vocabChunks: 1 }, others: [input("labels", "int32", ["n"])] },
      { name: "capped", attributes: { ...head, softcap: 2 }, others: [input("labels", "int32", ["n"])] },
      {
        name: "further",
        attributes: head,
        others: [input("furtherLabels", "int32", ["n"]), input("further", "float32", ["n", 2])],
      },
    ];
    const leaves = new Map<string, Value>();
    const shared = (value: Value) => {
      const name = String(value.node.attributes["name"]);
      leaves.set(name, leaves.get(name) ?? value);
      return leaves.get(name)!;
    };
    for (const { name, attributes, others } of cases) {
      const inputs = [x, widened(parts, form), ...others.map(shared)];
      const fused = withParts(inputs, attributes)!;
      const results = {
        widened: apply("linearCrossEntropy", inputs, attributes),
        stored: apply("linearCrossEntropy", fused.inputs, fused.attributes),
      };
      for (const [how, values] of Object.entries(results))
        for (const [i, value] of values.entries()) outputs[`${name} ${how} ${i}`] = value;
    }
    const draw = (shape: number[], at: number) =>
      float32(
        shape,
        normal(
          0,
          [purpose.sample, at],
          shape.reduce((a, b) => a * b),
        ),
      );
    const feeds = {
      x: draw([ROWS, DIM], 1),
      w: draw([VOCAB, DIM], 2),
      further: draw([ROWS, 2], 3),
      labels: int32([ROWS], Int32Array.from(labelsOf)),
      furtherLabels: int32([ROWS], Int32Array.from(furtherLabelsOf)),
    };
    const session = await openNodeSession(whole({ outputs }), { threads: 1 });
    try {
      const results = await session.run(feeds);
      const compared = Object.keys(results).filter((name) => name.includes(" stored "));
      assert.equal(compared.length, 9);
      for (const name of compared) {
        const expected = results[name.replace(" stored ", " widened ")]!.data as Float32Array;
        const got = results[name]!.data as Float32Array;
        assert.ok(
          expected.some((value) => Math.abs(value) > 0.1),
          `${name} is not zero`,
        );
        got.forEach((value, i) => {
          const right = expected[i]!;
          assert.ok(
            Math.abs(value - right) <= 1e-5 * (1 + Math.abs(right)),
            `${form}, ${name}[${i}] is ${value}, expected ${right}`,
          );
        });
      }
    } finally {
      await session.close();
    }
  });

  test(`weights stored in ${form} reach the output layer as they are, and nothing widens all of W`, () => {
    const [x, labels] = [input("x", "float32", ["n", DIM]), input("labels", "int32", ["n"])];
    const loss = linearCrossEntropy(x, weight("lm_head.weight", [VOCAB, DIM]), labels, head);
    const nodes = nodesOf(storeWeights({ outputs: { loss, dx: loss.node.outputs[1]! } }, () => form));
    const fused = nodes.find(({ op }) => op === "linearCrossEntropy")!;
    const types = forms[form].parts(VOCAB, DIM);
    assert.deepEqual(
      fused.inputs.slice(1, -1).map(({ dtype, shape, node }) => ({ op: node.op, dtype, shape })),
      types.map((type) => ({ op: "weight", ...type })),
    );
    assert.equal(fused.attributes["form"], form);
    assert.ok(!nodes.some(({ op }) => op === "widen"));
  });
}
