// Records to tokens and targets: prompt/completion, conversations, plain text. Appending EOS follows TRL's SFTTrainer.
import { LowrankError } from "../errors.ts";
import { encodeWithImages } from "../multimodal/expand.ts";
import { encodeSpans, renderWithMask } from "../text/mask.ts";
import { textOf } from "../text/parts.ts";
import { type ChatMessage, type ChatTemplate, limitedRendering, renderChat } from "../text/template.ts";
import { specialPrefix, type Tokenizer } from "../text/tokenizer.ts";
import type { Span } from "../text/turns.ts";
import type { ControlText } from "./control-text.ts";
import { type RecordKey, recordKey } from "./duplicates.ts";
import type { RecordImages } from "./record-images.ts";
import type { DataRecord, NumberedRecord } from "./records.ts";
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
  /** What of its texts does not reach the model as text. */
  control?: ControlText;
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
      let whole = made[i];
      try {
        if (tooSlow && i === made.length) throw tooSlow;
        whole ??= tokenizer.limited(() => makeExample(one, tokenizer, options));
      } catch (error) {
        throw withPlace(error, `${source}, ${one.place}`);
      }
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
    if (template === undefined) throw noTemplate("{messages}", "{prompt, completion}");
    const { messages } = record;
    const masked = limitedRendering(tokenizer, template, messages, () => rendered(template, messages, trainOn, now));
    return maskedExample(tokenizer, masked, images, numbers);
  }
  const [prompt, completion] = "text" in record ? ["", record.text] : [record.prompt, record.completion];
  const isAll = "text" in record || trainOn === "all";
  const text = prompt + completion;
  if (numbers.length > 0 || (images?.text.token && text.includes(images.text.token))) {
    return maskedExample(tokenizer, { text, spans: [[isAll ? 0 : prompt.length, text.length]] }, images, numbers, true);
  }
  const prefix = specialPrefix(tokenizer);
  const asked = "text" in record ? [] : encode(tokenizer, prompt);
  const both = encode(tokenizer, text);
  // Where the prompt's ids begin those of both texts together, these are used; otherwise (a token would lie across the
  // border, which generation never sees) the completion is encoded alone.
  const joined = asked.every((id, i) => id === both[i]) ? both : [...asked, ...encode(tokenizer, completion)];
  const first = isAll ? 0 : prefix.length + asked.length;
  return labelled(withEos([...prefix, ...joined], tokenizer), (i) => i >= first);
}

interface MaskedText {
  text: string;
  /** Where its targets are. */
  spans: Span[];
}

function rendered(template: ChatTemplate, messages: readonly ChatMessage[], trainOn: TrainOn, now: Date | undefined): MaskedText {
  if (trainOn !== "all") return renderWithMask(template, messages, { now, turns: trainOn === "last" ? "last" : "every" });
  const text = renderChat(template, messages, { now });
  return { text, spans: [[0, text.length]] };
}

/** A text that has its special tokens in it, and images, if any; what ends a text is learnt behind it with `ends`. */
function maskedExample(
  tokenizer: Tokenizer,
  { text, spans }: MaskedText,
  images: RecordImages | undefined,
  numbers: readonly number[],
  ends = false,
): Example {
  const { ids, inside } = images
    ? encodeWithImages(tokenizer, images.text, text, spans, numbers.map(images.store.gridOf))
    : encodeSpans(tokenizer, text, spans);
  const whole = ends ? withEos([...ids], tokenizer) : ids;
  const example = labelled(whole, (i) => inside[i] === 1 || i >= ids.length);
  return numbers.length > 0 ? { ...example, images: numbers } : example;
}

/** Ids with those of them as labels that are targets; the first never is one. */
function labelled(given: ArrayLike<number>, isTarget: (i: number) => boolean): Example {
  const ids = new Int32Array(given);
  const labels = new Int32Array(ids.length).fill(IGNORE);
  for (let i = 1; i < ids.length; i++) if (isTarget(i)) labels[i] = ids[i]!;
  return { ids, labels };
}

/** The refusal of conversations where the base has no chat template; `others` are the records that need none. */
export const noTemplate = (messages: string, others: string): LowrankError =>
  new LowrankError("data/no-template", `there is no chat template for ${messages}`, {
    expected: "chat_template.jinja, or chat_template in tokenizer_config.json",
    got: "neither",
    next: `take the instruction-tuned model's template, or write the records as ${others}`,
  });

/** The ids of a text as it stands. */
export const encode = (tokenizer: Tokenizer, text: string): number[] => [...tokenizer.encode(text, { addSpecialTokens: false })];

/** The ids with the end of a text behind them, unless they end with a token that stops generation. */
export function withEos(ids: number[], { eosId, eosIds }: Tokenizer): number[] {
  if (eosId !== undefined && !eosIds.includes(ids.at(-1)!)) ids.push(eosId);
  return ids;
}

/** An error that names a record's place, and what it named itself. */
export function withPlace(error: unknown, where: string): unknown {
  if (!(error instanceof LowrankError)) return error;
  const { code, message, subject, expected, got, next } = error;
  const named = `${where}${subject === undefined || subject === where ? "" : ` (${subject})`}`;
  return new LowrankError(code, message, { subject: named, expected, got, next, cause: error });
}
