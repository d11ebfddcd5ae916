// Direct preference optimization (Rafailov et al. 2023), with label smoothing (Mitchell 2023), and IPO (Azar et al. 2023), as in TRL.
import { z } from "zod";
import { LowrankError, valueText } from "../../errors.ts";
import type { Graph, Value } from "../../graph/graph.ts";
import { add, div, mul, neg, sub } from "../../graph/ops/elementwise.ts";
import { gatherRows, scatterAddRows } from "../../graph/ops/indexing.ts";
import { input, scalar } from "../../graph/ops/leaves.ts";
import { sumOf } from "../../graph/ops/reduction.ts";
import { broadcastTo, reshape } from "../../graph/ops/shape.ts";
import type { DecoderConfig } from "../../models/config/config.ts";
import type { ModelConfig } from "../../models/registry.ts";
import { option } from "../../options.ts";
import { logSigmoid, tokenLosses } from "../common/losses.ts";
import type { BatchShape, TaskOptions } from "../task.ts";

export const lossOptions = {
  beta: option(z.number().positive().optional(), {
    value: "X",
    help: "preferences: how strongly the model is held to the reference (0.1)",
  }),
  preferenceLoss: option(z.enum(["sigmoid", "ipo"]).optional(), {
    help: "preferences: DPO's loss, or IPO's (sigmoid)",
  }),
  labelSmoothing: option(z.number().min(0).max(0.5).optional(), {
    value: "P",
    help: "preferences: label smoothing, the probability that a pair is swapped; for the sigmoid loss (0)",
  }),
};

/** The options of the loss, with their defaults. Throws `train/option` for what is out of range or does not go together. */
export function lossSettings(given: TaskOptions) {
  const parsed = z.object(lossOptions).safeParse(given);
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!;
    const name = path.map(String).join(".");
    throw refused(name, "preferences cannot be trained with this value", message, valueText(given[name]));
  }
  const { beta = 0.1, preferenceLoss = "sigmoid", labelSmoothing = 0 } = parsed.data;
  if (preferenceLoss === "ipo" && labelSmoothing > 0)
    throw refused("labelSmoothing", "the IPO loss has no label smoothing", 'the loss "sigmoid", or 0', String(labelSmoothing));
  return { beta, preferenceLoss, labelSmoothing };
}

const refused = (subject: string, message: string, expected: string, got: string): LowrankError =>
  new LowrankError("train/option", message, { subject, expected, got, next: `Change ${subject}, or leave it out.` });

/**
 * Σ of the pairs' losses. Rows are texts, those with chosen answers first; beside what `tokenLosses` reads: int32 `lossTexts` [targets], the
 * row of each target; of each row int32 `otherAnswer` [batch], the row of its pair's other answer, `side` [batch], 1 for chosen and -1
 * for rejected answers, and `referenceLogps` [batch]. Beside the loss come `logps` [batch], Σ log p of each answer's tokens, and
 * `rewards` [batch], β times what they are above the reference's.
 */
export function preferenceLoss(config: ModelConfig, shape: BatchShape, options: TaskOptions): Graph {
  const { beta, preferenceLoss: kind, labelSmoothing } = lossSettings(options);
  const losses = tokenLosses(config as unknown as DecoderConfig, shape); // [targets]
  const lossTexts = input("lossTexts", "int32", ["targets"]);
  const perText = (each: Value): Value => scatterAddRows(reshape(each, ["targets", 1]), lossTexts, "batch"); // [batch, 1]
  const column = (name: string): Value => reshape(input(name, "float32", ["batch"]), ["batch", 1]);
  const logps = neg(perText(losses));
  const ratio = sub(logps, column("referenceLogps")); // log π(y|x) - log π_ref(y|x)

  // Both rows of a pair have its difference, chosen minus rejected, and half of its loss.
  const otherAnswer = input("otherAnswer", "int32", ["batch"]);
  const difference = (of: Value): Value => mul(sub(of, gatherRows(of, otherAnswer)), column("side"));
  const number = (value: number): Value => scalar(value, logps);
  const sigmoid = (): Value => {
    const h = mul(difference(ratio), number(beta));
    const kept = mul(logSigmoid(h), number(1 - labelSmoothing));
    return neg(labelSmoothing === 0 ? kept : add(kept, mul(logSigmoid(neg(h)), number(labelSmoothing))));
  };
  const ipo = (): Value => {
    const tokens = perText(broadcastTo(number(1), ["targets"]));
    const off = sub(difference(div(ratio, tokens)), number(1 / (2 * beta)));
    return mul(off, off);
  };
  const loss = mul(sumOf(kind === "ipo" ? ipo() : sigmoid()), number(0.5));
  const flat = (x: Value): Value => reshape(x, ["batch"]);
  return { outputs: { loss, logps: flat(logps), rewards: flat(mul(ratio, number(beta))) } };
}
