// What a line of a conversation is: a message, or a command behind a slash. The table of commands.
import { LowrankError, nearest } from "../../errors.ts";
import { checkOutputFile } from "../../files.ts";
import {
  addAdapter,
  attachImage,
  BASE_NAME,
  type Chat,
  type ChatEvent,
  isComparing,
  messageFormat,
  messagesOf,
  nothingToCompare,
  say,
  switchTo,
  tellFormat,
} from "./chat.ts";

type Events = Iterable<ChatEvent> | AsyncIterable<ChatEvent>;

interface Command {
  argument?: string;
  help: string;
  run(chat: Chat, argument: string, signal?: AbortSignal): Events;
}

const note = (text: string): ChatEvent => ({ type: "note", text });

const commands: Record<string, Command> = {
  help: { help: "this list", run: () => [note(help())] },
  adapter: { argument: "[NAME|FOLDER|off]", help: "use another adapter, or none; alone: which there are", run: useAdapter },
  compare: {
    argument: "[NAME|FOLDER|off]",
    help: "compare each answer with the base's: on or off",
    run: toggleCompare,
  },
  image: { argument: "[FILE]", help: "show an image with the next message; alone: show none", run: showImage },
  undo: { help: "forget the last exchange", run: undo },
  retry: { help: "answer the last message again", run: retry },
  reset: { help: "forget all exchanges; the system message stays", run: reset },
  system: { argument: "[TEXT]", help: "set the system message; alone: remove it", run: setSystem },
  history: { help: "show the conversation", run: ({ exchanges, firstSeen }) => [{ type: "history", exchanges, firstSeen }] },
  save: { argument: "FILE", help: "write the conversation as a .jsonl file that train reads", run: save },
  stats: { help: "speed, and how much of the context is used", run: ({ stats }) => [{ type: "stats", ...stats }] },
  quit: { help: "leave (also Ctrl+D)", run: () => [{ type: "quit" }] },
};

/** The names of the commands, with their slashes. */
export const commandNames: readonly string[] = Object.keys(commands).map((name) => `/${name}`);

/**
 * Takes one line: a command, or a message ("//" in front of a message that begins with a slash). Nothing on a blank line.
 * Fails with `chat/command` on an unknown command, and with what reading, encoding and generating fail with; the
 * conversation is then as it was.
 */
export async function* enter(chat: Chat, line: string, signal?: AbortSignal): AsyncGenerator<ChatEvent, void, undefined> {
  if (line.trim() === "") return;
  if (!line.startsWith("/") || line.startsWith("//")) {
    return yield* say(chat, line.replace(/^\/\//, "/"), signal);
  }
  const [, name, argument] = /^\/(\S*)\s*([\s\S]*)$/.exec(line)!;
  const command = Object.hasOwn(commands, name!) ? commands[name!]! : undefined;
  if (!command) {
    const written = `/${name!.slice(0, 64)}`;
    const likely = commandNames.find((known) => known.startsWith(written)) ?? nearest(written, commandNames)[0];
    throw new LowrankError("chat/command", `there is no command ${written}`, {
      expected: `perhaps ${likely}`,
      next: "/help lists the commands; a message that begins with a slash is written with two.",
    });
  }
  yield* command.run(chat, argument!.trim(), signal);
}

function help(): string {
  const rows = Object.entries(commands).map(([name, { argument, help }]) => [`/${name}${argument ? ` ${argument}` : ""}`, help]);
  const width = Math.max(...rows.map(([usage]) => usage!.length));
  return rows.map(([usage, text]) => `${usage!.padEnd(width)}  ${text}`).join("\n");
}

async function* useAdapter(chat: Chat, argument: string): AsyncGenerator<ChatEvent> {
  if (argument === "") {
    const rows = [...chat.adapters.keys(), BASE_NAME].map((name) => `${name === (chat.active ?? BASE_NAME) ? "*" : " "} ${name}`);
    return yield note(rows.join("\n"));
  }
  const none = argument === "off" || argument === BASE_NAME;
  const isNew = !none && !chat.adapters.has(argument);
  if (isNew) await requireFolder(chat, argument);
  const name = none ? null : isNew ? await addAdapter(chat, argument) : argument;
  if (!isNew) await switchTo(chat, name);
  yield note(name === null ? "The base answers now." : `${name} answers now.`);
  yield* tellFormat(chat);
}

async function requireFolder({ files, adapters }: Chat, folder: string): Promise<void> {
  if (await files.exists(folder)) return;
  const names = nearest(folder.slice(0, 256), adapters.keys(), 5);
  throw new LowrankError("chat/adapter", "there is no such adapter", {
    subject: folder,
    expected: names.length > 0 ? `one of ${names.join(", ")}, off, or an adapter's folder` : "off, or an adapter's folder",
    next: "/adapter alone lists the adapters.",
  });
}

/** While the base answers alone, comparing begins with the adapter that was attached last. */
async function* toggleCompare(chat: Chat, argument: string): AsyncGenerator<ChatEvent> {
  if (argument === "off" || (isComparing(chat) && argument === "")) chat.compare = false;
  else {
    const wanted = argument || (chat.active ?? chat.last);
    if (wanted === null) throw nothingToCompare();
    if (wanted !== chat.active) yield* useAdapter(chat, wanted);
    chat.compare = true;
  }
  yield note(isComparing(chat) ? `Every message is answered by the base and by ${chat.active}.` : "One answer a message.");
}

async function* showImage(chat: Chat, file: string): AsyncGenerator<ChatEvent> {
  if (file === "") chat.pending = [];
  else await attachImage(chat, file);
  const count = chat.pending.length;
  const names = chat.pending.map((path) => path.split(/[\\/]/).at(-1)).join(", ");
  const images = count === 1 ? "an image" : `${count} images`;
  yield note(`The next message has ${count === 0 ? "no image." : `${images}: ${names}`}`);
}

function* undo(chat: Chat): Generator<ChatEvent> {
  const last = lastOf(chat);
  chat.exchanges.pop();
  chat.firstSeen = Math.min(chat.firstSeen, chat.exchanges.length);
  yield note(`Forgotten: ${JSON.stringify(last.user.slice(0, 60))}`);
}

async function* retry(chat: Chat, _: string, signal?: AbortSignal): AsyncGenerator<ChatEvent> {
  const last = lastOf(chat);
  if (chat.sampling.temperature === 0) yield note("Without sampling the answer to the same words is the same (--temperature).");
  const { exchanges, firstSeen } = chat;
  chat.exchanges = exchanges.slice(0, -1);
  try {
    yield* say(chat, last.user, signal, last.images);
  } finally {
    if (chat.exchanges.length < exchanges.length) Object.assign(chat, { exchanges, firstSeen });
  }
}

function* reset(chat: Chat): Generator<ChatEvent> {
  Object.assign(chat, { exchanges: [], firstSeen: 0, pending: [] });
  chat.prepared.clear();
  yield note("The conversation is cleared.");
}

function* setSystem(chat: Chat, argument: string): Generator<ChatEvent> {
  chat.system = argument === "" ? null : argument;
  yield note(argument === "" ? "There is no system message." : "The system message is set.");
  if (chat.system !== null && messageFormat(chat).kind !== "messages") {
    yield note("It has no effect on this model: messages are sent without a template.");
  }
}

async function* save(chat: Chat, file: string): AsyncGenerator<ChatEvent> {
  lastOf(chat);
  if (!/\.jsonl$/i.test(file)) {
    throw new LowrankError("chat/save", "train reads no file of this name", {
      subject: file === "" ? "/save" : file,
      expected: "a name that ends in .jsonl",
      next: `Write /save ${file === "" ? "conversation" : file}.jsonl`,
    });
  }
  if (!chat.saved.has(file) && (await chat.files.exists(file))) {
    throw new LowrankError("chat/save", "the file is there already", { subject: file, next: "Choose another name." });
  }
  const inputs = [chat.base.checkpoint.folder, ...[...chat.adapters.values()].map(({ folder }) => folder)];
  await checkOutputFile(chat.files, file, { force: true, inputs });
  const isChat = messageFormat(chat).kind === "messages";
  const pairs = chat.exchanges.map(({ user, prompt, images, answer }) => {
    return { prompt: prompt ?? user, completion: answer, ...(images.length > 0 && { images }) };
  });
  const records = isChat ? [{ messages: messagesOf(chat) }] : pairs;
  const text = records.map((record) => `${JSON.stringify(record)}\n`).join("");
  await chat.files.write(file, new TextEncoder().encode(text));
  chat.saved.add(file);
  yield note(`Saved to ${file}: ${records.length === 1 ? "1 record" : `${records.length} records`}.`);
}

function lastOf({ exchanges }: Chat): Chat["exchanges"][number] {
  const last = exchanges.at(-1);
  if (last) return last;
  throw new LowrankError("chat/empty", "there are no messages yet", { next: "Write a message first." });
}
