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
  draw({ rank, inFeatures, outFeatures, isEmbedding }, { kind, zeros, uniform, normal }) {
    const [sizeOfA, sizeOfB] = [rank * inFeatures, outFeatures * rank];
    if (isEmbedding) {
      return { loraA: kind === false ? normal(sizeOfA, 1, 0) : zeros(sizeOfA), loraB: normal(sizeOfB, 1, 1) };
    }
    return {
      // kaiming_uniform_ with a = sqrt(5) has the bound 1/sqrt(columns); a new torch.nn.Linear starts with it.
      loraA: kind === "gaussian" ? normal(sizeOfA, 1 / rank, 0) : uniform(sizeOfA, 1 / Math.sqrt(inFeatures), 0),
      loraB: kind === false ? uniform(sizeOfB, 1 / Math.sqrt(rank), 1) : zeros(sizeOfB),
    };
  },
  update: ({ y, low, scale }, { loraA, loraB }) => add(y, gemm(low(loraA), loraB, { transB: true, alpha: scale })),
} satisfies Method;
