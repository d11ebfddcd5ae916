// A mixture of experts (Shazeer et al. 2017; Fedus et al. 2022): each token's MLP is a weighted sum of a few experts', and an
// expert is computed for the tokens that are routed to it alone. Router and experts are frozen.
import type { Value } from "../../graph/graph.ts";
import { add, div, mul } from "../../graph/ops/elementwise.ts";
import { gatherRows, keepTop, rowsWhere, scatterAddRows } from "../../graph/ops/indexing.ts";
import { weight } from "../../graph/ops/leaves.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { reduceSum, softmax } from "../../graph/ops/reduction.ts";
import { slice } from "../../graph/ops/shape.ts";
import { contradiction } from "../config/config.ts";
import type { StoredIn } from "../family.ts";
import { type ActivationName, activations } from "./activations.ts";

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

/** x [tokens, hidden] → the weighted sum of the chosen experts of each, [tokens, hidden]; `at` is the module of the router and the experts. */
export function mixtureOfExperts(x: Value, at: string, e: Experts): Value {
  const [tokens, hidden] = [x.shape[0]!, Number(x.shape[1])];
  const frozen = (y: Value, path: string, out: number) =>
    gemm(y, weight(`${path}.weight`, [out, Number(y.shape[1])]), { transB: true });
  const { kept, chosen } = keepTop(softmax(frozen(x, `${at}.gate`, e.count)), e.perToken); // [tokens, experts]
  const shares = e.normalise ? div(kept, reduceSum(kept, [1])) : kept;
  const outputs = Array.from({ length: e.count }, (_, i) => {
    const [gatePath, upPath, downPath] = [e.parts.gate, e.parts.up, e.parts.down].map((part) => `${at}.experts.${i}.${part}`);
    const column = (all: Value) => slice(all, 1, i, i + 1); // [tokens, 1]
    const rows = rowsWhere(column(chosen), routedRows(`${gatePath}.weight`, e.perToken, e.count));
    const own = gatherRows(x, rows); // [routed, hidden]
    const gate = activations[e.activation](frozen(own, gatePath!, e.width));
    const y = frozen(mul(gate, frozen(own, upPath!, e.width)), downPath!, hidden);
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
  return { tensor: `${layer}.mlp.experts.${half === undefined ? "down" : "gate_up"}_proj`, half, index: Number(index) };
}

/** The symbol for how many tokens one expert gets; its size is the share from an even router. */
const routedRows = (name: string, perToken: number, count: number): string => `routed:${name}@${perToken}/${count}`;
