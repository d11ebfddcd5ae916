// A mixture of experts (Shazeer et al. 2017; Fedus et al. 2022): each token's MLP is a weighted sum of a few experts', and an
// expert is computed for the tokens that are routed to it alone.
import type { Value } from "../../graph/graph.ts";
import { add, div, mul } from "../../graph/ops/elementwise.ts";
import { gatherRows, keepTop, rowsWhere, scatterAddRows } from "../../graph/ops/indexing.ts";
import { weight } from "../../graph/ops/leaves.ts";
import { type LayerPlace, linear } from "../../graph/ops/linear.ts";
import { reduceSum, softmax } from "../../graph/ops/reduction.ts";
import { slice } from "../../graph/ops/shape.ts";
import { contradiction } from "../config/config.ts";
import type { StoredIn } from "../family.ts";
import { type ActivationName, activations } from "./activations.ts";

/** The parameters of a layer's experts, [experts, out, in] each, in the order in which Transformers' module has them. */
export const expertParameters = ["gate_up_proj", "down_proj"] as const;
type ExpertParameter = (typeof expertParameters)[number];

/** More than the largest published mixtures have in a layer. */
export const MAX_EXPERTS = 1024;

/** How many experts there are and how many a token gets, which can't be more. */
export function expertCounts(experts: number, expertsPerToken: number, file: string) {
  if (expertsPerToken <= experts) return { experts, expertsPerToken };
  throw contradiction(file, "num_experts_per_tok", `at most the ${experts} experts`, expertsPerToken);
}

interface Experts {
  /** What an expert calls its weights: gate and up [width, hidden], down [hidden, width]. */
  parts: { gate: string; up: string; down: string };
  count: number;
  /** Experts of a token. */
  perToken: number;
  /** Whether the weights of a token's experts are scaled to sum 1. */
  normalise: boolean;
  width: number;
  activation: ActivationName;
}

/**
 * x [tokens, hidden] → the weighted sum of the chosen experts of each, [tokens, hidden]. `at` is the module of the router and the experts,
 * `stored` what weights have in its place. In Transformers 5 a layer's experts are two parameters: `gate_up_proj` and `down_proj`.
 */
export function mixtureOfExperts(x: Value, at: string, e: Experts, stored = at): Value {
  const [tokens, hidden] = [x.shape[0]!, Number(x.shape[1])];
  const frozen = (y: Value, own: string, out: number, path: string, place: LayerPlace) =>
    linear(y, weight(`${stored}.${own}.weight`, [out, Number(y.shape[1])]), `${at}.${path}`, undefined, place);
  const router = frozen(x, "gate", e.count, "gate", { isParameter: true });
  const { kept, chosen } = keepTop(softmax(router), e.perToken); // [tokens, experts]
  const shares = e.normalise ? div(kept, reduceSum(kept, [1])) : kept;
  const outputs = Array.from({ length: e.count }, (_, i) => {
    const part = (y: Value, name: string, out: number, parameter: ExpertParameter, half?: 0 | 1) =>
      frozen(y, `experts.${i}.${name}`, out, `experts.${parameter}`, {
        expert: i,
        experts: e.count,
        ...(half !== undefined && { half }),
      });
    const column = (all: Value) => slice(all, 1, i, i + 1); // [tokens, 1]
    const rows = rowsWhere(column(chosen), routedRows(`${stored}.experts.${i}.${e.parts.gate}.weight`, e.perToken, e.count));
    const own = gatherRows(x, rows); // [routed, hidden]
    const gate = activations[e.activation](part(own, e.parts.gate, e.width, "gate_up_proj", 0));
    const up = part(own, e.parts.up, e.width, "gate_up_proj", 1);
    const y = part(mul(gate, up), e.parts.down, hidden, "down_proj");
    return scatterAddRows(mul(y, gatherRows(column(shares), rows)), rows, tokens); // [tokens, hidden]
  });
  return outputs.reduce(add);
}

/** The halves of `gate_up_proj`, by what Mixtral and its successors call an expert's weights; the third is `down_proj`. */
const halves: Record<string, 0 | 1> = { w1: 0, gate_proj: 0, w3: 1, up_proj: 1 };

/**
 * Where an expert's weight lies if a layer's experts are stored as Transformers 5 holds them in memory, which it writes with
 * `save_original_format=False`: `<layer>.mlp.experts.gate_up_proj` [experts, 2·width, hidden] and `down_proj` [experts, hidden, width].
 */
export function stackedExpert(name: string): StoredIn | undefined {
  const pattern = /^(.+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(w[123]|(?:gate|up|down)_proj)\.weight$/;
  const [, layer, index, part] = pattern.exec(name) ?? [];
  if (part === undefined) return undefined;
  const half = halves[part];
  const parameter: ExpertParameter = half === undefined ? "down_proj" : "gate_up_proj";
  return { tensor: `${layer}.mlp.experts.${parameter}`, half, index: Number(index) };
}

/** The symbol for how many tokens one expert gets; its size is the share from an even router. */
const routedRows = (name: string, perToken: number, count: number): string => `routed:${name}@${perToken}/${count}`;
