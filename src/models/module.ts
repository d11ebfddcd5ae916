// A module of a base model as adapters see it: its path, its kind, its sizes; and a graph's weights. Names follow Transformers' classes.
import { type Graph, nodesOf } from "../graph/graph.ts";

/** A module of the base model that carries a weight, as the model's forward pass names it. */
export interface ModuleInfo {
  /** Path in the Transformers model class, such as `model.layers.0.self_attn.q_proj`. */
  path: string;
  /** `conv1d` is GPT-2's linear layer with its weight stored as [in, out]; `other` is none that takes factors, such as a norm. */
  kind: "linear" | "conv1d" | "embedding" | "other";
  inFeatures: number;
  outFeatures: number;
  /** The layer that makes the logits (`get_output_embeddings()`). */
  isOutputEmbedding?: boolean;
  /** The linear layer named `score` or `classifier` at the root of a classification model. */
  isClassifierHead?: boolean;
  /** Whether it has a bias, of `outFeatures` elements. */
  hasBias?: boolean;
  /** The shape of its weight, where that is no matrix of the two sizes. */
  shape?: readonly number[];
  /** The weight of another module that it reads as its own. */
  tiedTo?: string;
  /** What older releases of Transformers call the module, where they call it otherwise; the newest first. */
  olderPaths?: string[];
}

/** The weights of a graph, in the order it reads them. */
export const weightsIn = (graph: Graph): { name: string; shape: readonly number[] }[] =>
  nodesOf(graph).flatMap(({ op, attributes }) =>
    op === "weight" ? [{ name: String(attributes["name"]), shape: attributes["shape"] as readonly number[] }] : [],
  );
