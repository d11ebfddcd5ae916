// The operator table: one row an op, grouped by file. Every row has a gradient test (test/graph/gradients.test.ts).
import type { OpRule } from "../rule.ts";
import { attentionRules } from "./attention.ts";
import { elementwiseRules } from "./elementwise.ts";
import { indexingRules } from "./indexing.ts";
import { leafRules } from "./leaves.ts";
import { linearRules } from "./linear.ts";
import { lossRules } from "./loss.ts";
import type { OpName } from "./names.ts";
import { normalizationRules } from "./normalization.ts";
import { outputLayerRules } from "./output-layer.ts";
import { packedRules } from "./packed.ts";
import { reductionRules } from "./reduction.ts";
import { rotatedRules } from "./rotated.ts";
import { shapeRules } from "./shape.ts";
import { storedRules } from "./stored.ts";

let rows: Record<OpName, OpRule> | undefined;

/** Every op's rule. Gathered at the first call, since the rule files and the graph import each other. */
export function table(): Record<OpName, OpRule> {
  rows ??= {
    ...leafRules,
    ...elementwiseRules,
    ...reductionRules,
    ...shapeRules,
    ...indexingRules,
    ...linearRules,
    ...normalizationRules,
    ...attentionRules,
    ...storedRules,
    ...rotatedRules,
    ...packedRules,
    ...lossRules,
    ...outputLayerRules,
  };
  return rows;
}
