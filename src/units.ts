// Numbers, and texts from anywhere, as people read them.

/** 134515008 → "134,515,008". */
export const grouped = (value: number): string => value.toLocaleString("en-US");

/** Bytes in the largest unit that leaves a number of at least 1, as in "1.2 GB". */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const unit = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, value)) / 3)));
  const scaled = value / 1000 ** unit;
  return `${scaled >= 100 || unit === 0 ? scaled.toFixed(0) : scaled.toFixed(1)} ${units[unit]}`;
}

/** 0.925 → "92.5 %". */
export const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** A figure of an evaluation: four decimal places, but for those that are written otherwise. */
export const figureText = (name: string, value: number): string => figureTexts.get(name)?.(value) ?? value.toFixed(4);
const figureTexts = new Map([
  ["perplexity", (value: number) => value.toFixed(2)],
  ["accuracy", percent],
  ["subsetAccuracy", percent],
]);

/** Seconds as "45s", "3m 05s", "2h 07m". */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  const two = (value: number) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h ${two(Math.floor((whole % 3600) / 60))}m`;
}

/** Controls but line break and tab, line separators, and the marks that turn text around. */
const STEERING = /[^\P{Cc}\n\t]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;
const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** Text from anywhere as a terminal may show it: what would steer it or turn the text around as an escape, as in JSON. */
export const shown = (text: string): string => text.replace(STEERING, escaped);

/** The same on one line: a line break in it is shown, and makes none. */
export const shownLine = (text: string): string => shown(text).replaceAll("\n", "\\n");

/** A text on one line of at most `most` characters, white space run together. */
export function oneLine(text: string, most = Number.POSITIVE_INFINITY): string {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > most ? `${line.slice(0, most)}…` : line;
}
