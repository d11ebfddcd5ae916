// The language-modelling head: logits of the next token.
import type { Value } from "../../graph/graph.ts";
import { linear } from "../../graph/ops/linear.ts";
import { capLogits } from "../../graph/ops/output-layer.ts";
import { concat } from "../../graph/ops/shape.ts";
import type { OutputLayer } from "../layers/blocks.ts";
import type { Head } from "./head.ts";

/** Logits [batch*seq, vocab], and the hidden states that they are made of. */
export const lm: Head = {
  use: "lowrank generate, or openGenerator",
  classes: /(ForCausalLM|LMHeadModel|ForConditionalGeneration|ForVisionText2Text|ForVision2Seq)$/,
  savedAs: null,
  outputs: (_, { hidden, output }) => ({ hidden: hidden!, logits: logitsOf(hidden!, output!) }),
};

/** The logits of hidden states [n, hidden]: [n, vocab]. */
export function logitsOf(hidden: Value, { weight, path, softcap, added }: OutputLayer): Value {
  const first = linear(hidden, weight, path);
  const logits = added ? concat([first, linear(hidden, added.weight, added.path)], 1) : first;
  return softcap ? capLogits(logits, softcap) : logits;
}
