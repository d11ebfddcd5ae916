// models/experts.ts: against the sum over all experts for every token, with experts that get many tokens, one and none.
// slow
import { test } from "node:test";
import { gradients } from "../../src/graph/autodiff.ts";
import { check, nodesOf, rewrite } from "../../src/graph/graph.ts";
import { mul } from "../../src/graph/ops/elementwise.ts";
import { input } from "../../src/graph/ops/leaves.ts";
import { reduceSum } from "../../src/graph/ops/reduction.ts";
import { reshape } from "../../src/graph/ops/shape.ts";
import { whole } from "../../src/graph/stages.ts";
import { mixtureOfExperts } from "../../src/models/layers/experts.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { normal, purpose } from "../../src/random.ts";
import { float32, sizeOf, type Tensor } from "../../src/tensor.ts";
import { near } from "../helpers/assert.ts";

const HIDDEN = 5;
const WIDTH = 3;
const COUNT = 4;
const ROUTER = "moe.gate.weight";
const expert = (i: number) => {
  const name = (part: string) => `moe.experts.${i}.${part}.weight`;
  return { gate: name("w1"), up: name("w3"), down: name("w2") };
};

/** The mixture with its weights as inputs, and the gradient of Σ y·d. */
function graphOf(normalise: boolean) {
  const x = input("x", "float32", ["n", HIDDEN]);
  const y = mixtureOfExperts(x, "moe", {
    parts: { gate: "w1", up: "w3", down: "w2" },
    count: COUNT,
    perToken: 2,
    normalise,
    width: WIDTH,
    activation: "silu",
  });
  const frozen = rewrite({ outputs: { y } }, (node) =>
    node.op === "weight" ? [input(String(node.attributes["name"]), "float32", node.attributes["shape"] as number[])] : null,
  ).outputs["y"]!;
  const source = nodesOf({ outputs: { frozen } }).find(({ op, attributes }) => op === "input" && attributes["name"] === "x")!;
  const loss = reshape(reduceSum(mul(frozen, input("d", "float32", ["n", HIDDEN])), [0, 1]), []);
  return check({ outputs: { y: frozen, loss, dx: gradients(loss, [source.outputs[0]!])[0]! } });
}

const silu = (v: number) => v / (1 + Math.exp(-v));
const times = (rows: number[][], v: number[]) => rows.map((row) => row.reduce((sum, w, i) => sum + w * v[i]!, 0));

/** The definition, one token at a time, in double. */
function defined(x: number[], weights: Record<string, number[][]>, normalise: boolean): number[] {
  const logits = times(weights[ROUTER]!, x);
  const exponentials = logits.map((l) => Math.exp(l - Math.max(...logits)));
  const total = exponentials.reduce((a, b) => a + b);
  const shares = exponentials
    .map((e, i) => ({ i, share: e / total }))
    .sort((a, b) => b.share - a.share)
    .slice(0, 2);
  const scale = normalise ? shares[0]!.share + shares[1]!.share : 1;
  const out = Array<number>(HIDDEN).fill(0);
  for (const { i, share } of shares) {
    const up = times(weights[expert(i).up]!, x);
    const inner = times(weights[expert(i).gate]!, x).map((g, k) => silu(g) * up[k]!);
    times(weights[expert(i).down]!, inner).forEach((value, k) => {
      out[k]! += (share / scale) * value;
    });
  }
  return out;
}

for (const normalise of [true, false]) {
  for (const tokens of [1, 2, 9]) {
    test(`${tokens} tokens, weights ${normalise ? "of sum 1" : "as they are"}: values and gradient`, async () => {
      const shapes: Record<string, number[]> = { [ROUTER]: [COUNT, HIDDEN] };
      for (let i = 0; i < COUNT; i++) {
        const { gate, up, down } = expert(i);
        Object.assign(shapes, { [gate]: [WIDTH, HIDDEN], [up]: [WIDTH, HIDDEN], [down]: [HIDDEN, WIDTH] });
      }
      let drawn = 0;
      const draw = (shape: number[]) =>
        float32(shape, Float32Array.from(normal(tokens, [purpose.sample, ++drawn], sizeOf(shape))));
      const feeds: Record<string, Tensor> = { x: draw([tokens, HIDDEN]), d: draw([tokens, HIDDEN]) };
      for (const [name, shape] of Object.entries(shapes)) feeds[name] = draw(shape);
      const rowsOf = ({ data, shape }: Tensor) =>
        Array.from({ length: shape[0]! }, (_, i) => [...(data as Float32Array).subarray(i * shape[1]!, (i + 1) * shape[1]!)]);
      const weights = Object.fromEntries(Object.keys(shapes).map((name) => [name, rowsOf(feeds[name]!)]));

      const session = await openNodeSession(whole(graphOf(normalise)));
      const { y, dx } = await session.run(feeds);
      await session.close();
      const [x, d, gotY, gotDx] = [feeds["x"]!, feeds["d"]!, y!, dx!].map(rowsOf) as [
        number[][],
        number[][],
        number[][],
        number[][],
      ];
      for (const [t, token] of x.entries()) {
        near(gotY[t]!, defined(token, weights, normalise), 1e-4, `y[${t}]`);
        for (let k = 0; k < HIDDEN; k++) {
          const at = (delta: number) => {
            const moved = token.map((value, i) => (i === k ? value + delta : value));
            return defined(moved, weights, normalise).reduce((sum, value, i) => sum + value * d[t]![i]!, 0);
          };
          const slope = (at(1e-5) - at(-1e-5)) / 2e-5;
          near(gotDx[t]![k]!, slope, { atol: 1e-3, rtol: 1e-3 }, `dx[${t}][${k}]`);
        }
      }
    });
  }
}
