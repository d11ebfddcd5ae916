// The syntax of Python's regular expressions as a tree. Follows CPython's Lib/re/_parser.py.

const MAX_REPEAT = 64;
const MAX_DEPTH = 40;

/** Whether one character (UTF-16 unit) is matched. */
export type CharTest = (char: string) => boolean;
/** A part of a pattern. `id` numbers the parts of one pattern. */
export type Node = { id: number } & (
  | { type: "char"; test: CharTest }
  | { type: "sequence"; items: Node[] }
  | { type: "choice"; options: Node[] }
  | { type: "repeat"; item: Node; min: number; max: number; lazy: boolean }
  | { type: "anchor"; test: (text: string, at: number) => boolean }
  | { type: "look"; item: Node; behind: number | null; negative: boolean }
);
/** `Node` without its id, as the parser builds it. */
type Shape = Node extends infer N ? (N extends Node ? Omit<N, "id"> : never) : never;

/** Python's flags by letter: i ignores case, in m ^ and $ match at lines, in s a dot matches line breaks. */
type Flags = Record<"i" | "m" | "s", boolean>;

const isDigit: CharTest = (c) => /\p{Nd}/u.test(c);
const isWord: CharTest = (c) => /[\p{L}\p{N}_]/u.test(c);
const isSpace: CharTest = (c) => (/\s/.test(c) || "\x1c\x1d\x1e\x1f\x85".includes(c)) && c !== "\ufeff";
const not =
  (test: CharTest): CharTest =>
  (c) =>
    !test(c);
const wordBorder = (text: string, at: number) => (at > 0 && isWord(text[at - 1]!)) !== (at < text.length && isWord(text[at]!));

const one = (test: CharTest): Shape => ({ type: "char", test });
const place = (test: (text: string, at: number) => boolean): Shape => ({ type: "anchor", test });

/** What stands for a class of characters or a place after a backslash. */
const shorthands: Record<string, Shape> = {
  d: one(isDigit),
  D: one(not(isDigit)),
  w: one(isWord),
  W: one(not(isWord)),
  s: one(isSpace),
  S: one(not(isSpace)),
  b: place(wordBorder),
  B: place((text, at) => text.length > 0 && !wordBorder(text, at)),
  A: place((_, at) => at === 0),
  Z: place((text, at) => at === text.length),
};
const controls: Record<string, string> = { n: "\n", t: "\t", r: "\r", f: "\f", v: "\v", a: "\x07" };
const hexDigits: Record<string, number> = { x: 2, u: 4, U: 8 };
const atEnd = (text: string, at: number) => at === text.length || (at === text.length - 1 && text[at] === "\n");

/**
 * The tree of a pattern and how many nodes it has. `fail` throws: for what Python refuses too, and for what is not
 * supported, by name. `embedded` forbids global flags.
 */
export function parsePattern(
  pattern: string,
  embedded: boolean,
  fail: (message: string) => never,
): { root: Node; nodes: number } {
  const source = [...pattern];
  let at = 0;
  let nodes = 0;
  const node = (shape: Shape): Node => ({ id: nodes++, ...shape }) as Node;
  const peek = (text: string) => source.slice(at, at + text.length).join("") === text;
  const take = (text: string) => {
    const found = peek(text);
    if (found) at += text.length;
    return found;
  };
  const refuse = (what: string): never => fail(`The pattern uses ${what}, which is not supported.`);

  function choice(flags: Flags, depth: number): Node {
    if (depth > MAX_DEPTH) fail(`Groups are nested more than ${MAX_DEPTH} deep.`);
    const options = [sequence(flags, depth)];
    while (take("|")) options.push(sequence(flags, depth));
    return options.length === 1 ? options[0]! : node({ type: "choice", options });
  }

  function sequence(flags: Flags, depth: number): Node {
    const items: Node[] = [];
    while (at < source.length && !peek("|") && !peek(")")) {
      const item = atom(flags, depth);
      if (item) items.push(quantified(item));
    }
    return node({ type: "sequence", items });
  }

  /** `item` with the quantifier that follows it, if any. */
  function quantified(item: Node): Node {
    const bounds = quantifier();
    if (!bounds) return item;
    if (item.type === "anchor") fail("There is nothing to repeat before a quantifier.");
    const [min, max] = bounds;
    if (max < min) fail("A quantifier's minimum is above its maximum.");
    if (Math.max(min, max === Infinity ? 0 : max) > MAX_REPEAT) fail(`A quantifier repeats more than ${MAX_REPEAT} times.`);
    if (take("+")) refuse("a possessive quantifier");
    const lazy = take("?");
    if (quantifier()) fail("A quantifier follows a quantifier.");
    return node({ type: "repeat", item, min, max, lazy });
  }

  function quantifier(): [number, number] | null {
    if (take("*")) return [0, Infinity];
    if (take("+")) return [1, Infinity];
    if (take("?")) return [0, 1];
    const braces = peek("{") && /^\{(\d*)(,?)(\d*)\}/.exec(source.slice(at, at + 24).join(""));
    if (!braces || braces[0] === "{}") return null;
    at += braces[0].length;
    const min = Number(braces[1] || 0);
    return [min, braces[2] ? (braces[3] ? Number(braces[3]) : Infinity) : min];
  }

  /** One item of a sequence; null for what matches nothing by itself, such as a comment. */
  function atom(flags: Flags, depth: number): Node | null {
    if (quantifier()) fail("There is nothing to repeat before a quantifier.");
    const char = source[at++]!;
    if (char === "(") return group(flags, depth);
    if (char === "[") return set(flags);
    if (char === "\\") return escaped(flags);
    if (char === ".") return node(one(flags.s ? () => true : (c) => c !== "\n"));
    if (char === "^") return node(place((text, i) => i === 0 || (flags.m && text[i - 1] === "\n")));
    if (char === "$") return node(place((text, i) => atEnd(text, i) || (flags.m && text[i] === "\n")));
    return literal(char, flags);
  }

  const literal = (char: string, flags: Flags) => {
    const folded = char.toLowerCase();
    return node(one(flags.i ? (c) => c.toLowerCase() === folded : (c) => c === char));
  };

  function group(flags: Flags, depth: number): Node | null {
    const close = (item: Node): Node => (take(")") ? item : fail("A group is not closed."));
    if (!take("?") || take(":")) return close(choice(flags, depth + 1));
    if (take("#")) {
      while (at < source.length && source[at] !== ")") at++;
      if (!take(")")) fail("A comment is not closed.");
      return null;
    }
    if (take(">")) refuse("an atomic group (?>…)");
    if (take("(")) refuse("a conditional group (?(…)…)");
    if (take("P=")) refuse("a back-reference (?P=…)");
    if (take("P<")) {
      const name = /^([\p{L}_][\p{L}\p{N}_]*)>/u.exec(source.slice(at, at + 256).join(""));
      if (!name) return fail("A group's name is not an identifier.");
      at += [...name[0]].length;
      return close(choice(flags, depth + 1));
    }
    const behind = peek("<=") || peek("<!");
    if (behind) at++;
    if (peek("=") || peek("!")) {
      const negative = source[at++] === "!";
      const item = close(choice(flags, depth + 1));
      const width = behind ? widthOf(item) : null;
      if (behind && width === null) fail("A look-behind has no fixed width.");
      return node({ type: "look", item, behind: width, negative });
    }
    return flagged(flags, depth, close);
  }

  /** `(?i)` at the pattern's start, or `(?i-s:…)`; the text after `(?`. */
  function flagged(flags: Flags, depth: number, close: (item: Node) => Node): Node | null {
    const start = at - 2;
    const found = /^([a-zA-Z]*)(?:-([a-zA-Z]+))?([:)])/.exec(source.slice(at, at + 24).join(""));
    if (!found || found[0] === ")") return fail("A group starts with an extension that Python does not know.");
    const inner = { ...flags };
    for (const on of [true, false]) {
      for (const letter of found[on ? 1 : 2] ?? "") {
        if (letter === "i" || letter === "m" || letter === "s") inner[letter] = on;
        else if (letter !== "u" || !on) refuse(`the flag "${letter}"`);
      }
    }
    at += found[0].length;
    if (found[3] === ":") return close(choice(inner, depth + 1));
    if (start > 0 || embedded || found[2]) fail("Global flags are not at the start of the expression.");
    Object.assign(flags, inner);
    return null;
  }

  function escaped(flags: Flags): Node {
    const char = source[at];
    if (char === undefined) return fail("The pattern ends in a backslash.");
    const shape = shorthands[char];
    if (shape) {
      at++;
      return node(shape);
    }
    if (/[1-9]/.test(char)) return refuse(`a back-reference \\${char}`);
    return literal(escapedChar(), flags);
  }

  /** The character that the escape after a backslash stands for. */
  function escapedChar(): string {
    const char = source[at++]!;
    if (controls[char]) return controls[char];
    const digits = hexDigits[char];
    if (digits !== undefined) {
      const hex = source.slice(at, at + digits).join("");
      at += digits;
      const code = new RegExp(`^[0-9a-fA-F]{${digits}}$`).test(hex) ? Number.parseInt(hex, 16) : Infinity;
      return code <= 0x10ffff ? String.fromCodePoint(code) : fail(`\\${char}${hex} is not a character.`);
    }
    if (char === "0") {
      const octal = /^[0-7]{0,2}/.exec(source.slice(at, at + 2).join(""))![0];
      at += octal.length;
      return String.fromCodePoint(Number.parseInt(`0${octal}`, 8));
    }
    return /[a-zA-Z0-9]/.test(char) ? fail(`\\${char} is not an escape that Python knows.`) : char;
  }

  /** A character class, after its "[". */
  function set(flags: Flags): Node {
    const negated = take("^");
    const tests: CharTest[] = [];
    for (let first = true; first || !peek("]"); first = false) {
      const low = setItem();
      if (peek("-") && source[at + 1] !== "]" && at + 1 < source.length) {
        at++;
        const high = setItem();
        if (typeof low !== "string" || typeof high !== "string" || low.codePointAt(0)! > high.codePointAt(0)!) {
          return fail("A character range is out of order.");
        }
        tests.push((c) => c.codePointAt(0)! >= low.codePointAt(0)! && c.codePointAt(0)! <= high.codePointAt(0)!);
      } else tests.push(typeof low === "string" ? (c) => c === low : low);
    }
    at++;
    const exact: CharTest = (c) => tests.some((test) => test(c));
    const any: CharTest = flags.i ? (c) => exact(c) || exact(c.toLowerCase()) || exact(c.toUpperCase()) : exact;
    return node(one(negated ? not(any) : any));
  }

  function setItem(): string | CharTest {
    const char = source[at++];
    if (char === undefined) return fail("A character class is not closed.");
    if (char !== "\\") return char;
    const next = source[at];
    if (next === undefined) return fail("A character class is not closed.");
    const shape = shorthands[next];
    const item = shape?.type === "char" ? shape.test : next === "b" ? "\b" : undefined;
    if (item === undefined) return escapedChar();
    at++;
    return item;
  }

  const root = choice({ i: false, m: false, s: false }, 0);
  if (at < source.length) fail('A ")" closes no group.');
  return { root, nodes };
}

/** How many characters every match of `node` has; null if that varies. */
function widthOf(node: Node): number | null {
  switch (node.type) {
    case "char":
      return 1;
    case "anchor":
    case "look":
      return 0;
    case "sequence": {
      const widths = node.items.map(widthOf);
      return widths.includes(null) ? null : widths.reduce<number>((sum, width) => sum + width!, 0);
    }
    case "choice": {
      const widths = new Set(node.options.map(widthOf));
      return widths.size === 1 ? [...widths][0]! : null;
    }
    case "repeat": {
      const width = widthOf(node.item);
      return width !== null && node.min === node.max ? width * node.min : null;
    }
  }
}
