// Texts of records that do not reach the model as they are written: control tokens spelled out, and halves of characters.
import { LowrankError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** Control tokens that are looked for: no more, and no longer ones. */
const MAX_CONTROL_TOKENS = 8192;
const MAX_CONTROL_CHARS = 128;

/** Markers as chat templates write them, tokens or not. */
const MARKER = /<\|[^\s<>|]{1,64}\|>|<\/?(?:start|end)_of_turn>|\[\/?[A-Z_]{2,32}\]|<<\/?SYS>>/g;

/**
 * What a text may not hold to be read as text: the tokenizer's special tokens and the markers of its chat template, without `allowed`
 * (the token that stands for an image).
 */
export function controlTokensOf({ specialIds, idToToken, template }: Tokenizer, allowed?: string): string[] {
  const special = [...specialIds].map(idToToken).filter((token) => token !== undefined);
  const markers = [template?.source ?? "", template?.toolUse ?? ""].flatMap((source) => source.match(MARKER) ?? []);
  return [...new Set([...special, ...markers])].filter((token) => token !== "" && token !== allowed);
}

/** What is found in a record: the first control token, and whether there is half of a character, which becomes U+FFFD. */
export interface ControlText {
  token?: string;
  isHalf: boolean;
}

/** The same of a file's records: how many, and the first of them. */
export interface ControlTextCounts {
  controlTokens?: { records: number; place: string; token: string };
  loneSurrogates?: { records: number; place: string };
}

/** A function that looks through all texts of a record, but not through the paths of its images. */
export function controlTextFinder(tokens: readonly string[]): (record: object) => ControlText | undefined {
  const searched = tokens.filter(({ length }) => length <= MAX_CONTROL_CHARS).slice(0, MAX_CONTROL_TOKENS);
  // The longer one of two that begin alike comes first.
  const patterns = [...searched].sort().reverse();
  const control = new RegExp(patterns.map((token) => token.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")).join("|") || "(?!)");
  return (record) => {
    const found: ControlText = { isHalf: false };
    const values: unknown[] = [{ ...record, images: null }];
    for (let i = 0; i < values.length; i++) {
      const value = values[i];
      if (typeof value === "string") {
        found.token ??= control.exec(value)?.[0];
        found.isHalf ||= LONE_SURROGATE.test(value);
      } else if (typeof value === "object" && value !== null) for (const inner of Object.values(value)) values.push(inner);
    }
    return found.token === undefined && !found.isHalf ? undefined : found;
  };
}

const LONE_SURROGATE = /\p{Surrogate}/u;

/** Counts what is found in the records of a file. */
export function controlTextCounts(): { add(found: ControlText | undefined, place: string): void; counts: ControlTextCounts } {
  const counts: ControlTextCounts = {};
  return {
    counts,
    add(found, place) {
      if (found?.token !== undefined) {
        counts.controlTokens ??= { records: 0, place, token: found.token };
        counts.controlTokens.records++;
      }
      if (found?.isHalf) {
        counts.loneSurrogates ??= { records: 0, place };
        counts.loneSurrogates.records++;
      }
    },
  };
}

/** Lines about what is counted: how many records, and what of them. */
export const controlTextNotes = ({ controlTokens, loneSurrogates }: ControlTextCounts): [records: number, text: string][] => {
  const notes: [number, string][] = [];
  if (controlTokens) {
    const { records, token, place } = controlTokens;
    notes.push([records, `with control tokens in their texts, which act as such (${token}, ${place})`]);
  }
  if (loneSurrogates) {
    const { records, place } = loneSurrogates;
    notes.push([records, `with halves of characters (lone surrogates) in their texts, which become U+FFFD (${place})`]);
  }
  return notes;
};

/** The refusal of a record by `strictText`. */
export const controlTextError = ({ token }: ControlText, subject: string): LowrankError =>
  new LowrankError("data/control-text", "a text of the record would not reach the model as text", {
    subject,
    expected: "texts without the tokenizer's special tokens, the chat template's markers and halves of characters",
    got:
      token === undefined ? "half of a character (a lone surrogate), which becomes U+FFFD" : `${token}, which is a control token`,
    next: "remove it from the record, or leave out strictText (--strict-text) if it is meant",
  });
