// What targets of the fuzzer are given: files of values, and the tests' fixtures.
import { readdirSync, readFileSync } from "node:fs";
import type { Contents } from "./targets.ts";

const encoder = new TextEncoder();
export const bytesIn = (value: unknown): Uint8Array => encoder.encode(typeof value === "string" ? value : JSON.stringify(value));
export const fixture = (path: string): Uint8Array =>
  new Uint8Array(readFileSync(new URL(`../test/fixtures/${path}`, import.meta.url)));
export const folder = (path: string, under: string): Contents =>
  Object.fromEntries(
    readdirSync(new URL(`../test/fixtures/${path}`, import.meta.url)).map((name) => [
      `${under}/${name}`,
      fixture(`${path}/${name}`),
    ]),
  );
