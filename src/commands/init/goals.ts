// Goals of training, and the options that go with them: points to start from, in the middle of what is common for LoRA.

/** What a model is trained for: rank, and passes over a thousand records. Alpha is twice the rank. */
export const goals = {
  chat: { what: "a chat assistant: conversations or instructions and answers", rank: 16, epochs: 3 },
  structured: { what: "structured output: fields, JSON, SQL, calls", rank: 16, epochs: 3 },
  style: { what: "a way of writing, from texts or examples", rank: 8, epochs: 2 },
  classification: { what: "labels or other short answers", rank: 8, epochs: 4 },
} as const;
export type Goal = keyof typeof goals;
