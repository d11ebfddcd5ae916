// Records to tokens and targets: prompt/completion, conversations, plain text. Appending EOS follows TRL's SFTTrainer.
import { LowrankError } from "../errors.ts";
import { MAX_TEXT_MS } from "../text/limit.ts";
import { encodeSpans, renderWithMask } from "../text/mask.ts";
import { type ChatMessage, type ChatTemplate, renderChat } from "../text/template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Span } from "../text/turns.ts";
import { type PromptFormat, promptFormatOf } from "./prompts.ts";
import type { Recognized } from "./readers.ts";
import type { DataRecord, MessagesRecord, NumberedRecord, PromptRecord } from "./records.ts";
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
}

/** What became of a dataset. */
export interface ExampleReport {
  /** What was read, where it was a file. */
  file?: Recognized;
  /** Examples made. */
  count: number;
  /** Examples cut to maxLength, those that were then dropped included. */
  truncated: number;
  /** Records that gave no example, because no target was left in them. */
  dropped: number;
  /** Tokens of the examples made. */
  tokens: number;
  /** Targets among them. */
  targets: number;
  /** Length of the longest, in tokens. */
  longest: number;
  /** How a model trained on them is asked. */
  prompts: PromptFormat;
}

/**
 * Tokenizes records. The first token of an example is never a target, since nothing comes before it.
 * - {prompt, completion}: the prompt with the tokenizer's special tokens in front, then the completion, then EOS unless
 *   the completion ends with a token that stops generation. The prompt's ids are those that generation starts from.
 * - {messages}: the chat template's rendering; the targets are the assistant's turns with their end-of-turn tokens.
 * - {text}: the text with special tokens in front and EOS at the end, all of it targets.
 * @throws LowrankError `data/empty`, `data/no-targets`, `data/no-template`, or what a record's template throws, with its place.
 */
export async function makeExamples(
  records: AsyncIterable<NumberedRecord> | Iterable<NumberedRecord>,
  tokenizer: Tokenizer,
  options: ExampleOptions,
): Promise<{ examples: Example[]; report: ExampleReport }> {
  const { maxLength, source = "the dataset" } = options;
  if (!Number.isSafeInteger(maxLength) || maxLength < 2) {
    throw new LowrankError("data/option", "no example fits the maximum length", {
      subject: "maxLength",
      expected: "an integer of at least 2 (a token and the one it predicts)",
      got: String(maxLength),
      next: "give the length of the longest sequences to train on, such as 1024",
    });
  }
  const examples: Example[] = [];
  const report: ExampleReport = {
    count: 0,
    truncated: 0,
    dropped: 0,
    tokens: 0,
    targets: 0,
    longest: 0,
    prompts: { kind: "text" },
  };
  const prompts = promptFormatOf();
  for await (const { record, whole } of eachExample(records, tokenizer, options)) {
    prompts.add(record);
    if (whole.ids.length > maxLength) report.truncated++;
    const example = { ids: whole.ids.slice(0, maxLength), labels: whole.labels.slice(0, maxLength) };
    const targets = example.labels.reduce((n, label) => n + (label === IGNORE ? 0 : 1), 0);
    if (targets === 0) {
      report.dropped++;
      continue;
    }
    examples.push(example);
    report.count++;
    report.tokens += example.ids.length;
    report.targets += targets;
    report.longest = Math.max(report.longest, example.ids.length);
  }
  if (report.count + report.dropped === 0) {
    throw new LowrankError("data/empty", "there are no records", {
      subject: source,
      expected: "at least one record",
      got: "none",
      next: "check that it is the file you mean",
    });
  }
  if (report.count === 0) {
    throw new LowrankError("data/no-targets", "no token is a target, so there is nothing to learn", {
      subject: source,
      expected: `completions, assistant turns or texts that begin within the first ${maxLength} tokens`,
      got: `${report.dropped} records without a target, ${report.truncated} of them truncated`,
      next: report.truncated > 0 ? "raise the maximum length or shorten the prompts" : "check that the completions are not empty",
    });
  }
  report.prompts = prompts.format() ?? report.prompts;
  return { examples, report };
}

/** A record, and the example it becomes before it is cut to the maximum length. */
export interface MadeExample extends NumberedRecord {
  whole: Example;
}

/** The examples of records one by one, as `makeExamples` makes them. */
export async function* eachExample(
  records: AsyncIterable<NumberedRecord> | Iterable<NumberedRecord>,
  tokenizer: Tokenizer,
  options: Omit<ExampleOptions, "maxLength">,
): AsyncGenerator<MadeExample, void, void> {
  const { source = "the dataset" } = options;
  for await (const { record, place } of records) {
    const whole = atPlace(source, place, () => tokenizer.limited(() => makeExample(record, tokenizer, options)));
    yield { record, place, whole };
  }
}

function makeExample(
  record: DataRecord,
  tokenizer: Tokenizer,
  { trainOn = "completion", template, now }: Omit<ExampleOptions, "maxLength">,
): Example {
  if ("text" in record)
    return withLabels(withEos([...specialPrefix(tokenizer), ...encode(tokenizer, record.text)], tokenizer), 0);
  if ("messages" in record) return fromMessages(record, tokenizer, template ?? tokenizer.template, now, trainOn);
  const { prompt, ids } = fromPrompt(record, tokenizer);
  return withLabels(ids, trainOn === "all" ? 0 : prompt);
}

/**
 * Where the prompt's ids begin the ids of both texts together, those are taken; otherwise (a token would lie across the
 * border, which generation never sees) the completion is encoded alone.
 */
function fromPrompt(record: PromptRecord, tokenizer: Tokenizer): { prompt: number; ids: number[] } {
  const prompt = encode(tokenizer, record.prompt);
  const both = encode(tokenizer, record.prompt + record.completion);
  const joined = prompt.every((id, i) => id === both[i]) ? both : [...prompt, ...encode(tokenizer, record.completion)];
  const prefix = specialPrefix(tokenizer);
  return { prompt: prefix.length + prompt.length, ids: withEos([...prefix, ...joined], tokenizer) };
}

function fromMessages(
  { messages }: MessagesRecord,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
  now: Date | undefined,
  trainOn: TrainOn,
): Example {
  if (template === undefined) {
    throw new LowrankError("data/no-template", "there is no chat template for {messages}", {
      expected: "chat_template.jinja, or chat_template in tokenizer_config.json",
      got: "neither",
      next: "take the instruction-tuned model's template, or write the records as {prompt, completion}",
    });
  }
  const { text, spans } = tokenizer.limited(
    () => maskedText(template, messages, trainOn, now),
    () => slowTemplate(template, messages.length),
  );
  // Templates write their special tokens themselves.
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
  new LowrankError("template/slow", "the chat template takes too long over a conversation", {
    subject: file,
    expected: `at most ${MAX_TEXT_MS / 1000} s for finding the assistant's turns`,
    got: `more, over ${messages} messages`,
    next: "split the conversation into several records, or use a chat template that only formats messages",
  });

const encode = (tokenizer: Tokenizer, text: string): number[] => [...tokenizer.encode(text, { addSpecialTokens: false })];

/** The special tokens that the tokenizer puts in front of a text: its BOS, or nothing. */
function specialPrefix(tokenizer: Tokenizer): number[] {
  const around = [...tokenizer.encode("", { addSpecialTokens: true })];
  const end = around.findIndex((id) => id !== tokenizer.bosId && tokenizer.eosIds.includes(id));
  return end < 0 ? around : around.slice(0, end);
}

function withEos(ids: number[], { eosId, eosIds }: Tokenizer): number[] {
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
    if (!(error instanceof LowrankError)) throw error;
    const { code, message, subject, expected, got, next } = error;
    const where = `${source}, ${place}${subject === undefined ? "" : ` (${subject})`}`;
    throw new LowrankError(code, message, { subject: where, expected, got, next, cause: error });
  }
}
