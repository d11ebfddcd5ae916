// Text on a terminal: wrapped between words, whole and as it grows, two texts side by side, and tables. What is given may come from
// anywhere: it is made harmless before it is measured.
import { eastAsianWidth } from "get-east-asian-width";
import { shown, shownLine } from "../units.ts";
import { control } from "./terminal.ts";

/** Characters without a cell of their own: marks on the one before, and what only steers the layout. */
const ZERO = /[\p{Mark}\p{Cf}]/u;
const widthOf = (character: string): number => (ZERO.test(character) ? 0 : eastAsianWidth(character.codePointAt(0)!));

/** Cells that a line of text takes. */
export function cells(text: string): number {
  let sum = 0;
  for (const character of text) sum += widthOf(character);
  return sum;
}

/** Lines of at most `width` cells: broken at spaces, inside a word only where it alone is wider. */
export function wrap(text: string, width: number): string[] {
  return shown(text)
    .replaceAll("\t", "  ")
    .split("\n")
    .flatMap((line) => wrapLine(line, width));
}

function wrapLine(line: string, width: number): string[] {
  const lines: string[] = [];
  let [current, column] = ["", 0];
  const end = () => {
    lines.push(current.trimEnd());
    [current, column] = ["", 0];
  };
  for (const word of line.split(/(?<= )/)) {
    if (column + cells(word.trimEnd()) > width && current !== "") end();
    for (const character of word) {
      const size = widthOf(character);
      if (column + size > width && character !== " ") end();
      current += character;
      column += size;
    }
  }
  end();
  return lines;
}

/**
 * Writes a text as it grows, at most `width()` cells a line. Nothing is held back: a word that turns out too long for its line is
 * taken from it again and put on the next. The terminal has to be wider than that, or it breaks the line itself.
 */
export function wrapping(width: () => number, write: (text: string) => void): { push(delta: string): void } {
  let column = 0;
  let word = "";
  const put = (character: string): string => {
    if (character === "\n") {
      [column, word] = [0, ""];
      return "\n";
    }
    const isSpace = character === " " || character === "\t";
    const size = character === "\t" ? 8 - (column % 8) : widthOf(character);
    let before = "";
    if (column + size > width()) {
      const moved = cells(word);
      const whole = moved < column && !isSpace;
      before = whole && moved > 0 ? `${control(`\x1b[${moved}D\x1b[K`)}\n${word}` : "\n";
      [column, word] = before === "\n" ? [0, ""] : [moved, word];
      if (isSpace) return before;
    }
    column += size;
    word = isSpace ? "" : word + character;
    return before + character;
  };
  return { push: (delta) => write([...shown(delta)].map(put).join("")) };
}

/** A line of two columns; the left one is `width` cells wide. */
export const besideLine = (left = "", width: number, right = ""): string =>
  `${left}${" ".repeat(Math.max(0, width - cells(left)))} │ ${right}`.trimEnd();

/** Writes `left` beside a text that grows: each line when it can no longer change, and at the end what is left of both. */
export function besideGrowing(left: string, columnWidth: number, write: (line: string) => void) {
  const lines = wrap(left, columnWidth);
  let right = "";
  let done = 0;
  const put = (text: string) => write(besideLine(lines[done++], columnWidth, text));
  return {
    push(delta: string): void {
      right += delta;
      for (const line of wrap(right, columnWidth).slice(done, -1)) put(line);
    },
    end(): void {
      for (const line of wrap(right, columnWidth).slice(done)) put(line);
      while (done < lines.length) put("");
    },
  };
}

/** The spaces that a text needs to be `width` cells wide. */
const spaces = (text: string, width: number) => " ".repeat(Math.max(0, width - cells(text)));

/** Rows of cells with the columns lined up, a line each: the first to the left, the others to the right. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const safe = rows.map((row) => row.map(shownLine));
  const widths = safe[0]!.map((_, column) => safe.reduce((widest, row) => Math.max(widest, cells(row[column]!)), 0));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i === 0 ? cell + spaces(cell, widths[i]!) : spaces(cell, widths[i]!) + cell)).join("  ");
  return safe.map((row) => line(row).trimEnd());
}

/** Names and values, a line each, the values in a column. */
export function list(facts: readonly (readonly string[])[]): string[] {
  const safe = facts.map((fact) => fact.map(shownLine));
  const width = Math.max(...safe.map(([name]) => cells(name!)));
  return safe.map(([name, value]) => `${name}${spaces(name!, width)}  ${value}`.trimEnd());
}
