// Generation from a decoder with a cache: left-padded batches, stop texts across token borders, text as it becomes certain.
import { LowrankError } from "../errors.ts";
import type { ImageTensors } from "../models/images.ts";
import { makeStreamDecoder, type StreamDecoder, type Tokenizer } from "../text/tokenizer.ts";
import { nextToken } from "./sample.ts";
import type { Decoder, EndReason, GenerateEvent, GenerateOptions, PromptBatch, Sampling } from "./types.ts";

const DEFAULT_NEW_TOKENS = 256;
/** Every text is searched for every stop text at every token. */
const MAX_STOPS = 64;
const MAX_STOP_LENGTH = 1024;
/** Temperatures and penalties lie between this and its inverse, so that no finite logit overflows float32. */
const MIN_FACTOR = 1e-6;

/** What ends a row before its limit. */
interface Ends {
  eosIds: ReadonlySet<number>;
  /** Stop texts that are special tokens: these never appear in the text. */
  stopIds: ReadonlySet<number>;
  stop: readonly string[];
}

/** A row on its way: what it has so far and where it ends. */
interface Row {
  index: number;
  ids: number[];
  /** Tokens that this row may have. */
  limit: number;
  /** The prompt's tokens and the generated ones, for the repetition penalty. */
  seen: Set<number>;
  stream: StreamDecoder;
  /** Text that may be the beginning of a stop text. */
  pending: string;
  text: string;
  /** Position of the next token in its own sequence. */
  position: number;
  done: boolean;
}

/**
 * Generates a continuation of each prompt in one batch, and yields every token and every row's end as it comes.
 * `imagesOf` gives the images of the batch, whose tokens are among the ids; `adapterWeights` are those of the batch. A string is encoded with the tokenizer's special tokens; ids (of an applied chat template) are used as they are.
 * Default: greedy, 256 tokens, ended by the tokenizer's end tokens. The decoder's cache is released however it ends.
 * Fails with `generate/option` on an option out of range, `generate/prompt` on a prompt that is empty, longer than the
 * model's positions, or has ids outside its vocabulary, and with the signal's reason when it is aborted.
 */
export async function* generate(
  decoder: Decoder,
  tokenizer: Tokenizer,
  prompts: readonly (string | Int32Array)[],
  options: GenerateOptions = {},
  imagesOf: (batch: PromptBatch) => ImageTensors | null = () => null,
  adapterWeights?: Float32Array,
): AsyncGenerator<GenerateEvent, void, undefined> {
  const { sampling, maxNewTokens, stop } = readGenerateOptions(options);
  const { signal, eosIds = tokenizer.eosIds } = options;
  const encoded = prompts.map((prompt) => (typeof prompt === "string" ? tokenizer.encode(prompt) : prompt));
  for (const [row, ids] of encoded.entries()) checkPrompt(ids, row, decoder);
  if (encoded.length === 0) return;

  const rows = encoded.map((ids, index): Row => {
    // The last token generated is never run, so it needs no position.
    const limit = Math.min(maxNewTokens, decoder.maxPositions - ids.length + 1);
    const stream = makeStreamDecoder(tokenizer);
    return { index, ids: [], limit, seen: new Set(ids), stream, pending: "", text: "", position: ids.length, done: false };
  });
  const stopIds = new Set(stop.map((text) => tokenizer.tokenToId(text) ?? -1).filter((id) => tokenizer.specialIds.has(id)));
  const ends: Ends = { eosIds: new Set(eosIds), stopIds, stop };
  // Padding is masked, so any id will do where the tokenizer's has no row in the embedding.
  const padId = tokenizer.padId < decoder.vocabSize ? tokenizer.padId : 0;
  const tokens = new Int32Array(rows.length);
  const positionIds = new Int32Array(rows.length);

  signal?.throwIfAborted();
  try {
    const batch = leftPad(encoded, padId);
    let logits = await decoder.start({ ...batch, images: imagesOf(batch) ?? undefined, adapterWeights });
    for (let step = 0; ; step++) {
      signal?.throwIfAborted();
      // A finished row runs along on padding, at a position that the model has; its logits are not read.
      tokens.fill(padId);
      positionIds.fill(0);
      for (const row of rows) {
        if (row.done) continue;
        const scores = logits.subarray(row.index * decoder.vocabSize, (row.index + 1) * decoder.vocabSize);
        const token = nextToken(scores, row.seen, sampling, { row: row.index, step });
        yield* advance(row, token, ends);
        if (row.done) continue;
        tokens[row.index] = token;
        positionIds[row.index] = row.position++;
      }
      if (rows.every((row) => row.done)) return;
      signal?.throwIfAborted();
      logits = await decoder.step(tokens, positionIds);
    }
  } finally {
    await decoder.end();
  }
}

/** Takes `token` into `row`: the event of the token, and the row's end if this is it. */
function advance(row: Row, token: number, { eosIds, stopIds, stop }: Ends): GenerateEvent[] {
  row.ids.push(token);
  row.seen.add(token);
  const ended = stopIds.has(token) ? "stop" : eosIds.has(token) ? "eos" : undefined;
  const last = ended !== undefined || row.ids.length === row.limit;
  let delta = ended ? "" : row.stream.push(token);
  if (last) delta += row.stream.flush();
  const found = cutAtStop(row.pending + delta, stop);
  const text = last && !found.stopped ? found.text + found.pending : found.text;
  row.pending = found.pending;
  row.text += text;
  row.done = last || found.stopped;
  const event: GenerateEvent = { type: "token", row: row.index, token, text };
  if (!row.done) return [event];
  const reason: EndReason = found.stopped ? "stop" : (ended ?? "length");
  return [event, { type: "done", row: row.index, reason, text: row.text, ids: Int32Array.from(row.ids) }];
}

/**
 * Cuts `text` before the first stop text in it. Without one, `pending` is the longest end of `text` that begins a stop
 * text, and `text` what comes before it.
 */
export function cutAtStop(text: string, stop: readonly string[]): { text: string; pending: string; stopped: boolean } {
  const found = stop.map((each) => text.indexOf(each)).filter((at) => at >= 0);
  if (found.length > 0) return { text: text.slice(0, Math.min(...found)), pending: "", stopped: true };
  let held = 0;
  for (const each of stop) {
    for (let length = Math.min(each.length - 1, text.length); length > held; length--) {
      if (text.endsWith(each.slice(0, length))) held = length;
    }
  }
  const border = text.length - held;
  return { text: text.slice(0, border), pending: text.slice(border), stopped: false };
}

/** Prompts as a rectangle, padded on the left so that all end at the same place. Positions count from each first token. */
export function leftPad(prompts: readonly Int32Array[], padId: number): PromptBatch {
  const rows = prompts.length;
  const width = Math.max(...prompts.map((ids) => ids.length));
  const batch: PromptBatch = {
    rows,
    width,
    ids: new Int32Array(rows * width).fill(padId),
    attentionMask: new Int32Array(rows * width),
    positionIds: new Int32Array(rows * width),
  };
  for (const [row, ids] of prompts.entries()) {
    const first = (row + 1) * width - ids.length;
    batch.ids.set(ids, first);
    batch.attentionMask.fill(1, first, first + ids.length);
    for (let i = 0; i < ids.length; i++) batch.positionIds[first + i] = i;
  }
  return batch;
}

function checkPrompt(ids: Int32Array, row: number, decoder: Decoder): void {
  const fail = (message: string, expected: string, got: string, next: string) => {
    throw new LowrankError("generate/prompt", message, { subject: `prompt ${row}`, expected, got, next });
  };
  if (ids.length === 0) fail("the prompt is empty", "some text", "none", "Give a text (--prompt TEXT), or pipe one in.");
  if (ids.length > decoder.maxPositions) {
    const most = `at most ${decoder.maxPositions} tokens`;
    fail("the prompt is longer than the model's positions", most, `${ids.length} tokens`, "Shorten the prompt.");
  }
  const outside = ids.find((id) => id < 0 || id >= decoder.vocabSize);
  if (outside !== undefined) {
    const range = `ids from 0 to ${decoder.vocabSize - 1}`;
    fail("a token is outside the model's vocabulary", range, String(outside), "Use the tokenizer of the model's own checkpoint.");
  }
}

type Check = { valid: (value: number) => boolean; expected: string; default: number };
const whole = (min: number) => (value: number) => Number.isSafeInteger(value) && value >= min;
const factor = (value: number) => value >= MIN_FACTOR && value <= 1 / MIN_FACTOR;
const numbers: Record<keyof Sampling | "maxNewTokens", Check> = {
  temperature: { valid: (value) => value === 0 || factor(value), expected: "0 (greedy), or from 1e-6 to 1e6", default: 0 },
  topK: { valid: whole(0), expected: "a whole number, 0 to keep all", default: 0 },
  topP: { valid: (value) => value > 0 && value <= 1, expected: "a number above 0 and at most 1", default: 1 },
  repetitionPenalty: { valid: factor, expected: "from 1e-6 to 1e6, 1 for none", default: 1 },
  seed: { valid: Number.isSafeInteger, expected: "a whole number", default: 0 },
  maxNewTokens: { valid: whole(1), expected: "a whole number of at least 1", default: DEFAULT_NEW_TOKENS },
};

/** The options complete and checked: fails with `generate/option` that names the one that cannot be used. */
export function readGenerateOptions(options: GenerateOptions) {
  const fail = (subject: string, expected: string, got: string): never => {
    const next = `Change ${subject} or leave it out.`;
    throw new LowrankError("generate/option", "the option has a value that cannot be used", { subject, expected, got, next });
  };
  const values = {} as Record<keyof typeof numbers, number>;
  for (const [name, { valid, expected, default: fallback }] of Object.entries(numbers) as [keyof typeof numbers, Check][]) {
    values[name] = options[name] ?? fallback;
    if (typeof values[name] !== "number" || !valid(values[name])) fail(name, expected, String(values[name]));
  }
  const { stop = [] } = options;
  if (stop.length > MAX_STOPS) fail("stop", `at most ${MAX_STOPS} texts`, `${stop.length}`);
  const wrong = stop.find(({ length }) => length < 1 || length > MAX_STOP_LENGTH);
  if (wrong !== undefined) fail("stop", `texts of 1 to ${MAX_STOP_LENGTH} characters`, `${wrong.length} characters`);
  const { maxNewTokens, ...sampling } = values;
  return { sampling: sampling satisfies Sampling, maxNewTokens, stop };
}
