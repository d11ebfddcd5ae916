// A tokenizer of word pieces as tokenizer.json has it, for the examples that bring a vocabulary of their own.

/**
 * The content of tokenizer.json. `vocabulary` begins with the four `special` tokens: padding, unknown, and what begins and ends a
 * text.
 */
export const wordPieces = (vocabulary: readonly string[], special: readonly string[], normalizer: object): object => ({
  version: "1.0",
  added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer,
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: { type: "BertProcessing", cls: [special[2], 2], sep: [special[3], 3] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: special[1],
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
  },
});
