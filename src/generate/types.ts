// The border between generation and the network: a decoder with a cache, and the events of a generation.
import type { ImageTensors } from "../models/images.ts";

/** A rectangle of prompts, padded on the left. All arrays are row-major [rows, width]. */
export interface PromptBatch {
  rows: number;
  width: number;
  ids: Int32Array;
  /** 0 for padding, 1 for tokens. */
  attentionMask: Int32Array;
  /** Position of each token in its own prompt; 0 for padding. */
  positionIds: Int32Array;
  /** The images of a model that reads them, as its processor makes them; their tokens are among `ids`. */
  images?: ImageTensors;
  /** How much each of several adapters counts in each row, [rows, adapters]; 1 where absent. */
  adapterWeights?: Float32Array;
}

/** A network seen from generation. It keeps keys and values between `start` and `end`; calls do not overlap. */
export interface Decoder {
  readonly vocabSize: number;
  /** Positions are below this. */
  readonly maxPositions: number;
  /** Runs the prompts; the logits of each row's last position: [rows, vocabSize]. */
  start(prompts: PromptBatch): Promise<Float32Array>;
  /**
   * Appends one token to each row at the position given: [rows] each. The logits that follow: [rows, vocabSize].
   * A finished row is given padding at position 0, and its logits are not read.
   */
  step(tokens: Int32Array, positionIds: Int32Array): Promise<Float32Array>;
  /** Lets go of the cache, or keeps it for a prompt that begins the same. Called once after `start`, whether generation ended, failed or was aborted. */
  end(): Promise<void>;
}

/** How the next token is chosen. */
export interface Sampling {
  /** Divides the logits; 0 is greedy: the largest one, whatever topK and topP say. */
  temperature: number;
  /** Keeps the k largest logits (and those equal to the k-th); 0 keeps all. */
  topK: number;
  /** Keeps the most probable tokens until their mass reaches this; 1 keeps all. */
  topP: number;
  /** Divides positive and multiplies negative logits of every token in the prompt or generated so far; 1 changes none. */
  repetitionPenalty: number;
  /** The same seed gives the same tokens. */
  seed: number;
}

export interface GenerateOptions extends Partial<Sampling> {
  /** Tokens at most to generate for each prompt, the end token included. Default 256. */
  maxNewTokens?: number;
  /** Texts that end a row; the row's text ends before them. */
  stop?: readonly string[];
  /** Tokens that end a row. Default: the tokenizer's. */
  eosIds?: readonly number[];
  /**
   * How much each adapter of `useAdapters` counts, by its name: for all prompts, or a list with those of each. One that is not named
   * counts 0; without this each counts 1.
   */
  adapterWeights?: AdapterWeights | readonly AdapterWeights[];
  /** Aborting makes the iteration throw the signal's reason before the next step. */
  signal?: AbortSignal;
}

export type AdapterWeights = Readonly<Record<string, number | undefined>>;

/** `eos`: an end token came. `stop`: a stop text came. `length`: maxNewTokens or the model's positions are used up. */
export type EndReason = "eos" | "stop" | "length";

export type GenerateEvent =
  /** One token of one row. `text` is what may be shown now: empty while a character or a stop text may be incomplete. */
  | { type: "token"; row: number; token: number; text: string }
  /** A row's end. `text` is the concatenation of its deltas; `ids` are all its tokens, those of the end or stop included. */
  | { type: "done"; row: number; reason: EndReason; text: string; ids: Int32Array };
