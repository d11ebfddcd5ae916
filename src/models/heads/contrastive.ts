// CLIP's head: unit vectors of images and texts, and their scaled cosines.
import type { Value } from "../../graph/graph.ts";
import { exp, mul } from "../../graph/ops/elementwise.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { transpose } from "../../graph/ops/shape.ts";
import { unit } from "./embedding.ts";
import type { Head } from "./head.ts";

/** The scaled cosines of unit vectors [texts, projection] and [images, projection]: [texts, images], and the other way. */
export function contrastiveLogits(textEmbeds: Value, imageEmbeds: Value, scale: Value): Record<string, Value> {
  const logitsPerText = mul(gemm(textEmbeds, imageEmbeds, { transB: true }), scale);
  return { logitsPerImage: transpose(logitsPerText, [1, 0]), logitsPerText };
}

/** imageEmbeds and textEmbeds [batch, projection] of length 1, logitsPerImage and logitsPerText [batch, batch], and what scales them. */
export const contrastive: Head = {
  use: "lowrank classify (with --labels) and lowrank embed",
  classes: /(CLIPModel)$/,
  savedAs: null,
  outputs(_, { towers }) {
    const { image, text, logScale } = towers!;
    const [imageEmbeds, textEmbeds] = [unit(image), unit(text)];
    const logitScale = exp(logScale);
    return { ...contrastiveLogits(textEmbeds, imageEmbeds, logitScale), imageEmbeds, textEmbeds, logitScale };
  },
};
