// A GGUF file's metadata, asked for by key and kind.
import { LowrankError } from "../../errors.ts";
import type { GgufValue } from "./reader.ts";

/** Metadata by key. A value of another kind than the one that is asked for fails with `gguf/metadata`. */
export interface Metadata {
  number(key: string): number | undefined;
  text(key: string): string | undefined;
  flag(key: string): boolean | undefined;
  texts(key: string): readonly string[] | undefined;
  numbers(key: string): ArrayLike<number> | undefined;
  /** `value`, or `gguf/metadata` for what is missing. */
  required<Value>(key: string, value: Value | undefined): Value;
}

export function metadataOf(path: string, values: ReadonlyMap<string, GgufValue>): Metadata {
  const fail = (key: string, expected: string, got: string): never => {
    throw new LowrankError("gguf/metadata", `the metadata ${key} can't be used`, {
      subject: path,
      expected,
      got,
      next: "Download the file again, or another one of the model.",
    });
  };
  function ask<Value extends GgufValue>(kind: string, is: (value: GgufValue) => boolean) {
    return (key: string): Value | undefined => {
      const value = values.get(key);
      if (value === undefined || is(value)) return value as Value | undefined;
      return fail(key, kind, typeof value === "object" ? `${value.length} values` : JSON.stringify(value).slice(0, 80));
    };
  }
  return {
    number: ask<number>("a number", Number.isFinite),
    text: ask<string>("a text", (value) => typeof value === "string"),
    flag: ask<boolean>("true or false", (value) => typeof value === "boolean"),
    texts: ask<readonly string[]>("a list of texts", (value) => Array.isArray(value) && typeof (value[0] ?? "") === "string"),
    numbers: ask<ArrayLike<number>>("a list of numbers", ArrayBuffer.isView),
    required: (key, value) => value ?? fail(key, "a value", "none"),
  };
}
