// Chat templates over @huggingface/jinja, with Transformers' context (utils/chat_template_utils.py), within the bounds of template-bounds.ts.
import { Environment, parse, tokenize } from "@huggingface/jinja";
import { type Failure, LowrankError } from "../errors.ts";
import { MAX_TEXT_MS, type TimeLimit } from "./limit.ts";
import { type Content, textOf } from "./parts.ts";
import { BoundedInterpreter, boundedRange, TooMuch } from "./template-bounds.ts";

/** Longest template source. The longest in use (tool calling) are near 20 k characters. */
export const MAX_TEMPLATE_CHARS = 256 * 1024;
/** Longest run of white space in a template: the package's tag expression is quadratic in it. */
export const MAX_TEMPLATE_BLANKS = 1024;
export const MAX_MESSAGES = 2048;
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

/** Runs `work`, which renders a conversation, under the tokenizer's time limit; the error says that the template is too slow. */
export const limitedRendering = <T>(
  { limited }: { limited: TimeLimit },
  { file }: ChatTemplate,
  { length }: readonly ChatMessage[],
  work: () => T,
): T =>
  limited(work, () => {
    return new LowrankError("template/slow", "the chat template takes too long on a conversation", {
      subject: file,
      expected: `at most ${MAX_TEXT_MS / 1000} s for finding the assistant's turns`,
      got: `more, over ${length} messages`,
      next: "split the conversation into several records, or use a chat template that only formats messages",
    });
  });

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
      const reason = typeof message === "object" ? "it gives no text" : String(message);
      throw failure(template, "refused", `the chat template refuses the conversation: ${reason}`, {
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

/** Longest format of a date. */
const MAX_FORMAT_CHARS = 256;

function strftime(format: string, date: Date): string {
  if (format.length > MAX_FORMAT_CHARS)
    throw new TooMuch(`a date's format of at most ${MAX_FORMAT_CHARS} characters`, `${format.length}`);
  return format.replace(/%(.)/g, (directive, letter: string) => {
    if (letter === "%") return letter;
    const field = Object.hasOwn(DATE_FIELDS, letter) ? DATE_FIELDS[letter] : undefined;
    if (field === undefined) throw new TypeError(`strftime_now: the directive ${directive} is not implemented`);
    return date.toLocaleString("en-US", field).padStart(2, "0");
  });
}
