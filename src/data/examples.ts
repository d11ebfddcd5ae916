// Records to tokens and targets: prompt/completion, conversations, plain text. Appending EOS follows TRL's SFTTrainer.
import { LowrankError } from "../errors.ts";
import { encodeWithImages } from "../multimodal/expand.ts";
import { MAX_TEXT_MS } from "../text/limit.ts";
import { encodeSpans, renderWithMask } from "../text/mask.ts";
import { textOf } from "../text/parts.ts";
import { type ChatMessage, type ChatTemplate, renderChat } from "../text/template.ts";
import { specialPrefix, type Tokenizer } from "../text/tokenizer.ts";
import type { Span } from "../text/turns.ts";
import { type RecordKey, recordKey } from "./duplicates.ts";
import type { RecordImages } from "./record-images.ts";
import type { DataRecord, MessagesRecord, NumberedRecord, PromptRecord, TextRecord } from "./records.ts";
import { type Example, IGNORE } from "./types.ts";

/**
 * "completion": completions and assistant turns. "last": completions, and of a conversation the last assistant turn.
 * "all": every token. Of a {text}, every token is one in any case.
 */
export const trainOnChoices = ["completion", "last", "all"] as const;
export type TrainOn = (typeof trainOnChoices)[number];

export interface ExampleOptions {
  /** Longer examples lose tokens on the right. */
  maxLength: number;
  /** What the targets are. Default "completion". */
  trainOn?: TrainOn;
  /** The chat template for {messages}. Default: the tokenizer's own. */
  template?: ChatTemplate;
  /** The date that chat templates see. Default: the present. */
  now?: Date;
  /** What the records come from, for messages: a path. */
  source?: string;
  /** How the images of records stand in their texts, where the base reads any. */
  images?: RecordImages;
}

/** A record, and the example it becomes. */
export interface MadeExample<R = object> extends NumberedRecord<R> {
  /** Before it is truncated to the maximum length, unless `isCut` says whether it was. */
  whole: Example;
  isCut?: boolean;
  key: RecordKey;
  /** Whether nothing but that the text ends is learnt from it. */
  isEmpty?: boolean;
  /** Tokens up to the last one of an image: an example that is cut before is left out. */
  imagesEnd?: number;
}

/**
 * Tokenizes records one by one. The first token of an example is never a target, since nothing comes before it.
 * - {prompt, completion}: the prompt with the tokenizer's special tokens in front, then the completion, then EOS unless
 *   the completion ends with a token that stops generation. The prompt's ids are those that generation starts from.
 * - {messages}: the chat template's rendering; the targets are the assistant's turns with their end-of-turn tokens.
 * - {text}: the text with special tokens in front and EOS at the end, all of it targets.
 * Tokens of images are no targets.
 * @throws LowrankError `data/no-template`, or what a record's template throws, with its place.
 */
export async function* eachExample(
  records: AsyncIterable<NumberedRecord> | Iterable<NumberedRecord>,
  tokenizer: Tokenizer,
  options: Omit<ExampleOptions, "maxLength">,
): AsyncGenerator<MadeExample<DataRecord>, void, void> {
  const { source = "the dataset" } = options;
  for await (const group of groups(records)) {
    const made: Example[] = [];
    const start = performance.now();
    let begun = start;
    let tooSlow: LowrankError | undefined;
    try {
      tokenizer.limited(() => {
        for (const one of group) {
          begun = performance.now();
          made.push(makeExample(one, tokenizer, options));
        }
      });
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
      // A record that took most of the time has had its share of it. Others are tried again, alone.
      const [all, own] = [performance.now() - start, performance.now() - begun];
      if (error.code.endsWith("/slow") && own > MOST_OF_THE_TIME * all) tooSlow = error;
    }
    for (const [i, one] of group.entries()) {
      const alone = () => {
        if (tooSlow && i === made.length) throw tooSlow;
        return tokenizer.limited(() => makeExample(one, tokenizer, options));
      };
      const whole = made[i] ?? atPlace(source, one.place, alone);
      const imagesEnd = whole.images && whole.ids.lastIndexOf(options.images!.text.id) + 1;
      const { record, place } = one;
      const isEmpty = "completion" in record && record.completion.trim() === "";
      yield { record, place, whole, key: recordKey(record), isEmpty, ...(imagesEnd !== undefined && { imagesEnd }) };
    }
  }
}

/**
 * Records that are watched together: to watch one costs a thread, as much time as to tokenize a short text. They are few
 * enough for the time of one.
 */
const RECORDS_AT_ONCE = 64;
const CHARS_AT_ONCE = 1 << 15;
const MOST_OF_THE_TIME = 0.75;

async function* groups(records: AsyncIterable<NumberedRecord> | Iterable<NumberedRecord>): AsyncGenerator<NumberedRecord[]> {
  let group: NumberedRecord[] = [];
  let chars = 0;
  try {
    for await (const one of records) {
      group.push(one);
      chars += charsOf(one.record);
      if (group.length < RECORDS_AT_ONCE && chars < CHARS_AT_ONCE) continue;
      yield group;
      [group, chars] = [[], 0];
    }
  } catch (error) {
    // The error of an earlier record comes first.
    yield group;
    throw error;
  }
  yield group;
}

function charsOf(record: DataRecord): number {
  if ("text" in record) return record.text.length;
  if ("messages" in record) return record.messages.reduce((sum, { content }) => sum + textOf(content).length, 0);
  return 2 * record.prompt.length + record.completion.length;
}

function makeExample(
  { record, images: numbers = [] }: NumberedRecord,
  tokenizer: Tokenizer,
  { trainOn = "completion", template = tokenizer.template, now, images }: Omit<ExampleOptions, "maxLength">,
): Example {
  if ("messages" in record) {
    const { text, spans } = rendered(record, tokenizer, template, now, trainOn);
    return images ? illustratedExample(tokenizer, images, text, spans, numbers) : encodedExample(tokenizer, text, spans);
  }
  if (numbers.length > 0 || (images?.text.token && textsOf(record).includes(images.text.token))) {
    const { text, spans } = spansOf(record, trainOn);
    return illustratedExample(tokenizer, images!, text, spans, numbers, true);
  }
  if ("text" in record)
    return withLabels(withEos([...specialPrefix(tokenizer), ...encode(tokenizer, record.text)], tokenizer), 0);
  const { prompt, ids } = fromPrompt(record, tokenizer);
  return withLabels(ids, trainOn === "all" ? 0 : prompt);
}

const textsOf = (record: PromptRecord | TextRecord): string =>
  "text" in record ? record.text : record.prompt + record.completion;

/** A record's text, and what of it is learnt. */
function spansOf(record: PromptRecord | TextRecord, trainOn: TrainOn): { text: string; spans: Span[] } {
  const text = textsOf(record);
  return { text, spans: [["text" in record || trainOn === "all" ? 0 : record.prompt.length, text.length]] };
}

/** A text with images; what ends a text is learnt behind it with `ends`. */
function illustratedExample(
  tokenizer: Tokenizer,
  { text: images, store }: RecordImages,
  text: string,
  spans: readonly Span[],
  numbers: readonly number[],
  ends = false,
): Example {
  const { ids, inside } = encodeWithImages(tokenizer, images, text, spans, numbers.map(store.gridOf));
  const whole = ends ? withEos([...ids], tokenizer) : ids;
  const isTarget = (i: number) => i > 0 && (inside[i] === 1 || i >= ids.length);
  return {
    ids: Int32Array.from(whole),
    labels: Int32Array.from(whole, (id, i) => (isTarget(i) ? id : IGNORE)),
    ...(numbers.length > 0 && { images: numbers }),
  };
}

/**
 * Where the prompt's ids begin the ids of both texts together, those are used; otherwise (a token would lie across the
 * border, which generation never sees) the completion is encoded alone.
 */
function fromPrompt(record: PromptRecord, tokenizer: Tokenizer): { prompt: number; ids: number[] } {
  const prompt = encode(tokenizer, record.prompt);
  const both = encode(tokenizer, record.prompt + record.completion);
  const joined = prompt.every((id, i) => id === both[i]) ? both : [...prompt, ...encode(tokenizer, record.completion)];
  const prefix = specialPrefix(tokenizer);
  return { prompt: prefix.length + prompt.length, ids: withEos([...prefix, ...joined], tokenizer) };
}

/** The text of a conversation, and where its targets are. */
function rendered(
  { messages }: MessagesRecord,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  now: Date | undefined,
  trainOn: TrainOn,
): { text: string; spans: Span[] } {
  if (template === undefined) throw noTemplate("{messages}", "{prompt, completion}");
  return tokenizer.limited(
    () => maskedText(template, messages, trainOn, now),
    () => slowTemplate(template, messages.length),
  );
}

/** The refusal of conversations where the base has no chat template; `others` are the records that need none. */
export const noTemplate = (messages: string, others: string): LowrankError =>
  new LowrankError("data/no-template", `there is no chat template for ${messages}`, {
    expected: "chat_template.jinja, or chat_template in tokenizer_config.json",
    got: "neither",
    next: `take the instruction-tuned model's template, or write the records as ${others}`,
  });

/** A text whose template wrote its special tokens itself. */
function encodedExample(tokenizer: Tokenizer, text: string, spans: readonly Span[]): Example {
  const { ids, inside } = encodeSpans(tokenizer, text, spans);
  return { ids, labels: ids.map((id, i) => (i > 0 && inside[i] ? id : IGNORE)) };
}

/** The rendering, and where its targets are. */
function maskedText(template: ChatTemplate, messages: readonly ChatMessage[], trainOn: TrainOn, now: Date | undefined) {
  if (trainOn !== "all") return renderWithMask(template, messages, { now, turns: trainOn === "last" ? "last" : "every" });
  const text = renderChat(template, messages, { now });
  return { text, spans: [[0, text.length]] as Span[] };
}

const slowTemplate = ({ file }: ChatTemplate, messages: number): LowrankError =>
  new LowrankError("template/slow", "the chat template takes too long on a conversation", {
    subject: file,
    expected: `at most ${MAX_TEXT_MS / 1000} s for finding the assistant's turns`,
    got: `more, over ${messages} messages`,
    next: "split the conversation into several records, or use a chat template that only formats messages",
  });

/** The ids of a text as it stands. */
export const encode = (tokenizer: Tokenizer, text: string): number[] => [...tokenizer.encode(text, { addSpecialTokens: false })];

/** The ids with the end of a text behind them, unless they end with a token that stops generation. */
export function withEos(ids: number[], { eosId, eosIds }: Tokenizer): number[] {
  if (eosId !== undefined && !eosIds.includes(ids.at(-1)!)) ids.push(eosId);
  return ids;
}

/** Labels that are targets from position `first` on. */
function withLabels(ids: readonly number[], first: number): Example {
  return { ids: Int32Array.from(ids), labels: Int32Array.from(ids, (id, i) => (i >= Math.max(first, 1) ? id : IGNORE)) };
}

/** Runs `work` on a record; what it throws then names the record's place. */
function atPlace<T>(source: string, place: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw withPlace(error, `${source}, ${place}`);
  }
}

/** An error that names a record's place, and what it named itself. */
export function withPlace(error: unknown, where: string): unknown {
  if (!(error instanceof LowrankError)) return error;
  const { code, message, subject, expected, got, next } = error;
  const named = `${where}${subject === undefined || subject === where ? "" : ` (${subject})`}`;
  return new LowrankError(code, message, { subject: named, expected, got, next, cause: error });
}
