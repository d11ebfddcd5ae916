// Duplicate records: known by a hash of what is read of them, so that a file of any size needs 8 bytes a record.
import type { DataRecord } from "./records.ts";

/** A record by hashes of itself, and of what it asks: the prompt, or the messages before the last answer. A text asks nothing. */
export interface RecordKey {
  record: number;
  question: number | null;
}

/** A record of fields, of which `answers` are what it answers; without any it asks nothing. */
export function fieldsKey(record: object, answers: readonly string[]): RecordKey {
  const asked = Object.entries(record).filter(([name]) => !answers.includes(name));
  return { record: hash(JSON.stringify(record)), question: answers.length === 0 ? null : hash(JSON.stringify(asked)) };
}

/** A record of a language model. */
export function recordKey(record: DataRecord): RecordKey {
  const images = record.images ?? [];
  if ("text" in record) return { record: hash([record.text, ...images].join("\n")), question: null };
  if ("prompt" in record) {
    const { prompt, completion } = record;
    return { record: hash(JSON.stringify([prompt, completion, ...images])), question: hash([prompt, ...images].join("\n")) };
  }
  const { messages } = record;
  const last = messages.findLastIndex(({ role }) => role === "assistant");
  const named = (turns: typeof messages): number => hash(JSON.stringify(images.length > 0 ? [turns, images] : turns));
  return { record: named(messages), question: last < 1 ? null : named(messages.slice(0, last)) };
}

/** Records that were seen. */
export function seenRecords() {
  const records = new Set<number>();
  const questions = new Set<number>();
  return {
    /** Whether the record was added before. */
    has: ({ record }: RecordKey): boolean => records.has(record),
    /** Whether one was added that asks the same. */
    asked: ({ question }: RecordKey): boolean => question !== null && questions.has(question),
    add({ record, question }: RecordKey): void {
      records.add(record);
      if (question !== null) questions.add(question);
    },
  };
}

/** 53 bits of a text: cyrb53, two multiplicative hashes side by side. A million records share one by chance once in 20,000 files. */
function hash(text: string): number {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    a = Math.imul(a ^ unit, 2654435761);
    b = Math.imul(b ^ unit, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return 4294967296 * (2097151 & b) + (a >>> 0);
}
