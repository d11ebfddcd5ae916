// RMSNorm (Zhang & Sennrich 2019) as one op: ONNX Runtime has a fused kernel that also returns 1/rms for the backward pass.
import { apply, expect, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul, sub } from "./elementwise.ts";
import { meanLast, reduceSum } from "./reduction.ts";
import { reshape } from "./shape.ts";

/** x / sqrt(mean(x²) + eps) · w over the last axis; x [..., dim], w [dim]. */
export const rmsNorm = (x: Value, w: Value, epsilon: number): Value => apply("rmsNorm", [x, w], { epsilon })[0]!;

export const normalizationRules = {
  rmsNorm: {
    infer: ([x, w]) => {
      const dim = x!.shape[x!.shape.length - 1];
      expect(w!.shape.length === 1 && w!.shape[0] === dim, "the weight is not [dim]");
      return [x!, { dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), 1] }];
    },
    vjp: ({ inputs: [x, w], outputs: [, inverse] }, [d]) => {
      const normal = mul(x!, inverse!);
      const g = mul(d!, w!);
      const leading = x!.shape.slice(0, -1).map((_, i) => i);
      return [
        mul(inverse!, sub(g, mul(normal, meanLast(mul(g, normal))))),
        reshape(reduceSum(mul(d!, normal), leading), w!.shape),
      ];
    },
    lower: (emit, node, inputs) =>
      emit.nodes("SimplifiedLayerNormalization", inputs, 2, { axis: -1, epsilon: node.attributes.epsilon, stash_type: 1 }),
  },
} satisfies Record<string, OpRule>;
