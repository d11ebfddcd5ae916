// Python's `re` syntax matched without backtracking, for patterns from adapter configs of strangers.
import { LowrankError } from "../errors.ts";
import { type CharTest, type Node, parsePattern } from "./regex-syntax.ts";

/*
 * JavaScript's RegExp differs from Python's `re` in syntax and can take exponential time. Here a pattern becomes a tree,
 * and `ends(node, position)` is the list of places where a match of the node that starts there may end, in the order in
 * which a backtracking engine would try them, computed once per node and position. Time is thus bounded by
 * nodes × positions², and what every pattern of a job may use together by `MatchBudget`.
 * Back-references, atomic groups and possessive quantifiers do not fit this scheme; they are refused by name.
 */
const MAX_PATTERN_CHARS = 16_384;
/** Longest module path that is matched; the longest of known models have about 120 characters. */
export const MAX_PATH_CHARS = 512;

/** Steps that the patterns of one job may take together; a few hundred are usual for a pattern and a path. */
export interface MatchBudget {
  left: number;
}
export const matchBudget = (): MatchBudget => ({ left: 20_000_000 });

/** A compiled pattern. */
export interface Pattern {
  /** Whether it has alternatives outside of any group. */
  readonly hasAlternatives: boolean;
  /** Python's `re.fullmatch(source, path)`. */
  fullmatch(path: string): boolean;
  /** Python's `re.match("(.*\\.)?(source)$", path)`: whether the whole path or what follows one of its dots matches. */
  matchesEnd(path: string): boolean;
  /** Where a match that starts at `start` may end, in the order in which Python's engine would try them. */
  ends(path: string, start: number): number[];
}

/** Where the components of `path` begin: 0 and behind each dot. */
export function beginningsOf(path: string): number[] {
  const places = [0];
  for (let dot = path.indexOf("."); dot >= 0; dot = path.indexOf(".", dot + 1)) places.push(dot + 1);
  return places;
}

/**
 * Compiles a Python regular expression. `subject` names the option it comes from in errors. With `embedded`, the pattern
 * stands inside another one, where Python allows no global flags.
 * Throws `lora/regex` for invalid patterns, constructs that are not supported (named), and patterns that cost too much.
 */
export function compilePattern(source: string, subject: string, budget: MatchBudget, embedded = false): Pattern {
  const fail = (message: string, next?: string): never => {
    throw new LowrankError("lora/regex", message, {
      subject,
      expected: "a regular expression in Python's syntax, without back-references, atomic groups and possessive quantifiers",
      got: source.length > 200 ? `${source.slice(0, 200)}… (${source.length} characters)` : source,
      next: next ?? "Correct the pattern, or list the module names instead.",
    });
  };
  if (source.length > MAX_PATTERN_CHARS) fail(`The pattern is longer than ${MAX_PATTERN_CHARS} characters.`);
  const { root, nodes } = parsePattern(source, embedded, fail);
  const spend = (steps: number) => {
    budget.left -= steps;
    if (budget.left < 0) fail("Matching the pattern takes too many steps.", "Use a simpler pattern, or list the module names.");
  };
  const ends = (text: string, start: number): number[] => {
    if (text.length > MAX_PATH_CHARS) fail(`A module path is longer than ${MAX_PATH_CHARS} characters.`);
    return run(root, nodes, text, start, spend);
  };
  // Most keys of rank patterns are names and dots alone, one for each module: JavaScript reads those in the same way.
  const plainEnd = /^[\w.-]+$/.test(source) ? new RegExp(`(?:^|\\.)${source}$`, "s") : null;
  const matchesEnd = (path: string) => {
    if (!plainEnd) return beginningsOf(path).some((start) => ends(path, start).includes(path.length));
    spend(1);
    return plainEnd.test(path);
  };
  return {
    hasAlternatives: root.type === "choice",
    ends,
    matchesEnd,
    fullmatch: (path) => ends(path, 0).includes(path.length),
  };
}

/** All ends of matches of `root` that start at `start`. A Set keeps the order of first insertion: the engine's priority. */
function run(root: Node, nodes: number, text: string, start: number, spend: (steps: number) => void): number[] {
  const memo = new Map<number, number[]>();
  const remember = (key: number, compute: () => number[]): number[] => {
    const known = memo.get(key);
    if (known) return known;
    const found = compute();
    spend(1 + found.length);
    memo.set(key, found);
    return found;
  };
  const keyOf = (node: Node, count: number, at: number) => (count * nodes + node.id) * (text.length + 1) + at;

  const ends = (node: Node, at: number): number[] => {
    switch (node.type) {
      case "char":
        spend(1);
        return at < text.length && node.test(text[at]!) ? [at + 1] : [];
      case "anchor":
        return node.test(text, at) ? [at] : [];
      case "look": {
        const from = node.behind === null ? at : at - node.behind;
        const found = from >= 0 && (node.behind === null ? ends(node.item, from).length > 0 : ends(node.item, from).includes(at));
        return found !== node.negative ? [at] : [];
      }
      case "sequence":
        return remember(keyOf(node, 0, at), () => {
          let places = [at];
          for (const item of node.items) {
            if (places.length === 0) break;
            places = places.length === 1 ? ends(item, places[0]!) : union(places, (place) => ends(item, place));
          }
          return places;
        });
      case "choice":
        return remember(keyOf(node, 0, at), () => union(node.options, (option) => ends(option, at)));
      case "repeat":
        return node.item.type === "char" ? span(node, node.item.test, at) : repeat(node, at, 0);
    }
  };
  /** The repeat of a single character: one scan. */
  const span = ({ min, max, lazy }: Node & { type: "repeat" }, test: CharTest, at: number): number[] => {
    const places: number[] = [];
    for (let place = at; place - at <= max; place++) {
      if (place - at >= min) places.push(place);
      if (place === text.length || !test(text[place]!)) break;
    }
    spend(1 + places.length);
    return lazy ? places : places.reverse();
  };
  const repeat = (node: Node & { type: "repeat" }, at: number, count: number): number[] =>
    remember(keyOf(node, count, at), () => {
      // Beyond `min`, an unbounded repeat need not count, and an iteration that consumes nothing ends it.
      const next = node.max === Infinity ? Math.min(count + 1, node.min) : count + 1;
      const optional = count >= node.min;
      const again =
        count < node.max
          ? union(ends(node.item, at), (place) => (optional && place === at ? [] : repeat(node, place, next)))
          : [];
      if (!optional) return again;
      return node.lazy ? union([[at], again], (list) => list) : union([again, [at]], (list) => list);
    });
  function union<T>(items: readonly T[], endsOf: (item: T) => readonly number[]): number[] {
    const places = new Set<number>();
    for (const item of items) {
      const found = endsOf(item);
      spend(found.length);
      for (const place of found) places.add(place);
    }
    return [...places];
  }
  return ends(root, start);
}
