// Messages from a terminal (line editing, arrow keys for what was written before, several lines) and from a pipe (one a line).
import { createInterface } from "node:readline";
import { Writable } from "node:stream";
import { control, echo, faint, screen } from "../../terminal/terminal.ts";
import { commandNames } from "./chat-commands.ts";

/** Where messages come from. */
export interface ChatInput {
  /** The next message; null at the end. */
  next(): Promise<string | null>;
  /** Runs `work`, which Ctrl+C stops. */
  during<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T>;
  close(): void;
}

const PROMPT = "> ";
const MORE = "… ";
const EXIT_INTERRUPTED = 130;

/** A line that ends with a backslash goes on in the next. */
function assemble() {
  const parts: string[] = [];
  return {
    /** The message that the line completes; null where it goes on. */
    add(line: string): string | null {
      parts.push(line.replace(/\\$/, ""));
      if (line.endsWith("\\")) return null;
      return parts.splice(0).join("\n");
    },
    isOpen: (): boolean => parts.length > 0,
    clear: (): void => void parts.splice(0),
  };
}

/** One message a line. */
export function pipedInput(stream: NodeJS.ReadableStream): ChatInput {
  const reader = createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY });
  const lines = reader[Symbol.asyncIterator]();
  const message = assemble();
  return {
    async next() {
      for (;;) {
        const { value, done } = await lines.next();
        if (done) return message.isOpen() ? message.add("") : null;
        const whole = message.add(value);
        if (whole !== null) return whole;
      }
    },
    during: (work) => work(new AbortController().signal),
    close: () => reader.close(),
  };
}

/**
 * A person at a terminal. What is pasted is one message, however many lines it has. What is typed while an answer comes is
 * not shown until it has come. Ctrl+C stops the answer, a second one leaves at once; at the prompt it drops what is
 * written, and leaves when it comes twice with nothing written: the first may have been meant for an answer that had just
 * ended. Ctrl+D leaves.
 */
export function terminalInput(): ChatInput {
  let answering: AbortController | null = null;
  const editor = new Writable({
    write(chunk, _, done) {
      if (!answering) echo(chunk);
      done();
    },
  });
  Object.defineProperty(editor, "columns", { get: screen.columns });
  const reader = createInterface({
    input: process.stdin,
    output: editor,
    terminal: true,
    historySize: 1000,
    prompt: PROMPT,
    completer: (line: string) => [commandNames.filter((name) => name.startsWith(line)), line],
  });
  // Bracketed paste: the terminal marks where a paste begins and ends, and Node makes keys of the marks.
  screen.write(control("\x1b[?2004h"));
  let pasting = false;
  /** The key before was Ctrl+C with nothing written. */
  let leaving = false;
  const onKey = (_: string | undefined, key: { name?: string; ctrl?: boolean } | undefined) => {
    if (!(key?.ctrl && key.name === "c")) leaving = false;
    if (key?.name === "paste-start" || key?.name === "paste-end") pasting = key.name === "paste-start";
  };
  process.stdin.on("keypress", onKey);

  const message = assemble();
  const ready: string[] = [];
  let closed = false;
  let wake = () => {};
  const ask = () => {
    reader.setPrompt(message.isOpen() ? MORE : PROMPT);
    reader.prompt(true);
  };
  reader.on("line", (line) => {
    const whole = message.add(pasting ? `${line}\\` : line);
    if (whole !== null) ready.push(whole);
    if (whole !== null) wake();
    else ask();
  });
  reader.on("SIGINT", () => {
    if (answering?.signal.aborted) {
      close();
      process.exit(EXIT_INTERRUPTED);
    }
    if (answering) answering.abort();
    else if (message.isOpen() || reader.line !== "") {
      message.clear();
      screen.write("\n");
      reader.write(null, { ctrl: true, name: "e" });
      reader.write(null, { ctrl: true, name: "u" });
      ask();
    } else if (leaving) reader.close();
    else {
      screen.write(`\n${faint("Ctrl+C once more leaves.")}\n`);
      ask();
      leaving = true;
    }
  });
  reader.on("close", () => {
    closed = true;
    wake();
  });
  const close = () => {
    process.stdin.off("keypress", onKey);
    reader.close();
    screen.write(control("\x1b[?2004l"));
  };
  return {
    async next() {
      // What was typed while the answer came was not shown then.
      if (ready.length > 0) screen.write(`${PROMPT}${ready[0]!.replaceAll("\n", `\n${MORE}`)}\n`);
      else if (!closed) {
        ask();
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        wake = () => {};
      }
      const next = ready.shift() ?? null;
      if (next === null) screen.write("\n");
      return next;
    },
    async during(work) {
      answering = new AbortController();
      try {
        return await work(answering.signal);
      } finally {
        answering = null;
      }
    },
    close,
  };
}
