// Activated LoRA: LoRA from the last invocation in a sequence on, the base alone before it. Greenewald et al. 2025, as PEFT 0.21.2's
// ALoraLinearVariant computes it.
import { z } from "zod";
import type { Method } from "../method.ts";
import { lora } from "./lora.ts";

const MAX_INVOCATION_TOKENS = 1024;

export const alora = {
  title: "aLoRA",
  about: "W x + s·B(A x) from the last invocation in a sequence on, W x before it",
  fields: {
    aloraInvocationTokens: {
      peftName: "alora_invocation_tokens",
      schema: z.array(z.int().min(0)).min(1).max(MAX_INVOCATION_TOKENS).nullable().default(null),
      help: "aLoRA: ids of the tokens from which on the adapter acts",
      value: "ID,ID,…",
      commas: true,
      text: {
        name: "invocation" as const,
        help: "aLoRA: the adapter acts from the last place of this text in an example on; what is before it is the base's",
      },
    },
  },
  isUsed: ({ aloraInvocationTokens }) => Boolean(aloraInvocationTokens),
  takesEmbeddings: false,
  taskType: "CAUSAL_LM",
  tensors: lora.tensors,
  draw: lora.draw,
  update: lora.update,
  /** 1 from the first token of the last invocation in a row, or in a segment of a packed one, to its end; 0 without an invocation. */
  gate({ aloraInvocationTokens: tokens }, { inputIds, segmentIds }) {
    const ids = inputIds!.data as Int32Array;
    const gate = new Int32Array(ids.length);
    const invocation = tokens as number[];
    const startOf = (from: number, to: number): number => {
      for (let at = to - invocation.length; at >= from; at--) if (invocation.every((id, i) => ids[at + i] === id)) return at;
      return to;
    };
    const segmentOf = (at: number) => segmentIds?.data[at] ?? 0;
    for (let from = 0, at = 1; at <= ids.length; at++) {
      const isInside = at < ids.length && at % inputIds!.shape[1]! !== 0 && segmentOf(at) === segmentOf(from);
      if (isInside) continue;
      gate.fill(1, startOf(from, at), at);
      from = at;
    }
    return gate;
  },
  noMerge: "it acts on a part of each text only",
} satisfies Method;
