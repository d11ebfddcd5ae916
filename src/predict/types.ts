// What predictions take and give.

import type { Adapter } from "../adapters/peft-files.ts";
import type { RgbImage } from "../images/image.ts";
import type { Pooling } from "../models/heads/head.ts";
import type { Platform } from "../platform/platform.ts";
import type { TaskName } from "../tasks/index.ts";
import type { Classification } from "../tasks/task.ts";
import type { EncodedPair } from "../text/pairs.ts";
import type { TaskModelOptions } from "./task-model.ts";

/** A text, or a text with a second one beside it. */
export type TextInput = string | { text: string; textPair?: string };
/** The path of an image file, or an image in memory. */
export type ImageInput = string | RgbImage;
/** What the model reads: a text, a text with a second one, the path of an image, or an image in memory. */
export type ClassifierInput = TextInput | ImageInput;

/** What is chosen of a model of sentence embeddings. */
export interface EmbedOptions {
  /** How the states of tokens become a vector; as the adapter or the base says if absent. */
  pooling?: Pooling;
  /** The name of the prompt that is put before texts; the base's own choice if absent. */
  promptName?: string;
}

export interface PredictorOptions extends TaskModelOptions, EmbedOptions, Pick<Platform, "decodeImage"> {
  /** What the model is used for; by its config, or its adapter, if absent. */
  task?: TaskName;
}

export type { Classification, LabelledSpan, LabelScore } from "../tasks/task.ts";

export interface ClassifyOptions {
  /** How many of the likeliest classes are given; all if absent. */
  top?: number;
  /** The classes to choose from, for a model that compares images and texts; other models have their own. */
  labels?: readonly string[];
  /** What makes a text of a label: "{}" stands for it. Of several the mean counts. "a photo of a {}" if absent. */
  template?: string | readonly string[];
}

/** A predictor holds sessions; close it to free the weights. */
interface Predictor {
  /** Attaches another adapter, or none. Fails if it does not fit the base; the adapter before stays then. */
  useAdapter(adapter: Adapter | null): Promise<void>;
  close(): Promise<void>;
}

export interface Classifier extends Predictor {
  readonly task: TaskName;
  /** What it reads. */
  readonly reads: "text" | "image";
  /** The model's classes, or those of the adapter that is attached; empty where each call brings its own. */
  labels(): readonly string[];
  /**
   * The classes of each input, in the order of the inputs. Files are read a few at a time; what is asked while another question is
   * at work waits for its turn. Fails with `predict/*`, `image/*` and `tokenizer/*` that name the input.
   */
  classify(inputs: readonly ClassifierInput[], options?: ClassifyOptions): Promise<Classification[]>;
}

export interface Embedder extends Predictor {
  /** A unit vector for each text, in their order. A text that is longer than the model reads loses its end. */
  embedTexts(texts: readonly string[]): Promise<Float32Array[]>;
  /** A unit vector for each image (a path, or an image in memory), in their order. Files are read a few at a time. */
  embedImages(images: readonly ImageInput[]): Promise<Float32Array[]>;
}

/** A model's outputs for texts or images: those of each, and whether a text was truncated to the model's positions. */
export interface Outputs {
  rows: Float32Array[];
  cut: boolean[];
  /** The texts as the model read them. */
  encoded?: EncodedPair[];
}

/** How a kind of model classifies: logits of each input, one for each of `labels`. */
export interface Scorer {
  score(inputs: readonly ClassifierInput[], options: ClassifyOptions): Promise<Outputs & { labels: readonly string[] }>;
  /** Drops what was kept: the model has changed. */
  forget?(): void;
  close?(): Promise<void>;
}
