// LoRA whose B has a bias, scaled like the product: y + s·(B(A x) + b). PEFT's `lora_bias`, for linear layers alone.
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import { add, mul } from "../../graph/ops/elementwise.ts";
import { scalar } from "../../graph/ops/leaves.ts";
import type { Method } from "../method.ts";
import { lora } from "./lora.ts";

export const loraBias = {
  title: "LoRA with a bias of B",
  about: "W x + s·(B(A x) + b)",
  fields: {
    loraBias: { peftName: "lora_bias", schema: z.boolean().default(false), help: "train a bias of B" },
  },
  isUsed: (fields) => fields["loraBias"] === true,
  takesEmbeddings: false,
  tensors: (module, rank) => [
    ...lora.tensors(module, rank),
    { name: "bias", key: "lora_B.bias", shape: [module.outFeatures], group: "B", scaled: true },
  ],
  draw(module, how) {
    if (typeof how.kind === "boolean") return { ...lora.draw(module, how), bias: how.zeros(module.outFeatures) };
    throw new LowrankError("lora/unsupported", "A bias of B can't begin by this initialisation, in PEFT neither.", {
      subject: "initLoraWeights",
      expected: "true or false",
      got: how.kind,
      next: "Leave initLoraWeights (--init) or loraBias out.",
    });
  },
  update(layer, tensors) {
    const bias = tensors["bias"]!;
    return add(lora.update(layer, tensors), mul(bias, scalar(layer.scale, bias)));
  },
  mergeBias: ({ bias }) => bias!,
} satisfies Method;
