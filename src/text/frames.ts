// How special tokens stand around one text or two: tokenizer.json's post_processor, as Hugging Face's tokenizers reads it.
import { LowrankError, valueText } from "../errors.ts";
import { isObject, type JsonObject } from "../formats/json.ts";

/** Special tokens that a frame may add. Real ones add four at most. */
export const MAX_FRAME_TOKENS = 64;

/** A part of what a model reads: a special token, or the tokens of the first or the second text (0, 1), and its token type. */
export type FramePart = { id: number; type: number } | { text: 0 | 1; type: number };

/**
 * The parts around one text, or around `pair`. `idOf` finds the id of a token by its text, ids end before `vocabSize`.
 * Throws `tokenizer/malformed` for a post_processor that does not have each text once and in order, or adds no known tokens.
 */
export function frameOf(
  processor: unknown,
  pair: boolean,
  { idOf, vocabSize, path }: { idOf(token: string): number | undefined; vocabSize: number; path: string },
): FramePart[] {
  const refuse = (expected: string, got: unknown): never => {
    throw new LowrankError("tokenizer/malformed", `the special tokens around ${pair ? "two texts" : "a text"} cannot be read`, {
      subject: `${path}: post_processor`,
      expected,
      got: valueText(got),
      next: "download the file again from the model's page",
    });
  };
  const special = (given: unknown, type: number): FramePart => {
    const id = typeof given === "string" ? idOf(given) : given;
    if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocabSize) return { id, type };
    return refuse("tokens of the vocabulary", given);
  };
  const adding = flat(processor).filter(({ type }) => type !== "ByteLevel");
  if (adding.length > 1) refuse("one part that adds special tokens", processor);
  const parts = adding.length === 0 ? plain : adders[String(adding[0]!["type"])];
  const frame = parts ? parts(adding[0] ?? {}, pair, special, refuse) : refuse(Object.keys(adders).join(", "), processor);
  const texts = frame.flatMap((part) => ("text" in part ? [part.text] : []));
  if (texts.join() !== (pair ? "0,1" : "0") || frame.length > MAX_FRAME_TOKENS) {
    refuse(`${pair ? "both texts" : "the text"} once, and at most ${MAX_FRAME_TOKENS} special tokens`, processor);
  }
  return frame;
}

/** The processors of sequences, one after another. They are few and flat: tokenizer-bounds.ts has refused others. */
const flat = (processor: unknown): JsonObject[] =>
  !isObject(processor) ? [] : processor["type"] === "Sequence" ? [processor["processors"]].flat().flatMap(flat) : [processor];

type Special = (token: unknown, type: number) => FramePart;
type Adder = (
  part: JsonObject,
  pair: boolean,
  special: Special,
  refuse: (expected: string, got: unknown) => never,
) => FramePart[];

const plain = (_: JsonObject, pair: boolean): FramePart[] => [
  { text: 0, type: 0 },
  ...(pair ? [{ text: 1, type: 1 } as const] : []),
];

/** What each kind of processor puts around texts. */
const adders: Record<string, Adder> = {
  // [CLS] a [SEP], and b [SEP] of type 1
  BertProcessing({ cls, sep }, pair, special) {
    const first: FramePart[] = [special(lastOf(cls), 0), { text: 0, type: 0 }, special(lastOf(sep), 0)];
    return pair ? [...first, { text: 1, type: 1 }, special(lastOf(sep), 1)] : first;
  },
  // <s> a </s>, and </s> b </s>, all of type 0
  RobertaProcessing({ cls, sep }, pair, special) {
    const [begin, end] = [special(lastOf(cls), 0), special(lastOf(sep), 0)];
    const first: FramePart[] = [begin, { text: 0, type: 0 }, end];
    return pair ? [...first, end, { text: 1, type: 0 }, end] : first;
  },
  TemplateProcessing(template, pair, special, refuse) {
    const key = pair ? "pair" : "single";
    const items = template[key];
    if (!Array.isArray(items) || items.length > MAX_FRAME_TOKENS)
      return refuse(`a list of at most ${MAX_FRAME_TOKENS} under ${key}`, items);
    return items.flatMap((item: unknown): FramePart[] => {
      const { Sequence: text, SpecialToken: token } = isObject(item) ? item : {};
      const given = [text, token].find(isObject) ?? refuse(`Sequence or SpecialToken in ${key}`, item);
      const { id, type_id: type } = given;
      if (typeof type !== "number" || typeof id !== "string") return refuse(`id and type_id in ${key}`, item);
      if (given === text) return [{ text: id === "B" ? 1 : 0, type }];
      const known = isObject(template["special_tokens"]) ? template["special_tokens"][id] : undefined;
      const ids = isObject(known) && Array.isArray(known["ids"]) ? known["ids"].slice(0, MAX_FRAME_TOKENS + 1) : [id];
      return ids.map((one: unknown) => special(one, type));
    });
  },
};

/** `["[CLS]", 101]` → 101. */
const lastOf = (pair: unknown): unknown => (Array.isArray(pair) ? pair[1] : pair);
