// The fused output layer over W in a stored form: the parts are its inputs, and it gives what it gives with W widened first.
import assert from "node:assert/strict";
import { test } from "node:test";
import { apply, nodesOf, type Value } from "../../src/graph/graph.ts";
import { input, weight } from "../../src/graph/ops/leaves.ts";
import { linearCrossEntropy, withParts } from "../../src/graph/ops/output-layer.ts";
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

/** The forms that keep rows together: an output layer is read by them. How far products may differ from those with W widened first. */
const tolerances = { bfloat16: 1e-5, float16: 1e-5, int8: 1e-5, int4: 1e-5, int8rows: 0.05 } satisfies Partial<
  Record<FormName, number>
>;

for (const [form, tolerance] of Object.entries(tolerances) as [keyof typeof tolerances, number][]) {
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
        const length = Math.hypot(...expected);
        const apart = Math.hypot(...expected.map((value, i) => value - got[i]!));
        assert.ok(apart <= tolerance * length, `${form}, ${name} is ${apart / length} of its length from what is expected`);
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

test("a label that is nearly certain has a loss of no less than zero in integers", async () => {
  const w = float32([VOCAB, DIM], normal(0, [purpose.sample, 4], VOCAB * DIM));
  const x = float32(
    [VOCAB, DIM],
    (w.data as Float32Array).map((value) => 2 * value),
  );
  const parts = stored(input("w", "float32", [VOCAB, DIM]), "int8rows");
  const labels = int32(
    [VOCAB],
    Int32Array.from({ length: VOCAB }, (_, i) => i),
  );
  const [losses] = apply("linearCrossEntropy", [input("x", "float32", ["n", DIM]), ...parts, input("labels", "int32", ["n"])], {
    ...head,
    form: "int8rows",
  });
  const session = await openNodeSession(whole({ outputs: { losses: losses! } }), { threads: 1 });
  try {
    const got = [...((await session.run({ x, w, labels }))["losses"]!.data as Float32Array)];
    assert.ok(
      got.every((loss) => loss > -1e-4 && loss < 1),
      String(got),
    );
  } finally {
    await session.close();
  }
});

test("what small probabilities add up to over all rows survives their rounding to 8 bits", async () => {
  const [rows, vocab] = [64, 512];
  const labels = int32(
    [rows],
    Int32Array.from({ length: rows }, (_, i) => i),
  );
  const w = float32([vocab, DIM], normal(0, [purpose.sample, 5], vocab * DIM));
  // Each row is nearly certain of its label; all words share a direction, which their small probabilities add up along.
  for (let i = 0; i < vocab; i++) (w.data as Float32Array)[i * DIM]! += 4;
  const x = float32(
    [rows, DIM],
    Float32Array.from({ length: rows * DIM }, (_, i) => (w.data[i] as number) / (i % DIM === 0 ? 20 : 8)),
  );
  const [wide, inputs] = [
    input("w", "float32", [vocab, DIM]),
    [input("x", "float32", ["n", DIM]), input("labels", "int32", ["n"])],
  ];
  const attributes = { ...head, chunks: 1, vocabChunks: 2 };
  const outputs = {
    exact: apply("linearCrossEntropy", [inputs[0]!, wide, inputs[1]!], attributes)[1]!,
    integers: apply("linearCrossEntropy", [inputs[0]!, ...stored(wide, "int8rows"), inputs[1]!], {
      ...attributes,
      form: "int8rows",
    })[1]!,
  };
  const session = await openNodeSession(whole({ outputs }), { threads: 1 });
  try {
    const results = await session.run({ x, w, labels });
    const summed = ({ data }: { data: ArrayLike<number | bigint> }) =>
      Array.from({ length: DIM }, (_, j) =>
        Array.from({ length: rows }, (_, i) => Number(data[i * DIM + j])).reduce((a, b) => a + b),
      );
    const [exact, integers] = [summed(results["exact"]!), summed(results["integers"]!)];
    const apart = Math.hypot(...exact.map((value, i) => value - integers[i]!));
    assert.ok(apart < 0.1 * Math.hypot(...exact), `${apart} of ${Math.hypot(...exact)}`);
  } finally {
    await session.close();
  }
});
