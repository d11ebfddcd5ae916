// CLIP's head: unit vectors of images and texts, and their scaled cosines.
import { exp, mul } from "../../graph/ops/elementwise.ts";
import { gemm } from "../../graph/ops/linear.ts";
import { transpose } from "../../graph/ops/shape.ts";
import { unit } from "./embedding.ts";
import type { Head } from "./head.ts";

/** imageEmbeds and textEmbeds [batch, projection] of length 1, logitsPerImage and logitsPerText [batch, batch]. */
export const contrastive: Head = {
  use: "lowrank classify (with --labels) and lowrank embed",
  classes: /(CLIPModel)$/,
  savedAs: null,
  outputs(_, { towers }) {
    const { image, text, logScale } = towers!;
    const [imageEmbeds, textEmbeds] = [unit(image), unit(text)];
    const logitsPerText = mul(gemm(textEmbeds, imageEmbeds, { transB: true }), exp(logScale)); // [texts, images]
    return { logitsPerImage: transpose(logitsPerText, [1, 0]), logitsPerText, imageEmbeds, textEmbeds };
  },
};
