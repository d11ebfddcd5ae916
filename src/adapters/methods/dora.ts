// DoRA: the weight's rows keep a trained magnitude, and LoRA moves their direction: m · (W + s·B·A) x / ‖W + s·B·A‖, a norm for each
// output. Liu et al. 2024, as PEFT computes it: the norm is a constant in the backward pass (section 4.3), the bias is added after.
import { z } from "zod";
import { add, detach, div, mul, sqrt, sub } from "../../graph/ops/elementwise.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { reduceSum } from "../../graph/ops/reduction.ts";
import { reshape } from "../../graph/ops/shape.ts";
import type { WeightBlocks } from "../merge.ts";
import type { Method } from "../method.ts";
import { lora } from "./lora.ts";

export const dora = {
  title: "DoRA",
  about: "m · (W + s·B·A) x / ‖W + s·B·A‖, with a trained magnitude m of each output",
  fields: {
    useDora: {
      peftName: "use_dora",
      schema: z.boolean().default(false),
      help: "DoRA: train a magnitude of each output apart from its direction",
    },
  },
  isUsed: ({ useDora }) => useDora === true,
  takesEmbeddings: true,
  tensors: (module, rank) => [
    ...lora.tensors(module, rank),
    { name: "magnitude", key: "lora_magnitude_vector", shape: [module.outFeatures], group: "weight" },
  ],
  draw: lora.draw,
  initial: async (blocks) => ({ magnitude: Float32Array.from(await outputNorms(blocks)) }),
  derived: {
    tensors: ({ outFeatures }) => [{ name: "gain", shape: [outFeatures], off: 1 }],
    replaces: ["magnitude"],
    /** ‖W + s·B·A‖² = ‖W‖² + 2s·(W·Aᵀ ∘ B) + s²·(B·(A·Aᵀ) ∘ B), summed over each row: B·A is never formed. */
    compute({ weight, scale }, { loraA, loraB, magnitude }) {
      const along = gemm(weight, loraA, { transB: true, alpha: 2 * scale }); // [out, rank]
      const within = gemm(loraB, gemm(loraA, loraA, { transB: true }), { alpha: scale * scale }); // [out, rank]
      const update = reduceSum(mul(add(along, within), loraB), [1]); // [out, 1]
      const squares = add(reduceSum(mul(weight, weight), [1]), update);
      return { gain: div(magnitude!, detach(reshape(sqrt(squares), magnitude!.shape))) };
    },
  },
  update({ y, bias, hasDropout, product, low, scale }, { loraA, loraB, gain }) {
    const frozen = product();
    const updated = mul(add(frozen, gemm(low(loraA), loraB, { transB: true, alpha: scale })), gain!);
    // As in PEFT, what dropout takes from the input still passes the frozen layer.
    if (hasDropout) return add(y, sub(updated, frozen));
    return bias ? add(updated, bias) : updated;
  },
  async *merge(blocks, { magnitude }) {
    const norms = await outputNorms(blocks);
    const gains = norms.map((norm, output) => magnitude![output]! / norm);
    let row = 0;
    for await (const block of blocks.read()) {
      for (let i = 0; i < block.length; i++) block[i]! *= gains[outputOf(blocks, row, i)]!;
      row += block.length / blocks.columns;
      yield block;
    }
  },
} satisfies Method;

/** The output that element `i` of a block belongs to whose first row is `row`. */
const outputOf = ({ columns, fanInFanOut }: WeightBlocks, row: number, i: number): number =>
  fanInFanOut ? i % columns : row + Math.floor(i / columns);

/** The norm of what makes each output: of a row of the weight, or of a column where rows are inputs. */
async function outputNorms(blocks: WeightBlocks): Promise<Float64Array> {
  const squares = new Float64Array(blocks.fanInFanOut ? blocks.columns : blocks.rows);
  let row = 0;
  for await (const block of blocks.read()) {
    for (let i = 0; i < block.length; i++) squares[outputOf(blocks, row, i)]! += block[i]! * block[i]!;
    row += block.length / blocks.columns;
  }
  return squares.map(Math.sqrt);
}
