// A conversation with a base and its adapters, without a terminal: what it holds, and one turn of it as events.

import { attach } from "../../adapters/attach.ts";
import { type Adapter, openAdapter } from "../../adapters/peft-files.ts";
import { stopwatch } from "../../clock.ts";
import { asPrompt, type PromptFormat } from "../../data/prompts.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { readGenerateOptions } from "../../generate/generate.ts";
import { type Generator, openGenerator } from "../../generate/generator.ts";
import { encodeChat } from "../../generate/prompts.ts";
import { readSamplingDefaults } from "../../generate/sampling-defaults.ts";
import type { EndReason, GenerateOptions, Sampling } from "../../generate/types.ts";
import type { BaseDtype } from "../../graph/pack.ts";
import type { ProcessedImage } from "../../images/processor.ts";
import { type Base, loadBase } from "../../models/base.ts";
import { encodeWithImages } from "../../multimodal/expand.ts";
import { type ImageSide, imageSide, noImages } from "../../multimodal/images.ts";
import { onDevice } from "../../platform/devices.ts";
import type { Platform } from "../../platform/platform.ts";
import type { DeviceChoice } from "../../runtime/devices.ts";
import type { ChatMessage } from "../../text/template.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { readPromptFormat } from "../../train/run-file.ts";

/** Tokens of one answer at most, where nothing else is said. */
export const CHAT_NEW_TOKENS = 512;
/** At least this share of the model's positions (or `maxNewTokens`, if that is less) is kept free for the answer. */
const ANSWER_SHARE = 1 / 4;
/** Who answers without an adapter. */
export const BASE_NAME = "base";

export interface ChatOptions extends Omit<GenerateOptions, "signal" | "eosIds"> {
  /** Folder of the base checkpoint. */
  base: string;
  /** Folders of adapters to switch between; the first one is attached. */
  adapter?: readonly string[];
  /** Adapters that were made for another base of the same shape are accepted. */
  anyBase?: boolean;
  system?: string;
  /** true: messages are continued as they are; false: always by the chat template. Default: as the model was trained. */
  raw?: boolean;
  /** Every message is answered by the base and by the adapter. */
  compare?: boolean;
  /** What the base's weights are kept in. Default: float32. */
  baseDtype?: BaseDtype;
  /** Threads of one matrix product. Default: all cores. */
  threads?: number;
  /** What computes; the processor if absent. */
  device?: DeviceChoice;
}

export interface Exchange {
  user: string;
  /** What the model was given, where that is a text of its own and no conversation. */
  prompt: string | null;
  /** Paths of the images before the message. */
  images: readonly string[];
  answer: string;
}

/** An adapter of a conversation. `format`: how it was trained to be asked; null if its folder does not say. */
interface ChatAdapter {
  folder: string;
  adapter: Adapter;
  format: PromptFormat | null;
}

/** A conversation. Close its generator to free the weights. */
export interface Chat {
  readonly files: Files;
  readonly base: Base;
  readonly baseFormat: PromptFormat | null;
  readonly tokenizer: Tokenizer;
  /** What of the model reads images; null if it reads none. */
  readonly side: ImageSide | null;
  /** Images of the conversation by their paths, and the paths of those that go with the next message. */
  readonly prepared: Map<string, ProcessedImage>;
  pending: readonly string[];
  readonly generator: Generator;
  /** By name: the last part of the folder, or the whole path where that name is in use. */
  readonly adapters: Map<string, ChatAdapter>;
  /** What adapters are accepted. */
  readonly anyBase: boolean;
  readonly adapterLimits: Platform["adapterLimits"];
  active: string | null;
  /** The one that was attached last, for comparisons while none is. */
  last: string | null;
  readonly raw: boolean | undefined;
  system: string | null;
  compare: boolean;
  exchanges: Exchange[];
  /** Exchanges before this one no longer fit the model's positions: it does not see them. */
  firstSeen: number;
  readonly sampling: Sampling;
  readonly maxNewTokens: number;
  readonly stop: readonly string[];
  stats: ChatStats;
  /** What was last said about how messages are sent. */
  noted: string;
  /** Files that this conversation was saved to. */
  readonly saved: Set<string>;
}

export interface ChatStats {
  answers: number;
  tokens: number;
  seconds: number;
  /** Of the last answer: its speed, and the positions that it and what came before take. */
  lastTokensPerSecond: number | null;
  contextTokens: number;
  maxPositions: number;
}

export type ChatEvent =
  /** What the person should know. */
  | { type: "note"; text: string }
  /** An answer begins; `by` is an adapter's name or "base". */
  | { type: "answer"; by: string }
  | { type: "token"; by: string; text: string }
  /** An answer's end. `stopped`: by the signal. */
  | { type: "answered"; by: string; text: string; reason: EndReason | "stopped"; tokens: number; seconds: number }
  | ({ type: "stats" } & ChatStats)
  | { type: "history"; exchanges: readonly Exchange[]; firstSeen: number }
  | { type: "quit" };

/** Opens a conversation. What can fail without the weights (adapters, options, a missing template) fails before they load. */
export async function openChat(options: ChatOptions, given: Platform): Promise<Chat> {
  const platform = await onDevice(given, options.device);
  const { files, openSession, timeLimit, adapterLimits } = platform;
  const { anyBase = false, system = null, raw, compare = false, baseDtype, threads, maxNewTokens = CHAT_NEW_TOKENS } = options;
  const base = await loadBase(files, options.base, timeLimit);
  const tokenizer = await base.tokenizer();
  const defaults = await readSamplingDefaults(files, options.base);
  const { sampling, stop } = readGenerateOptions({ ...defaults, ...options, maxNewTokens });
  if (raw === false && !tokenizer.template) encodeChat(tokenizer, []);
  const adapters: Chat["adapters"] = new Map();
  const reading = { files, base, anyBase, adapterLimits };
  for (const folder of options.adapter ?? []) adapters.set(nameFor(adapters, folder), await readChatAdapter(reading, folder));
  const [active = null] = adapters.keys();
  if (compare && active === null) throw nothingToCompare();
  const baseFormat = await readPromptFormat(files, options.base);
  const adapter = adapterOf({ adapters }, active);
  const generator = await openGenerator(base, {
    ...{ adapter, anyBase, openSession, baseDtype, threads },
    reusePrefix: true,
    reading: platform,
  });
  const { maxPositions } = base.config;
  const stats = { answers: 0, tokens: 0, seconds: 0, lastTokensPerSecond: null, contextTokens: 0, maxPositions };
  const side = imageSide(base, tokenizer, platform);
  const opened = { ...reading, baseFormat, tokenizer, side, generator, adapters };
  const chosen = { raw, system, compare, sampling, maxNewTokens, stop, active, last: active };
  const said = { noted: "", firstSeen: 0, exchanges: [], pending: [], prepared: new Map(), saved: new Set<string>() };
  return { ...opened, ...chosen, ...said, stats };
}

/** Reads an adapter, and checks that it fits. */
async function readChatAdapter(
  { files, base, anyBase, adapterLimits }: Pick<Chat, "files" | "base" | "anyBase" | "adapterLimits">,
  folder: string,
): Promise<ChatAdapter> {
  const { adapter } = await attach(base, await openAdapter(files, folder, adapterLimits), { anyBase });
  return { folder, adapter, format: await readPromptFormat(files, folder) };
}

function nameFor(adapters: Chat["adapters"], folder: string): string {
  const short = folder.replace(/\/+$/, "").split("/").at(-1)!;
  return adapters.has(short) || ["", ".", "..", BASE_NAME, "off"].includes(short) ? folder : short;
}

const adapterOf = ({ adapters }: Pick<Chat, "adapters">, name: string | null): Adapter | null =>
  name === null ? null : adapters.get(name)!.adapter;

/** Reads an adapter and attaches it; resolves to the name that it then has. One that is refused gets none. */
export async function addAdapter(chat: Chat, folder: string): Promise<string> {
  const added = await readChatAdapter(chat, folder);
  await chat.generator.useAdapter(added.adapter);
  const name = nameFor(chat.adapters, folder);
  chat.adapters.set(name, added);
  chat.active = name;
  chat.last = name;
  return name;
}

/** Attaches another adapter by name, or none. */
export async function switchTo(chat: Chat, name: string | null): Promise<void> {
  await chat.generator.useAdapter(adapterOf(chat, name));
  chat.active = name;
  chat.last = name ?? chat.last;
}

/** Whether the messages are answered by the base and by an adapter. */
export const isComparing = ({ compare, active }: Chat): boolean => compare && active !== null;

/** How messages are sent now: as asked for, as the adapter or the base was trained, or by the template where there is one. */
export function messageFormat({ raw, adapters, active, baseFormat, tokenizer }: Chat): PromptFormat {
  if (raw === true) return { kind: "text" };
  const trained = active === null ? null : adapters.get(active)!.format;
  const format = raw === false ? null : (trained ?? baseFormat);
  if (format && format.kind !== "messages") return format;
  return tokenizer.template ? { kind: "messages" } : { kind: "text" };
}

/** How messages are sent, in words, when that is not by the chat template; noted when it changes. */
export function* tellFormat(chat: Chat): Iterable<ChatEvent> {
  const text = describeFormat(chat);
  if (text !== "" && text !== chat.noted) yield { type: "note", text };
  chat.noted = text;
}

function describeFormat(chat: Chat): string {
  const format = messageFormat(chat);
  if (format.kind === "messages") return "";
  const alone = "Each message is continued on its own: the model does not see the ones before, nor a system message.";
  if (format.kind === "text") {
    if (chat.raw) return `${alone} (--raw)`;
    return chat.tokenizer.template ? `Trained on plain texts. ${alone}` : `The model has no chat template. ${alone}`;
  }
  const { before, after } = format;
  const added = [before && `${JSON.stringify(before)} in front`, after && `${JSON.stringify(after)} behind it`].filter(Boolean);
  const around = added.length > 0 ? `, with ${added.join(" and ")}` : "";
  return `Trained on prompts and completions: what you write is a prompt as in the data${around}. ${alone}`;
}

/** Prepares an image for the next message; resolves to its path. Fails with `model/no-images` and `image/…`. */
export async function attachImage(chat: Chat, file: string): Promise<string> {
  if (!chat.side) throw noImages(chat.base);
  const image = await chat.side.prepare(file);
  const path = await chat.files.realPath(file);
  chat.prepared.set(path, image);
  chat.pending = [...chat.pending, path];
  return path;
}

/**
 * One turn: the message goes to the model, and with `compare` to the base first. The exchange joins the history when the
 * answer ends or is stopped; one that is stopped before the adapter's turn, or that fails, leaves the conversation as it was.
 */
export async function* say(
  chat: Chat,
  user: string,
  signal?: AbortSignal,
  paths: readonly string[] = chat.pending,
): AsyncGenerator<ChatEvent, void, undefined> {
  const { prompt, ids, images, firstSeen } = fitted(chat, user, paths);
  if (firstSeen > chat.firstSeen) yield { type: "note", text: forgotten(firstSeen, chat.base.config.maxPositions) };
  const speakers = isComparing(chat) ? [null, chat.active] : [chat.active];
  // Each answer has a seed of its own, so that another try is another answer.
  const seed = chat.sampling.seed + chat.stats.answers;
  let answer: string | null = null;
  try {
    for (const speaker of speakers) {
      answer = null;
      if (speakers.length > 1) await chat.generator.useAdapter(adapterOf(chat, speaker));
      const by = speaker ?? BASE_NAME;
      yield { type: "answer", by };
      const elapsed = stopwatch();
      let [text, tokens, reason] = ["", 0, "stopped" as EndReason | "stopped"];
      try {
        const options = { ...chat.sampling, seed, maxNewTokens: chat.maxNewTokens, stop: chat.stop, signal };
        for await (const event of chat.generator.generate([{ ids, images }], options)) {
          if (event.type === "done") reason = event.reason;
          else {
            tokens++;
            text += event.text;
            if (event.text !== "") yield { type: "token", by, text: event.text };
          }
        }
      } catch (error) {
        if (!signal?.aborted) throw error;
      }
      const seconds = elapsed();
      const { stats } = chat;
      stats.answers++;
      stats.tokens += tokens;
      stats.seconds += seconds;
      stats.lastTokensPerSecond = seconds > 0 && tokens > 0 ? tokens / seconds : null;
      stats.contextTokens = ids.length + tokens;
      answer = text;
      yield { type: "answered", by, text, reason, tokens, seconds };
      if (reason === "stopped" && speaker !== speakers.at(-1)) return;
      if (reason === "length" && tokens < chat.maxNewTokens) {
        yield { type: "note", text: `The answer ends here: the model's ${chat.stats.maxPositions} positions are used up.` };
      }
    }
    chat.exchanges.push({ user, prompt, images: paths, answer: answer! });
    if (paths === chat.pending) chat.pending = [];
    chat.firstSeen = firstSeen;
  } finally {
    if (speakers.length > 1) await switchTo(chat, chat.active);
  }
}

/** The messages of the conversation from the exchange `first` on. */
export function messagesOf({ system, exchanges }: Chat, first = 0): ChatMessage[] {
  const turns = exchanges
    .slice(first)
    .flatMap(({ user, images, answer }) => [question(user, images), { role: "assistant", content: answer }]);
  return system === null ? turns : [{ role: "system", content: system }, ...turns];
}

function question(user: string, images: readonly string[]): ChatMessage {
  const parts = images.map((image) => ({ type: "image", image }) as const);
  return { role: "user", content: images.length === 0 ? user : [...parts, { type: "text", text: user }] };
}

/** What the model is given for a message: of the conversation as much as leaves room for an answer, the newest first. */
function fitted(chat: Chat, user: string, paths: readonly string[]) {
  const { tokenizer, maxNewTokens, exchanges, side } = chat;
  const prepared = (all: readonly string[]): ProcessedImage[] => all.map((path) => chat.prepared.get(path)!);
  const format = messageFormat(chat);
  if (format.kind !== "messages") {
    const { firstSeen } = chat;
    const own = format.kind === "completion" ? asPrompt(user, format) : user;
    if (!side || paths.length === 0) return { prompt: own, ids: tokenizer.encode(own), images: [], firstSeen };
    const images = prepared(paths);
    const prompt = side.text.token.repeat(images.length) + own;
    return { prompt, ids: encodeWithImages(tokenizer, side.text, prompt, [], images).ids, images, firstSeen };
  }
  const { maxPositions } = chat.base.config;
  const room = Math.min(maxNewTokens, Math.floor(maxPositions * ANSWER_SHARE));
  for (let firstSeen = chat.firstSeen; ; firstSeen++) {
    const messages = [...messagesOf(chat, firstSeen), question(user, paths)];
    const images = prepared([...exchanges.slice(firstSeen).flatMap((exchange) => exchange.images), ...paths]);
    const ids = encodeChat(tokenizer, messages, side ? { text: side.text, images } : undefined);
    if (ids.length + room <= maxPositions || firstSeen >= exchanges.length) return { prompt: null, ids, images, firstSeen };
  }
}

const forgotten = (count: number, maxPositions: number): string =>
  `The conversation no longer fits the model's ${maxPositions} positions: it does not see the first ${count === 1 ? "exchange" : `${count} exchanges`} any more. /reset clears it.`;

export const nothingToCompare = (): LowrankError =>
  new LowrankError("chat/compare", "there is no adapter to compare the base with", {
    next: "Give one: --adapter FOLDER, or /adapter FOLDER in the conversation.",
  });
