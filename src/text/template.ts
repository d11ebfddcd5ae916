// Chat templates over @huggingface/jinja, with Transformers' context (utils/chat_template_utils.py) and bounds on what a template can cost.
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { type Failure, LowrankError } from "../errors.ts";
import { type Content, textOf } from "./parts.ts";

/** Longest template source. The longest in use (tool calling) are near 20 k characters. */
export const MAX_TEMPLATE_CHARS = 256 * 1024;
/** Longest run of white space in a template: the package's tag expression is quadratic in it. */
export const MAX_TEMPLATE_BLANKS = 1024;
export const MAX_MESSAGES = 2048;
/** Largest rendered text, and largest value on the way to it, in characters. */
export const MAX_RENDERED_CHARS = 16 * 1024 * 1024;
/** What a number, a list entry or a key counts as towards MAX_RENDERED_CHARS, so that lists of nothing are bounded too. */
const VALUE_CHARS = 64;
/** Longest list that `range` makes. */
export const MAX_RANGE = 100_000;
/** Most evaluations of a node of the template, and values put into lists. A conversation of 1,000 turns takes about 20,000. */
export const MAX_STEPS = 500_000;
/** The longest a rendering may take, for templates whose single steps are slow. Real ones take milliseconds. */
export const MAX_RENDER_MS = 3_000;

/** A chat template as a checkpoint carries it. */
export interface ChatTemplate {
  source: string;
  /** The template that Transformers uses instead when tools are given. */
  toolUse?: string;
  /** Where it comes from, for messages. */
  file: string;
  /** Special tokens by the names that templates use: bos_token, eos_token, … */
  tokens: Record<string, string>;
}

/** One turn. Other keys (`tool_calls`, `name`, …) reach the template as they are. */
export interface ChatMessage {
  role: string;
  content: Content;
  [key: string]: unknown;
}

export interface RenderOptions {
  /** Ends with the header of an assistant turn. Default false. */
  addGenerationPrompt?: boolean;
  tools?: readonly unknown[];
  /** What `strftime_now` returns. Default: the present. */
  now?: Date;
}

/**
 * The text of a conversation.
 * @throws LowrankError `template/syntax`, `template/refused` (the template's own raise_exception), `template/failed`,
 * `template/limit`.
 */
export function renderChat(template: ChatTemplate, messages: readonly ChatMessage[], options: RenderOptions = {}): string {
  return renderSource(template, sourceFor(template, options), messages, options);
}

/** The source that is used for these options: the tool template where there is one and tools are given. */
export const sourceFor = (template: ChatTemplate, { tools }: RenderOptions): string =>
  tools !== undefined && template.toolUse !== undefined ? template.toolUse : template.source;

/** `renderChat` with another source in the place of the template's own. */
export const renderSource = (
  template: ChatTemplate,
  source: string,
  messages: readonly ChatMessage[],
  options: RenderOptions,
): string => renderAsIs(template, source, inFormOf(template, source, messages), options);

/** What a template makes of messages whose contents are in a form that it takes. */
function renderAsIs(
  template: ChatTemplate,
  source: string,
  messages: readonly ChatMessage[],
  { addGenerationPrompt = false, tools, now = new Date() }: RenderOptions,
): string {
  if (messages.length > MAX_MESSAGES) {
    throw failure(template, "limit", "the conversation is too long", {
      expected: `at most ${MAX_MESSAGES} messages`,
      got: `${messages.length}`,
      next: "split it into several records",
    });
  }
  const { program } = compile(template, source);
  try {
    const environment = new Environment();
    for (const [name, value] of Object.entries(CONSTANTS)) environment.set(name, value);
    environment.set("range", boundedRange);
    environment.set("strftime_now", (format: unknown) => strftime(String(format), now));
    environment.set("raise_exception", (message: unknown) => {
      throw failure(template, "refused", `the chat template refuses the conversation: ${String(message)}`, {
        next: "change the roles or contents to what the template accepts",
      });
    });
    const given = { messages, tools: tools ?? null, documents: null, add_generation_prompt: addGenerationPrompt };
    for (const [name, value] of Object.entries({ ...template.tokens, ...given })) environment.set(name, value);
    const rendered: unknown = new BoundedInterpreter(environment).run(program).value;
    if (typeof rendered !== "string") throw new TypeError("the template renders to no text");
    // The package joins a mapping to a text by JavaScript's rule, where Python refuses it.
    if (rendered.includes("[object Map]") && !JSON.stringify(messages).includes("[object Map]")) {
      throw new TypeError("a mapping where the template writes a text, such as the arguments of a tool's call");
    }
    return rendered;
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    if (error instanceof TooMuch) {
      const { message: expected, got } = error;
      throw failure(template, "limit", "the chat template was stopped", { expected, got, next: FORMAT_ONLY, cause: error });
    }
    throw failure(template, "failed", "the chat template cannot be rendered", {
      expected: JINJA,
      got: (error as Error).message,
      next: "check the messages' keys against the template, or use another template",
      cause: error,
    });
  }
}

const JINJA = "a template within the Jinja that @huggingface/jinja implements";
const FORMAT_ONLY = "use a chat template that only formats messages";

const failure = ({ file }: ChatTemplate, code: string, message: string, facts: Omit<Failure, "subject">): LowrankError =>
  new LowrankError(`template/${code}`, message, { subject: file, ...facts });

/** Which contents a template writes the text of. */
interface Forms {
  strings: boolean;
  parts: boolean;
}

const PROBE = "probe of the content";

/** Found by rendering one message of the user in either form. A list that is written as it is in Jinja is not taken. */
function formsOf(template: ChatTemplate, source: string): Forms {
  const writes = (content: Content): boolean => {
    try {
      const text = renderAsIs(template, source, [{ role: "user", content }], {});
      return text.includes(PROBE) && !/["']type["']/.test(text);
    } catch (error) {
      if (error instanceof LowrankError && error.code !== "template/limit") return false;
      throw error;
    }
  };
  const compiled = compile(template, source);
  compiled.forms ??= { strings: writes(PROBE), parts: writes([{ type: "text", text: PROBE }]) };
  return compiled.forms;
}

/** Only a template that looks at the types of parts takes parts. */
const READS_TYPES = /["']type["']|\.type\b/;

/**
 * Messages with contents that the template takes. A string becomes a list of one text where the template reads lists alone
 * (Jinja would write nothing for it), and a list of texts one string where it reads strings alone. Of an image it sees the type,
 * nothing else. Fails with `template/parts` on an image where the template reads strings alone.
 */
function inFormOf(template: ChatTemplate, source: string, messages: readonly ChatMessage[]): readonly ChatMessage[] {
  const reads = READS_TYPES.test(source);
  const hasLists = messages.some(({ content }) => Array.isArray(content));
  if (!reads && !hasLists) return messages;
  const { strings, parts } = reads ? formsOf(template, source) : { strings: true, parts: false };
  return messages.map((message) => {
    const { content } = message;
    if (typeof content === "string")
      return parts && !strings ? { ...message, content: [{ type: "text", text: content }] } : message;
    if (!Array.isArray(content)) return message;
    const bare = (content as Exclude<Content, string>).map((part) =>
      part.type === "image" ? ({ type: "image" } as const) : part,
    );
    if (parts || !strings) return { ...message, content: bare };
    if (bare.every(({ type }) => type === "text")) return { ...message, content: textOf(bare) };
    throw failure(template, "parts", "the chat template accepts only text, and the conversation has an image", {
      expected: "a template that writes parts of the type image",
      next: "use a model whose chat template knows images, or give the images with a prompt instead of a conversation",
    });
  });
}

// Title-case spellings are Jinja's own aliases.
const CONSTANTS = { true: true, false: false, none: null, True: true, False: false, None: null };

/** A parsed source, and the forms of content it takes once somebody has asked. */
interface Compiled {
  program: unknown;
  forms?: Forms;
}
const sources = new WeakMap<ChatTemplate, Map<string, Compiled>>();

function compile(template: ChatTemplate, source: string): Compiled {
  const known = sources.get(template) ?? new Map<string, Compiled>();
  sources.set(template, known);
  const compiled = known.get(source) ?? { program: parsed(template, source) };
  known.set(source, compiled);
  return compiled;
}

function parsed(template: ChatTemplate, source: string): unknown {
  const isLong = source.length > MAX_TEMPLATE_CHARS;
  const blanks = isLong ? undefined : source.match(/\s+/g)?.find(({ length }) => length > MAX_TEMPLATE_BLANKS);
  if (isLong || blanks !== undefined) {
    throw failure(template, "limit", "the chat template is too long", {
      expected: `at most ${MAX_TEMPLATE_CHARS} characters, and ${MAX_TEMPLATE_BLANKS} of white space together`,
      got: blanks === undefined ? `${source.length} characters` : `${blanks.length} characters of white space together`,
      next: FORMAT_ONLY,
    });
  }
  try {
    return parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  } catch (cause) {
    throw failure(template, "syntax", "the chat template cannot be parsed", {
      expected: JINJA,
      got: (cause as Error).message,
      next: "download the template from the model's page again, or use another one",
      cause,
    });
  }
}

/** A bound that a template ran into; `message` is the bound, `got` what went over it. */
class TooMuch extends Error {
  constructor(
    bound: string,
    readonly got: string,
  ) {
    super(bound);
  }
}

/** A value of the package's runtime, as far as it is looked at here. */
interface RuntimeValue {
  type: string;
  value: unknown;
}

/** A node of a parsed template, as far as it is looked at here: a call of a value's method. */
interface CallNode {
  type: string;
  callee?: { type: string; object: unknown; property?: { value?: unknown } };
  args?: unknown[];
}

/** Python's str.lstrip ("l"), str.rstrip ("r") or str.strip (""). */
function strip(text: string, characters: string, ends: string): string {
  const set = new Set(characters);
  const points = Array.from(text);
  let start = 0;
  let end = points.length;
  if (ends !== "r") while (start < end && set.has(points[start]!)) start++;
  if (ends !== "l") while (end > start && set.has(points[end - 1]!)) end--;
  return points.slice(start, end).join("");
}

/** What is used of @huggingface/jinja (its type declarations do not resolve under NodeNext). */
const Evaluator = Interpreter as new (
  environment: unknown,
) => { run(program: unknown): RuntimeValue; evaluate(node: unknown, environment: unknown): RuntimeValue };

/** Every node of a template is evaluated through `evaluate`, so that is where steps, time and sizes are bounded. */
class BoundedInterpreter extends Evaluator {
  private steps = 0;
  private readonly deadline = performance.now() + MAX_RENDER_MS;

  override evaluate(node: unknown, environment: unknown): RuntimeValue {
    if (++this.steps > MAX_STEPS) throw new TooMuch(`at most ${MAX_STEPS} steps`, "more, such as loops within loops");
    if (performance.now() > this.deadline) throw new TooMuch(`at most ${MAX_RENDER_MS} ms`, "a longer rendering");
    const value = this.stripped(node as CallNode | undefined, environment) ?? super.evaluate(node, environment);
    const isNew = !weights.has(value);
    weigh(value);
    // Making a list of n values is n steps.
    if (isNew && Array.isArray(value.value)) this.steps += value.value.length;
    return value;
  }

  /** A call of strip, lstrip or rstrip with the characters to strip, which the package leaves out of account. */
  private stripped(node: CallNode | undefined, environment: unknown): RuntimeValue | undefined {
    const { type, callee, args } = node ?? {};
    if (type !== "CallExpression" || args?.length !== 1 || callee?.type !== "MemberExpression") return undefined;
    const [, ends] = /^(l|r|)strip$/.exec(String(callee.property?.value)) ?? [];
    if (ends === undefined) return undefined;
    const text = this.evaluate(callee.object, environment);
    const characters = this.evaluate(args[0], environment);
    if (typeof text.value !== "string" || typeof characters.value !== "string") return undefined;
    return new (text.constructor as new (value: string) => RuntimeValue)(strip(text.value, characters.value, ends));
  }
}

const weights = new WeakMap<RuntimeValue, number>();

/**
 * Characters that a value could render to, counting what it holds as often as it holds it (a list of the same list ten
 * times over, nested ten deep, is small in memory and endless as text). Lists and mappings never change, so theirs is kept.
 */
function weigh(value: RuntimeValue): number {
  const { value: content } = value;
  if (typeof content === "string") return bounded(VALUE_CHARS + content.length);
  if (!Array.isArray(content) && !(content instanceof Map)) return VALUE_CHARS;
  const known = weights.get(value);
  if (known !== undefined) return known;
  let weight = VALUE_CHARS;
  for (const part of content.values() as Iterable<RuntimeValue>) {
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
function boundedRange(first: unknown, last?: unknown, by?: unknown): number[] {
  const [start, stop, step] = last === undefined ? [0, first, 1] : [first, last, by ?? 1];
  if (![start, stop, step].every(Number.isSafeInteger) || step === 0)
    throw new TypeError("range() takes integers and a step other than 0");
  const length = Math.max(0, Math.ceil(((stop as number) - (start as number)) / (step as number)));
  if (length > MAX_RANGE) throw new TooMuch(`a range of at most ${MAX_RANGE} numbers`, `${length}`);
  return Array.from({ length }, (_, i) => (start as number) + i * (step as number));
}

/** Python's strftime in the C locale, for local time. */
const DATE_FIELDS: Record<string, Intl.DateTimeFormatOptions> = {
  Y: { year: "numeric" },
  y: { year: "2-digit" },
  m: { month: "2-digit" },
  d: { day: "2-digit" },
  B: { month: "long" },
  b: { month: "short" },
  A: { weekday: "long" },
  a: { weekday: "short" },
  H: { hour: "2-digit", hourCycle: "h23" },
  M: { minute: "2-digit" },
  S: { second: "2-digit" },
};

function strftime(format: string, date: Date): string {
  return format.replace(/%(.)/g, (directive, letter: string) => {
    if (letter === "%") return letter;
    const field = Object.hasOwn(DATE_FIELDS, letter) ? DATE_FIELDS[letter] : undefined;
    if (field === undefined) throw new TypeError(`strftime_now: the directive ${directive} is not implemented`);
    return date.toLocaleString("en-US", field).padStart(2, "0");
  });
}
