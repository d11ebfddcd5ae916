// What a chat template may cost: the interpreter of @huggingface/jinja 0.5, with steps, time and sizes bounded before the work.
import { Interpreter } from "@huggingface/jinja";

/** Largest rendered text, and largest value on the way to it, in characters. */
export const MAX_RENDERED_CHARS = 16 * 1024 * 1024;
/** All texts that a rendering makes, together: what it holds at once is no more. */
export const MAX_MADE_CHARS = 8 * MAX_RENDERED_CHARS;
/** What a number, a list entry or a key counts as towards MAX_RENDERED_CHARS, so that lists of nothing are bounded too. */
const VALUE_CHARS = 64;
/** What each piece counts as when a text is split on the way to another one. */
const PIECE_CHARS = 8;
/** Longest list that `range` makes. */
export const MAX_RANGE = 100_000;
/**
 * Most evaluations of a node of the template, values put into lists, and values that a loop begins with. A conversation of 1,000 turns
 * takes about 20,000.
 */
export const MAX_STEPS = 500_000;
/** The longest a rendering may take, for templates whose single steps are slow. Real ones take milliseconds. */
export const MAX_RENDER_MS = 3_000;

/** A bound that a template ran into; `message` is the bound, `got` what went over it. */
export class TooMuch extends Error {
  constructor(
    bound: string,
    readonly got: string,
  ) {
    super(bound);
  }
}

/** A value of the package's runtime, as far as it is looked at here. */
interface Value {
  type: string;
  value: unknown;
  /** Of texts: their methods. */
  builtins?: ReadonlyMap<string, Value>;
}

type Fn = (args: Value[], scope: unknown) => Value;

/** A node of a parsed template, as far as it is looked at here. */
interface Node {
  type: string;
  [key: string]: unknown;
}

/** What is used of the interpreter (its type declarations do not resolve under NodeNext, and have these functions as private). */
const Evaluator = Interpreter as new (
  environment: unknown,
) => {
  run(program: unknown): Value;
  evaluate(node: unknown, environment: unknown): Value;
  evaluateArguments(args: Node[], environment: unknown): [Value[], Map<string, Value>];
  evaluateBinaryExpression(node: Node, environment: unknown): Value;
  evaluateMemberExpression(node: Node, environment: unknown): Value;
  evaluateFor(node: Node, environment: unknown): Value;
  evaluateBlock(statements: Node[], environment: unknown): Value;
  applyFilter(operand: Value, filter: Node, environment: unknown): Value;
};

/** What a slice has in place of a border that is left out. */
const ABSENT: Node = { type: "" };
/** A node that is evaluated already. */
const given = (value: Value): Node => ({ type: "Given", value });

/** The value of an argument, by its place or its name. */
type Argument = (place: number, name: string) => unknown;

/** The most that a filter or a method of texts makes of a value, in characters. */
type Cost = (operand: Value, argument: Argument) => number;

const ofText =
  (cost: (text: string, argument: Argument) => number): Cost =>
  ({ value }, argument) =>
    typeof value === "string" ? cost(value, argument) : 0;
const numberIn = (value: unknown, absent: number): number => (typeof value === "number" ? value : absent);
const lengthIn = (value: unknown): number => (typeof value === "string" ? value.length : 0);

/** Every filter and method that makes more than the texts it is given: test/hostile/template-memory.test.ts has the list of all. */
const COSTS: ReadonlyMap<string, Cost> = new Map(
  Object.entries<Cost>({
    // A few characters become two or three.
    upper: ofText(({ length }) => length),
    lower: ofText(({ length }) => length),
    title: ofText(({ length }) => length + (length / 2) * PIECE_CHARS),
    split: ofText((text, argument) => {
      const separator = argument(0, "sep") ?? null;
      return text.length + VALUE_CHARS * (separator === null ? words(text) : 1 + occurrences(text, separator));
    }),
    replace: ofText((text, argument) => {
      const most = numberIn(argument(2, "count"), -1);
      const found = occurrences(text, argument(0, ""));
      return text.length + found * PIECE_CHARS + (most < 0 ? found : Math.min(found, most)) * lengthIn(argument(1, ""));
    }),
    indent: ofText((text, argument) => {
      const lines = 1 + occurrences(text, "\n");
      return text.length + lines * (PIECE_CHARS + numberIn(argument(0, "width"), 4));
    }),
    join: ({ value }, argument) => {
      const separator = lengthIn(argument(0, "separator"));
      if (typeof value === "string") return value.length * (PIECE_CHARS + separator);
      return Array.isArray(value) ? value.reduce((sum: number, part: Value) => sum + separator + textLength(part), 0) : 0;
    },
    string: textLength,
    tojson(operand, argument) {
      const separators = argument(-1, "separators");
      const separator = Array.isArray(separators)
        ? separators.reduce((sum: number, part: Value) => sum + lengthIn(part.value), 0)
        : 4;
      return jsonLength(operand, { separator, indent: numberIn(argument(-1, "indent"), 0) });
    },
    // The path of an attribute is split for each item.
    map: (_, argument) => lengthIn(argument(-1, "attribute")) * PIECE_CHARS,
    sort: (_, argument) => lengthIn(argument(2, "attribute")) * PIECE_CHARS,
  }),
);

/** How often `wanted` is in a text, at most; no more than there may be of pieces. */
function occurrences(text: string, wanted: unknown): number {
  if (typeof wanted !== "string") return 0;
  if (wanted === "") return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(wanted); at >= 0 && count * PIECE_CHARS <= MAX_RENDERED_CHARS; count++)
    at = text.indexOf(wanted, at + wanted.length);
  return count;
}

function words(text: string): number {
  let count = 0;
  for (const _ of text.matchAll(/\S+/g)) if (++count * VALUE_CHARS > MAX_RENDERED_CHARS) break;
  return count;
}

/** How long a value is as text, at most. */
function textLength(value: Value): number {
  return typeof value.value === "string" ? value.value.length : jsonLength(value, { separator: 4, indent: 0 });
}

/** How long a value is as JSON, at most: with `separator` characters for each part, and `indent` for each level. */
function jsonLength({ value }: Value, style: { separator: number; indent: number }, depth = 1): number {
  if (typeof value === "string") return quotedLength(value);
  if (!Array.isArray(value) && !(value instanceof Map)) return VALUE_CHARS;
  const before = style.separator + (style.indent === 0 ? 0 : 1 + style.indent * depth);
  let length = before + 2;
  for (const [key, part] of value.entries() as Iterable<[unknown, Value]>) {
    const name = typeof key === "string" ? quotedLength(key) : 0;
    length = bounded(length + before + name + jsonLength(part, style, depth + 1));
  }
  return length;
}

/** How long a text is in quotes, with whatever may be escaped as \uXXXX. */
function quotedLength(text: string): number {
  let length = text.length + 2;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 0x20 || code > 0x7e) length += 5;
    else if (code === 0x22 || code === 0x5c) length++;
  }
  return length;
}

/** Operators that join both sides as text or as lists. == and != compare a list with a text as JSON, which is not kept. */
const TEXT_OPERATORS = new Set(["+", "~"]);

/**
 * Every node of a template is evaluated through `evaluate`, so that is where steps and time are bounded. The functions below it make
 * larger values of smaller ones: each of them adds up what it will make before it does.
 */
export class BoundedInterpreter extends Evaluator {
  private steps = 0;
  private made = 0;
  private readonly deadline = performance.now() + MAX_RENDER_MS;

  override evaluate(node: unknown, environment: unknown): Value {
    const { type, value: known } = (node ?? ABSENT) as Node;
    if (type === "Given") return known as Value;
    if (++this.steps > MAX_STEPS) throw new TooMuch(`at most ${MAX_STEPS} steps`, "more, such as loops within loops");
    if (performance.now() > this.deadline) throw new TooMuch(`at most ${MAX_RENDER_MS} ms`, "a longer rendering");
    const value = super.evaluate(node, environment);
    const isNew = !weights.has(value);
    weigh(value);
    // Making a list of n values is n steps.
    if (isNew && Array.isArray(value.value)) this.steps += value.value.length;
    if (type === "Identifier" && known === "namespace" && value.type === "FunctionValue") return this.namespace(value);
    return value;
  }

  private make(chars: number): void {
    bounded(chars);
    this.made += chars;
    if (this.made > MAX_MADE_CHARS) throw new TooMuch(`at most ${MAX_MADE_CHARS} characters made on the way to the text`, "more");
  }

  /** The entries of a list or mapping as steps, where each of them is copied. */
  private count({ value }: Value): void {
    this.steps += Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0;
  }

  override evaluateArguments(args: Node[], environment: unknown): [Value[], Map<string, Value>] {
    const counted = args.map((node) => {
      if (node.type !== "SpreadExpression" && node.type !== "KeywordSpreadExpression") return node;
      const value = this.evaluate(node["argument"], environment);
      this.count(value);
      return { ...node, argument: given(value) };
    });
    return super.evaluateArguments(counted, environment);
  }

  override evaluateFor(node: Node, environment: unknown): Value {
    const select = node["iterable"] as Node;
    const isSelect = select.type === "SelectExpression";
    const values = this.evaluate(isSelect ? select["lhs"] : select, environment);
    this.count(values);
    return super.evaluateFor({ ...node, iterable: isSelect ? { ...select, lhs: given(values) } : given(values) }, environment);
  }

  override evaluateBlock(statements: Node[], environment: unknown): Value {
    let text = "";
    for (const statement of statements) {
      const value = this.evaluate(statement, environment);
      if (value.type === "NullValue" || value.type === "UndefinedValue") continue;
      this.make(textLength(value));
      text += value.toString();
      bounded(text.length);
    }
    return like(EMPTY, text);
  }

  override evaluateBinaryExpression(node: Node, environment: unknown): Value {
    const operator = node["operator"] as { value: string };
    if (!TEXT_OPERATORS.has(operator.value)) return super.evaluateBinaryExpression(node, environment);
    const left = this.evaluate(node["left"], environment);
    const right = this.evaluate(node["right"], environment);
    const areLists = operator.value === "+" && Array.isArray(left.value) && Array.isArray(right.value);
    for (const side of areLists ? [] : [left, right]) if (typeof side.value === "object") this.make(textLength(side));
    const known = { type: node.type, operator, left: given(left), right: given(right) };
    const result = super.evaluateBinaryExpression(known, environment);
    this.make(lengthIn(result.value));
    return result;
  }

  override applyFilter(operand: Value, filter: Node, environment: unknown): Value {
    const callee = (filter["callee"] ?? filter) as { value: string };
    const cost = COSTS.get(callee.value);
    if (!cost) return super.applyFilter(operand, filter, environment);
    const [args, named] = this.evaluateArguments((filter["args"] ?? []) as Node[], environment);
    this.make(cost(operand, argumentIn(args, named)));
    if (filter["args"] === undefined) return super.applyFilter(operand, filter, environment);
    const known = [...named].map(([key, value]) => ({
      type: "KeywordArgumentExpression",
      key: { value: key },
      value: given(value),
    }));
    return super.applyFilter(operand, { ...filter, args: [...args.map(given), ...known] }, environment);
  }

  override evaluateMemberExpression(node: Node, environment: unknown): Value {
    const { type, property, computed } = node;
    const object = this.evaluate(node["object"], environment);
    const isText = typeof object.value === "string";
    if (isText && (property as Node).type === "SliceExpression") this.make(lengthIn(object.value) * PIECE_CHARS);
    const value = super.evaluateMemberExpression({ type, property, computed, object: given(object) } as Node, environment);
    if (!isText || value.type !== "FunctionValue") return value;
    const [name] = [...object.builtins!].find(([, method]) => method === value)!;
    return this.method(name, object, value);
  }

  /** A method of a text. Of strip, lstrip and rstrip the package leaves the characters to strip out of account. */
  private method(name: string, text: Value, method: Value): Value {
    const [, ends] = /^(l|r|)strip$/.exec(name) ?? [];
    const cost = COSTS.get(name);
    return wrapped(method, (args, call) => {
      const named = args.find(({ type }) => type === "KeywordArgumentsValue")?.value as Map<string, Value> | undefined;
      const positional = args.filter(({ type }) => type !== "KeywordArgumentsValue");
      if (cost) this.make(cost(text, argumentIn(positional, named)));
      const characters = args.length === 1 ? positional[0]?.value : undefined;
      if (ends === undefined || typeof characters !== "string") return call();
      return like(text, strip(text.value as string, characters, ends));
    });
  }

  /** Where a pair of a namespace is a text, it is split into characters before it is refused. */
  private namespace(value: Value): Value {
    return wrapped(value, (args, call) => {
      const [pairs] = args.map((arg) => arg.value);
      if (Array.isArray(pairs)) for (const pair of pairs as Value[]) this.make(lengthIn(pair.value) * VALUE_CHARS);
      return call();
    });
  }
}

/** A text of the package's, whose class it does not export. */
const EMPTY = new Evaluator(undefined).evaluate({ type: "StringLiteral", value: "" }, undefined);

/** A value of the same class. */
const like = (value: Value, content: unknown): Value => new (value.constructor as new (content: unknown) => Value)(content);

const wrapped = (fn: Value, around: (args: Value[], call: () => Value) => Value): Value =>
  like(fn, ((args, scope) => around(args, () => (fn.value as Fn)(args, scope))) satisfies Fn);

const argumentIn =
  (args: readonly Value[], named: ReadonlyMap<string, Value> | undefined): Argument =>
  (place, name) =>
    (args[place] ?? named?.get(name))?.value;

/** Python's str.lstrip ("l"), str.rstrip ("r") or str.strip (""). */
function strip(text: string, characters: string, ends: string): string {
  const set = new Set(characters);
  const isPair = (at: number) => (text.codePointAt(at) ?? 0) > 0xffff;
  let start = 0;
  let end = text.length;
  const first = () => text.slice(start, start + (isPair(start) ? 2 : 1));
  const last = () => text.slice(end - (end - 2 >= start && isPair(end - 2) ? 2 : 1), end);
  if (ends !== "r") while (start < end && set.has(first())) start += first().length;
  if (ends !== "l") while (end > start && set.has(last())) end -= last().length;
  return text.slice(start, end);
}

const weights = new WeakMap<Value, number>();

/**
 * Characters that a value could render to, counting what it holds as often as it holds it (a list of the same list ten
 * times over, nested ten deep, is small in memory and endless as text). Lists and mappings never change, so theirs is kept.
 */
function weigh(value: Value): number {
  const { value: content } = value;
  if (typeof content === "string") return bounded(VALUE_CHARS + content.length);
  if (!Array.isArray(content) && !(content instanceof Map)) return VALUE_CHARS;
  const known = weights.get(value);
  if (known !== undefined) return known;
  let weight = VALUE_CHARS;
  for (const part of content.values() as Iterable<Value>) {
    // A namespace can be changed, even to hold itself, so it may not hide inside another value.
    if (part.type === "NamespaceValue")
      throw new TooMuch("a namespace held by a variable of its own", "a namespace inside a value");
    weight = bounded(weight + weigh(part));
  }
  if (value.type !== "NamespaceValue") weights.set(value, weight);
  return weight;
}

function bounded(weight: number): number {
  if (weight > MAX_RENDERED_CHARS)
    throw new TooMuch(`values and text of at most ${MAX_RENDERED_CHARS} characters`, "a larger one");
  return weight;
}

/** Python's range, with a bound on its length. */
export function boundedRange(first: unknown, last?: unknown, by?: unknown): number[] {
  const [start, stop, step] = last === undefined ? [0, first, 1] : [first, last, by ?? 1];
  if (![start, stop, step].every(Number.isSafeInteger) || step === 0)
    throw new TypeError("range() takes integers and a step other than 0");
  const length = Math.max(0, Math.ceil(((stop as number) - (start as number)) / (step as number)));
  if (length > MAX_RANGE) throw new TooMuch(`a range of at most ${MAX_RANGE} numbers`, `${length}`);
  return Array.from({ length }, (_, i) => (start as number) + i * (step as number));
}
