// LoRA: y + s·B(A x). Hu et al. 2021; names, shapes and first values as PEFT 0.21.2 has them.
import { add } from "../../graph/ops/elementwise.ts";
import { gemm } from "../../graph/ops/linear.ts";
import type { Method } from "../method.ts";

export const lora = {
  title: "LoRA",
  about: "W x + s·B(A x)",
  fields: {},
  takesEmbeddings: true,
  tensors: ({ inFeatures, outFeatures, isEmbedding }, rank) => [
    { name: "loraA", key: isEmbedding ? "lora_embedding_A" : "lora_A.weight", shape: [rank, inFeatures], group: "A" },
    {
      name: "loraB",
      key: isEmbedding ? "lora_embedding_B" : "lora_B.weight",
      shape: [outFeatures, rank],
      group: "B",
      scaled: true,
    },
  ],
  draw: (_module, { factors }) => factors,
  update: ({ y, low, scale }, { loraA, loraB }) => add(y, gemm(low(loraA), loraB, { transB: true, alpha: scale })),
} satisfies Method;
