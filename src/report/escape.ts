// Text into HTML and JSON into a script element. What comes from options, data and models is hostile. Follows the HTML standard.

/** Characters that steer, turn the text around or stand for nothing: controls but tab and line break, directions, halves of a pair. */
const UNSEEN = /[^\P{Cc}\n\t]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|\p{Cs}/gu;
const ENTITIES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** Text with \u{…} for what can't be seen. */
export const visible = (text: string): string =>
  text.replace(UNSEEN, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);

/** Text for an element or for an attribute in quotes: visible, and cut at `limit` characters. */
export function escapeHtml(text: string, limit = Number.POSITIVE_INFINITY): string {
  const cut = text.length > limit ? `${text.slice(0, limit)}… (${text.length} characters)` : text;
  return visible(cut).replace(/[&<>"']/g, (character) => ENTITIES[character]!);
}

/** JSON that no script element ends or comments out: "<", ">" and "&" are written as escapes. */
export const scriptJson = (value: unknown): string =>
  JSON.stringify(value).replace(/[<>&]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
