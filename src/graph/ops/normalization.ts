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
      const leading = x!.shape.slice(0, -1).map((_, i) => i);
      const g = mul(d!, w!);
      // dx = (g - x · mean(g·x) / rms²) / rms, with the factors of a row multiplied before they meet the row
      const cube = mul(inverse!, mul(inverse!, inverse!));
      return [
        sub(mul(g, inverse!), mul(x!, mul(cube, meanLast(mul(g, x!))))),
        reshape(reduceSum(mul(d!, mul(x!, inverse!)), leading), w!.shape),
      ];
    },
    lower: (emit, node, inputs) =>
      emit.nodes("SimplifiedLayerNormalization", inputs, 2, { axis: -1, epsilon: node.attributes.epsilon, stash_type: 1 }),
  },
} satisfies Record<string, OpRule>;
