// Whether a tokenizer and its chat template fit the model: checked before anything is tokenized.
import type { NumberedRecord } from "../../data/records.ts";
import { LowrankError } from "../../errors.ts";
import type { TextBase } from "../../models/base.ts";
import { type ModelConfig, visionOf } from "../../models/registry.ts";
import { renderWithMask } from "../../text/mask.ts";
import { type ChatTemplate, limitedRendering } from "../../text/template.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";

/** Default longest example, in tokens. */
const MAX_LENGTH = 1024;
/** Where there may be images: a split one alone has more than 1,000 tokens. */
const MAX_LENGTH_WITH_IMAGES = 2048;

/** Every id that can reach the model must have a row in the embedding: the vocabulary's, and those that generation_config.json names. */
export function checkVocabulary({ vocabSize, eosIds, bosId }: Tokenizer, { checkpoint, config }: TextBase): void {
  const ids: [string, number][] = [
    ["the tokenizer's largest id", vocabSize - 1],
    ...eosIds.map((id): [string, number] => ["an id that ends a text (eos_token_id)", id]),
    ["the id that begins a text (bos_token_id)", bosId ?? 0],
  ];
  const [what, id] = ids.find(([, id]) => id >= config.vocabSize) ?? [];
  if (id === undefined) return;
  throw new LowrankError("train/vocabulary", "the tokenizer has ids that the embedding has no row for", {
    subject: checkpoint.folder,
    expected: `ids below ${config.vocabSize}, the vocab_size of config.json`,
    got: `${id}, ${what}`,
    next: "Use the tokenizer files and generation_config.json that belong to this checkpoint.",
  });
}

/** Tokens of their own as chat templates write them. */
const MARKER = /<\|[^\s<>|]{1,64}\|>|<\/?(?:start|end)_of_turn>/g;

/** The records as they are; before the first conversation, what the template writes is looked up in the vocabulary. */
export async function* withCheckedTemplate<R>(
  records: AsyncIterable<NumberedRecord<R>>,
  tokenizer: Tokenizer,
  isConversation: (record: R) => boolean,
): AsyncGenerator<NumberedRecord<R>, void, void> {
  let checked = tokenizer.template === undefined;
  for await (const row of records) {
    if (!checked && isConversation(row.record)) {
      checkTemplate(tokenizer);
      checked = true;
    }
    yield row;
  }
}

/** The assistant's turn of a short conversation; nothing where the template wants another kind, which rendering its records reports. */
function sampleTurn(tokenizer: Tokenizer, template: ChatTemplate): string {
  const turns = ["user", "assistant"].map((role) => ({ role, content: "text" }));
  try {
    const { text, spans } = limitedRendering(tokenizer, template, turns, () => renderWithMask(template, turns));
    return spans.map(([start, end]) => text.slice(start, end)).join("");
  } catch (error) {
    if (error instanceof LowrankError && error.code !== "template/slow") return "";
    throw error;
  }
}

/**
 * A marker in an answer that the vocabulary lacks would be cut into pieces, and no piece would stop generation. Markers around
 * it (<|user|>) are plain text to some models, such as OLMo 2 and Zephyr.
 */
function checkTemplate(tokenizer: Tokenizer): void {
  const text = sampleTurn(tokenizer, tokenizer.template!);
  const missing = [...new Set(text.match(MARKER))].filter((marker) => tokenizer.tokenToId(marker) === undefined);
  if (missing.length === 0) return;
  throw new LowrankError("train/template-tokens", "the chat template ends answers with tokens that the tokenizer does not have", {
    subject: tokenizer.template!.file,
    expected: "tokens of tokenizer.json",
    got: missing.slice(0, 8).join(", "),
    next: "Use the template and the tokenizer of one checkpoint, or write the records as prompt and completion.",
  });
}

/** The longest example: as asked for, where the model has the positions, or a default. */
export function lengthLimit(maxLength: number | undefined, config: ModelConfig): number {
  const { maxPositions, maxTokens } = config;
  const readsImages = visionOf(config) !== undefined;
  if (maxLength === undefined)
    return maxTokens !== null
      ? Math.min(maxTokens, maxPositions)
      : Math.min(readsImages ? MAX_LENGTH_WITH_IMAGES : MAX_LENGTH, maxPositions);
  if (maxLength <= maxPositions) return maxLength;
  throw new LowrankError("train/option", "the model has fewer positions", {
    subject: "maxLength",
    expected: `at most ${maxPositions}, the max_position_embeddings of config.json`,
    got: String(maxLength),
    next: "Train on shorter sequences.",
  });
}
