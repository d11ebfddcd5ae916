// A module of a base model as adapters see it: its path, its kind, its sizes; and a graph's weights. Names follow Transformers' classes.
import { type Graph, nodesOf } from "../graph/graph.ts";

/** A module of the base model that carries a weight, as the model's forward pass names it. */
export interface ModuleInfo {
  /** Path in the Transformers model class, such as `model.layers.0.self_attn.q_proj`. */
  path: string;
  /**
   * `conv1d` is GPT-2's linear layer with its weight stored as [in, out]; `conv2d` a convolution whose step is its kernel, a linear layer of
   * all that its kernel reads; `experts` a parameter with a linear layer for each expert, whose path is the parameter's; `other` is none that
   * takes factors, such as a norm, or a parameter that belongs to no module (`isParameter`), whose path is its name.
   */
  kind: "linear" | "conv1d" | "conv2d" | "embedding" | "experts" | "other";
  inFeatures: number;
  outFeatures: number;
  /** What a convolution reads, [channels, height, width]. */
  kernel?: readonly number[];
  /** Number of experts of a parameter, and the weights that it stands for. */
  experts?: number;
  parts?: ExpertPart[];
  /** The name of its weight, where that is not `<path>.weight`; an output layer's is, even if it reads the embedding's. */
  weight?: string;
  /** It is no linear layer in Transformers' model: only `target_parameters` finds it. */
  isParameter?: true;
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

/** A weight of one expert: all rows of what a parameter has of it, or one half of them. */
export interface ExpertPart {
  weight: string;
  expert: number;
  half?: 0 | 1;
}

/** The weights of a graph, in the order it reads them. */
export const weightsIn = (graph: Graph): { name: string; shape: readonly number[] }[] =>
  nodesOf(graph).flatMap(({ op, attributes }) =>
    op === "weight" ? [{ name: String(attributes["name"]), shape: attributes["shape"] as readonly number[] }] : [],
  );
