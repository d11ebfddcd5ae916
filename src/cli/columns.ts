// Two texts side by side on a terminal: words wrapped to a width, the right one as it grows.

const ZERO = /[\p{Mark}\p{Cf}]/u;
/** Characters two cells wide: those of East Asian scripts, and pictures (after Unicode's EastAsianWidth). */
const WIDE =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const widthOf = (character: string): number => (ZERO.test(character) ? 0 : WIDE.test(character) ? 2 : 1);

/** Cells that a line of text takes. */
export function cells(text: string): number {
  let sum = 0;
  for (const character of text) sum += widthOf(character);
  return sum;
}

/** Lines of at most `width` cells: broken at spaces, inside a word only where it alone is wider. */
export function wrap(text: string, width: number): string[] {
  return text
    .replaceAll("\t", "  ")
    .split("\n")
    .flatMap((line) => wrapLine(line, width));
}

function wrapLine(line: string, width: number): string[] {
  const lines: string[] = [];
  let current = "";
  for (const word of line.split(/(?<= )/)) {
    if (cells(current + word.trimEnd()) > width && current !== "") {
      lines.push(current.trimEnd());
      current = "";
    }
    for (const character of word) {
      if (cells(current) + widthOf(character) > width && character !== " ") {
        lines.push(current);
        current = "";
      }
      current += character;
    }
  }
  return [...lines, current.trimEnd()];
}

/** Writes `left` beside a text that grows: each line when it can no longer change, and at the end what is left of both. */
export function besideGrowing(left: string, columnWidth: number, write: (line: string) => void) {
  const lines = wrap(left, columnWidth);
  let right = "";
  let done = 0;
  const put = (text: string) => {
    const cell = lines[done++] ?? "";
    write(`${cell}${" ".repeat(columnWidth - cells(cell))} │ ${text}`.trimEnd());
  };
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
