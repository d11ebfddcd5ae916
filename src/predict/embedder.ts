// Unit vectors of texts and images, whose products are their cosines; each kind of output is opened when it is first asked for.
import { LowrankError } from "../errors.ts";
import type { AnyBase } from "../models/base.ts";
import type { ModelConfig } from "../models/registry.ts";
import { notFinite } from "../tasks/common/measures.ts";
import { taskOf } from "../tasks/index.ts";
import { imageRunner, textRunner } from "./inputs.ts";
import { baseForUse, openTaskModel } from "./task-model.ts";
import type { Embedder, PredictorOptions } from "./types.ts";

/** Opens a model whose vectors can be compared. Fails with `predict/task` for another, and as `openTaskModel` does. */
export async function openEmbedder(base: AnyBase, options: PredictorOptions): Promise<Embedder> {
  const { name, base: headed } = baseForUse(base, "embed", options);
  const outputs = taskOf(name).prediction.embed!;
  const choice = options.pooling && { pooling: options.pooling };
  const model = await openTaskModel(headed, { ...options, choice });
  const prompted = (text: string) => promptOf(model.config(), options.promptName, headed.checkpoint.folder) + text;
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
    embedTexts: async (given) => (given.length === 0 ? [] : copies(await texts(output("text"), given.map(prompted)), "texts")),
    embedImages: async (given) => (given.length === 0 ? [] : copies(await images(output("image"), given), "images")),
    useAdapter: (adapter) => model.useAdapter(adapter),
    close: () => model.close(),
  };
}

/** What is put before a text: the prompt of this name, or the model's own choice. */
function promptOf({ prompts, promptName }: ModelConfig, name: string | undefined, subject: string): string {
  const wanted = name ?? promptName;
  if (wanted === null) return "";
  if (Object.hasOwn(prompts, wanted)) return prompts[wanted]!;
  throw new LowrankError("predict/option", "the model has no such prompt", {
    subject: `promptName of ${subject}`,
    expected: Object.keys(prompts).join(", ") || "none: the model has no prompts",
    got: wanted,
    next: "Choose one of them, or leave it out.",
  });
}

/** Copies of the vectors. Fails with `predict/not-finite`. */
function copies({ rows }: { rows: Float32Array[] }, of: string): Float32Array[] {
  for (const [i, row] of rows.entries()) {
    const wrong = row.find((value) => !Number.isFinite(value));
    if (wrong !== undefined) throw notFinite("vectors are", String(wrong), `${of}, row ${i + 1}`);
  }
  return rows.map((row) => row.slice());
}
