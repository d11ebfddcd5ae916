// RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016) as one op each: ONNX Runtime has fused kernels that also
// return what the backward pass reads, 1/rms or mean and 1/deviation.
import { sameShape } from "../dims.ts";
import { apply, expect, type Value } from "../graph.ts";
import type { OpRule } from "../rule.ts";
import { mul, sub } from "./elementwise.ts";
import { meanLast, reduceSum } from "./reduction.ts";
import { reshape } from "./shape.ts";

/** x / sqrt(mean(x²) + eps) · w over the last axis; x [..., dim], w [dim]. */
export const rmsNorm = (x: Value, w: Value, epsilon: number): Value => apply("rmsNorm", [x, w], { epsilon })[0]!;

/** (x - mean) / sqrt(variance + eps) · w + b over the last axis; x [..., dim], w and b [dim]. */
export const layerNorm = (x: Value, w: Value, b: Value, epsilon: number): Value => apply("layerNorm", [x, w, b], { epsilon })[0]!;

/** The axes before the last. */
const leading = (x: Value): number[] => x.shape.slice(0, -1).map((_, i) => i);

export const normalizationRules = {
  rmsNorm: {
    infer: ([x, w]) => {
      const dim = x!.shape[x!.shape.length - 1];
      expect(w!.shape.length === 1 && w!.shape[0] === dim, "the weight is not [dim]");
      return [x!, { dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), 1] }];
    },
    vjp: ({ inputs: [x, w], outputs: [, inverse] }, [d]) => {
      const g = mul(d!, w!);
      // dx = (g - x · mean(g·x) / rms²) / rms, with the factors of a row multiplied before they meet the row
      const cube = mul(inverse!, mul(inverse!, inverse!));
      return [
        sub(mul(g, inverse!), mul(x!, mul(cube, meanLast(mul(g, x!))))),
        reshape(reduceSum(mul(d!, mul(x!, inverse!)), leading(x!)), w!.shape),
      ];
    },
    lower: (emit, node, inputs) =>
      emit.nodes("SimplifiedLayerNormalization", inputs, 2, { axis: -1, epsilon: node.attributes.epsilon, stash_type: 1 }),
  },
  layerNorm: {
    infer: ([x, w, b]) => {
      const dim = x!.shape[x!.shape.length - 1];
      expect(w!.shape.length === 1 && w!.shape[0] === dim && sameShape(w!.shape, b!.shape), "weight and bias are not [dim]");
      const row = { dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), 1] };
      return [x!, row, row];
    },
    vjp: ({ inputs: [x, w, b], outputs: [, mean, inverse] }, [d]) => {
      const normal = mul(sub(x!, mean!), inverse!);
      const g = mul(d!, w!);
      return [
        mul(inverse!, sub(sub(g, meanLast(g)), mul(normal, meanLast(mul(g, normal))))),
        reshape(reduceSum(mul(d!, normal), leading(x!)), w!.shape),
        reshape(reduceSum(d!, leading(x!)), b!.shape),
      ];
    },
    lower: (emit, node, inputs) =>
      emit.nodes("LayerNormalization", inputs, 3, { axis: -1, epsilon: node.attributes.epsilon, stash_type: 1 }),
  },
} satisfies Record<string, OpRule>;
