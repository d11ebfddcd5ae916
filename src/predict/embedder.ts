// Unit vectors of texts and images, whose products are their cosines: CLIP's two towers, each opened when it is first asked.
import type { AnyBase } from "../models/base.ts";
import { imageRunner, textRunner } from "./inputs.ts";
import { rowsOf, type Vectors } from "./similarity.ts";
import { openTaskModel } from "./task-model.ts";
import { taskBase } from "./tasks.ts";
import type { Embedder, PredictorOptions } from "./types.ts";

/** Opens a model that compares images and texts. Fails with `predict/task` for another, and as `openTaskModel` does. */
export async function openEmbedder(base: AnyBase, options: PredictorOptions): Promise<Embedder> {
  const opened = taskBase(base, "embed");
  const model = await openTaskModel(opened, options);
  const texts = textRunner(opened, model);
  const images = imageRunner(opened, model, options);
  return {
    embedTexts: async (given) => rowsIn(await texts("textEmbeds", given)),
    embedImages: async (given) => rowsIn(await images("imageEmbeds", given)),
    useAdapter: (adapter) => model.useAdapter(adapter),
    close: () => model.close(),
  };
}

const rowsIn = (all: Vectors): Float32Array[] =>
  Array.from({ length: rowsOf(all) }, (_, row) => all.data.slice(row * all.width, (row + 1) * all.width));
