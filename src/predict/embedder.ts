// Unit vectors of texts and images, whose products are their cosines; each kind of output is opened when it is first asked for.
import { LowrankError } from "../errors.ts";
import type { AnyBase } from "../models/base.ts";
import { taskOf } from "../tasks/index.ts";
import { baseForUse } from "./choose.ts";
import { imageRunner, textRunner } from "./inputs.ts";
import { openTaskModel } from "./task-model.ts";
import type { Embedder, PredictorOptions } from "./types.ts";

/** Opens a model whose vectors can be compared. Fails with `predict/task` for another, and as `openTaskModel` does. */
export async function openEmbedder(base: AnyBase, options: PredictorOptions): Promise<Embedder> {
  const { name, base: headed } = baseForUse(base, "embed", options);
  const outputs = taskOf(name).prediction.embed!;
  const model = await openTaskModel(headed, options);
  const [texts, images] = [textRunner(headed, model), imageRunner(headed, model, options)];
  const output = (kind: "text" | "image"): string => {
    const found = outputs[kind];
    if (found !== undefined) return found;
    throw new LowrankError("predict/input", `the model reads no ${kind}s`, {
      subject: headed.checkpoint.folder,
      expected: `${Object.keys(outputs).join(" or ")}s`,
      got: `${kind}s`,
      next: "Give it what it reads, or use another model.",
    });
  };
  return {
    embedTexts: async (given) => (given.length === 0 ? [] : copies(await texts(output("text"), given))),
    embedImages: async (given) => (given.length === 0 ? [] : copies(await images(output("image"), given))),
    useAdapter: (adapter) => model.useAdapter(adapter),
    close: () => model.close(),
  };
}

const copies = ({ rows }: { rows: Float32Array[] }): Float32Array[] => rows.map((row) => row.slice());
