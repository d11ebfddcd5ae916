// What a head is: what stands on a backbone, as Transformers' auto classes put it there. index.ts has the table.
import type { Files } from "../../files.ts";
import type { Value } from "../../graph/graph.ts";
import type { BackboneConfig } from "../config/config.ts";
import type { Backbone, ModelInputs } from "../layers/blocks.ts";

export type HeadName = "lm" | "sequence-classifier" | "token-classifier" | "image-classifier" | "embedding" | "contrastive";

/** A classifier's linear layer on a family: its module, and whether it has a bias. */
export interface Classifier {
  path: string;
  bias: boolean;
}

/** The heads of a family; of a classifier its layer. */
export type Heads = Partial<Record<HeadName, Classifier | null>>;

/** How the hidden states of a text become one vector: their mean, the first, or the last token that is not padding. */
export const poolings = ["mean", "cls", "last"] as const;
export type Pooling = (typeof poolings)[number];

/** What a model has on its backbone. */
export interface HeadConfig {
  head: HeadName;
  /** The classes in the order of the logits, where the head is a classifier. */
  labels: readonly string[];
  /** Transformers' `problem_type`: what a classifier's labels are; null if config.json does not say. */
  problemType: string | null;
  /** The classifier's module where the checkpoint has none for these labels, so that training starts a new one; null otherwise. */
  uninitializedHead: string | null;
  /** Of an embedding. */
  pooling: Pooling;
  /** The longest text in tokens, where that is not the number of positions; null if nothing says it. */
  maxTokens: number | null;
  /** Of an embedding: what is put before texts, by name, and which of them where no name is given. */
  prompts: Readonly<Record<string, string>>;
  promptName: string | null;
}

/** What of a head can be asked for. */
export type HeadChoice = Partial<Omit<HeadConfig, "uninitializedHead">>;

/** A model's hyperparameters as the rest of the library reads them. */
export type ModelConfig = BackboneConfig & HeadConfig;

export interface Head {
  /** What a model with it does its work by. */
  use: string;
  /** Transformers' classes that have it, by the end of their names, and the one that a trained model is saved as. */
  classes: RegExp;
  savedAs: string | null;
  /** The class is the backbone itself: module paths lack the family's prefix. */
  isBare?: boolean;
  /** What files beside config.json, or beside an adapter, say of it; null if the folder has none. */
  read?(files: Files, folder: string): Promise<HeadChoice | null>;
  /** Those files, by their paths in the folder. */
  filesOf?(config: HeadConfig & { hiddenSize: number }): Record<string, string>;
  /** What the model computes, by name. `classifier` is the family's layer. */
  outputs(config: ModelConfig, backbone: Backbone, inputs: ModelInputs, classifier: Classifier | null): Record<string, Value>;
}
