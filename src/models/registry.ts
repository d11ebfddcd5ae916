// model_type → forward pass. A new family is a file in this folder, a row in config.ts and a line here.
import type { Graph } from "../graph/graph.ts";
import { nodesOf } from "../graph/graph.ts";
import { linear } from "../graph/ops/linear.ts";
import type { ModuleInfo } from "../lora/match.ts";
import { type Decoder, decoderInputs } from "./blocks.ts";
import type { DecoderConfig, ModelType } from "./config.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3 } from "./qwen3.ts";

export const decoders: Record<ModelType, Decoder> = { llama, mistral, qwen2, qwen3 };

/** inputs → logits [batch*seq, vocab], and the hidden states before the output layer. Needs no weights. */
export function forwardGraph(config: DecoderConfig, attentionBlocks = 1): Graph {
  const { hidden, head } = decoders[config.modelType](config, { ...decoderInputs(), attentionBlocks });
  return { outputs: { hidden, logits: linear(hidden, head.weight, head.path) } };
}

/** The modules with a weight matrix that a graph runs, in the order it runs them. */
export function modulesOf(graph: Graph): ModuleInfo[] {
  const modules = new Map<string, ModuleInfo>();
  for (const { op, inputs, attributes } of nodesOf(graph)) {
    if (op !== "linear" && op !== "embedding") continue;
    const path = String(attributes["path"]);
    const [rows, columns] = inputs[1]!.shape as [number, number];
    modules.set(
      path,
      op === "linear"
        ? { path, kind: "linear", inFeatures: columns, outFeatures: rows, isOutputEmbedding: path === "lm_head" }
        : { path, kind: "embedding", inFeatures: rows, outFeatures: columns },
    );
  }
  return [...modules.values()];
}

/** Number of parameters of the base model, from its config alone. */
export function countParameters(graph: Graph): number {
  let total = 0;
  for (const { op, attributes } of nodesOf(graph)) {
    if (op === "weight") total += (attributes["shape"] as number[]).reduce((a, b) => a * b, 1);
  }
  return total;
}
