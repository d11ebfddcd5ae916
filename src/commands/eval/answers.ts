// Exact match: what a base answers to the prompts of a data file, alone and with an adapter, beside the file's own answers.

import { attach } from "../../adapters/attach.ts";
import { openAdapter } from "../../adapters/peft-files.ts";
import { noRecords } from "../../data/dataset.ts";
import { readRecords } from "../../data/readers.ts";
import type { ColumnNames, DataRecord } from "../../data/records.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { type Generator, openGenerator } from "../../generate/generator.ts";
import type { ImagePrompt } from "../../generate/prompts.ts";
import { loadBase } from "../../models/base.ts";
import { checkCounts } from "../../options.ts";
import { onDevice } from "../../platform/devices.ts";
import type { Platform } from "../../platform/platform.ts";
import { textOf } from "../../text/parts.ts";
import type { ChatMessage } from "../../text/template.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import type { EvaluateOptions } from "./evaluate.ts";

/** Tokens that an answer may have beyond the longest expected one: enough to see where it goes on. */
const MORE_TOKENS = 8;

/** What is answered: records with prompts and answers, `{prompt, completion}` or `{messages}` that end with the assistant's turn. */
export interface AnswerOptions
  extends ColumnNames,
    Pick<EvaluateOptions, "base" | "data" | "adapter" | "anyBase" | "baseDtype" | "device" | "threads"> {
  /** Only this many records, from the first. Default: all. */
  limit?: number;
  /** Prompts that are answered at once. Default 4. */
  batchSize?: number;
}

interface Question {
  /** Where the record is in the file, as in "line 3". */
  place: string;
  prompt: string | readonly ChatMessage[] | ImagePrompt;
  expected: string;
}

export type AnswerEvent =
  | (Question & {
      type: "answer";
      /** Greedy answers, ended a few tokens behind the length of the longest expected one. */
      base: string;
      adapter: string | null;
    })
  /** How many answers equal the expected ones but for white space around them. */
  | { type: "matches"; count: number; base: number; adapter: number | null };

/**
 * Answers every record greedily, a batch after another, and counts at the end. Throws `data/no-answer` for a record that
 * has none, and what reading, opening and generating throw.
 */
export async function* answers(options: AnswerOptions, host: Platform): AsyncGenerator<AnswerEvent, void, void> {
  const platform = await onDevice(host, options.device);
  const { files, openSession, timeLimit } = platform;
  const { batchSize = 4, baseDtype, threads, anyBase } = options;
  checkCounts("eval/option", { batchSize, limit: options.limit });
  const base = await loadBase(files, options.base, timeLimit);
  const given = options.adapter === undefined ? null : await openAdapter(files, options.adapter, platform.adapterLimits);
  const adapter = given && (await attach(base, given, { anyBase })).adapter;
  const questions = await readQuestions(files, options);
  const tokenizer = await base.tokenizer();
  const generator = await openGenerator(base, { openSession, adapter, anyBase, baseDtype, threads, reading: platform });
  const total: AnswerEvent = { type: "matches", count: questions.length, base: 0, adapter: adapter && 0 };
  try {
    for (let start = 0; start < questions.length; start += batchSize) {
      const batch = questions.slice(start, start + batchSize);
      await generator.useAdapter(null);
      const alone = await answerAll(generator, tokenizer, batch);
      await generator.useAdapter(adapter);
      const adapted = adapter && (await answerAll(generator, tokenizer, batch));
      for (const [i, question] of batch.entries()) {
        yield { type: "answer", ...question, base: alone[i]!, adapter: adapted?.[i] ?? null };
        if (isMatch(alone[i]!, question)) total.base++;
        if (adapted && isMatch(adapted[i]!, question)) total.adapter!++;
      }
    }
  } finally {
    await generator.close();
  }
  yield total;
}

/** Whether an answer is the expected one, white space around it aside. */
export const isMatch = (answer: string, { expected }: { expected: string }): boolean => answer.trim() === expected.trim();

async function answerAll(generator: Generator, tokenizer: Tokenizer, questions: readonly Question[]): Promise<string[]> {
  const lengths = questions.map(({ expected }) => tokenizer.encode(expected, { addSpecialTokens: false }).length);
  const texts: string[] = [];
  const prompts = questions.map(({ prompt }) => prompt);
  for await (const event of generator.generate(prompts, { maxNewTokens: Math.max(...lengths) + MORE_TOKENS })) {
    if (event.type === "done") texts[event.row] = event.text;
  }
  return texts;
}

async function readQuestions(files: Files, { data, limit = Number.POSITIVE_INFINITY, ...options }: AnswerOptions) {
  const questions: Question[] = [];
  for await (const { record, place } of readRecords(files, data, options)) {
    if (questions.length >= limit) break;
    const found = questionOf(record);
    if (!found) {
      throw new LowrankError("data/no-answer", "the record has no answer to compare with", {
        subject: `${data}, ${place}`,
        expected: '{"prompt", "completion"}, or {"messages"} that end with a turn of the assistant',
        got: "text" in record ? "a text" : "messages that end otherwise",
        next: "Give records with prompts and answers, or evaluate without generating.",
      });
    }
    questions.push({ place, ...found });
  }
  if (questions.length > 0) return questions;
  throw noRecords(data);
}

function questionOf(record: DataRecord): Omit<Question, "place"> | undefined {
  if ("text" in record) return undefined;
  const { images } = record;
  if ("prompt" in record)
    return { prompt: images ? { text: record.prompt, images } : record.prompt, expected: record.completion };
  const last = record.messages.at(-1);
  if (last?.role !== "assistant" || record.messages.length < 2) return undefined;
  const messages = record.messages.slice(0, -1);
  return { prompt: images ? { messages, images } : messages, expected: textOf(last.content) };
}

/** The text of what was asked last. */
export function askedText(prompt: Question["prompt"]): string {
  if (typeof prompt === "string") return prompt;
  if ("text" in prompt) return prompt.text;
  return textOf(("messages" in prompt ? prompt.messages : prompt).at(-1)!.content);
}
