// commands/chat: turns, commands, formats and limits of a conversation on the tiny checkpoint; the terminal's view of it.
// slow
import assert from "node:assert/strict";
import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { type LoraConfig, loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { type Adapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import {
  type Chat,
  type ChatEvent,
  type ChatOptions,
  messageFormat,
  openChat,
  tellFormat,
} from "../../src/commands/chat/chat.ts";
import { enter } from "../../src/commands/chat/chat-commands.ts";
import { type ChatView, terminalView } from "../../src/commands/chat/chat-view.ts";
import { readRecords } from "../../src/data/readers.ts";
import { readSamplingDefaults } from "../../src/generate/sampling-defaults.ts";
import { loadBase, withLayersOf } from "../../src/models/base.ts";
import { nodePlatform } from "../../src/node.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { besideGrowing, cells, wrap } from "../../src/terminal/columns.ts";
import { terminalText } from "../../src/terminal/terminal.ts";
import { shown } from "../../src/units.ts";
import { collect, only } from "../helpers/assert.ts";
import { lowrank } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const root = temporaryFolder();

/** The tiny checkpoint with other files beside its weights; null leaves one out. */
function variant(name: string, changes: Record<string, unknown>): string {
  const folder = path.join(root, name);
  cpSync(base, folder, { recursive: true, filter: (file) => !file.endsWith("model.safetensors") });
  symlinkSync(`${base}/model.safetensors`, `${folder}/model.safetensors`);
  for (const [file, value] of Object.entries(changes)) writeFileSync(`${folder}/${file}`, JSON.stringify(value));
  return folder;
}

/** An adapter with an effect; `prompts` goes into the run.json beside it. */
async function adapter(
  name: string,
  seed: number,
  prompts?: unknown,
  { layerReplication = null, ...more }: Pick<Adapter, "baseFingerprint"> & Partial<Pick<LoraConfig, "layerReplication">> = {},
): Promise<string> {
  const { modules, config } = withLayersOf(await loadBase(nodeFiles, base), layerReplication);
  const fields = { rank: 4, alpha: 160, targetModules: "all-linear", initLoraWeights: false } as const;
  const lora = loraConfig({ ...fields, layerReplication });
  const matched = matchModules(modules, lora, config.modelType);
  const folder = path.join(root, name);
  const tensors = initAdapter(matched, lora, seed);
  await writeAdapter(nodeFiles, folder, { config: lora, modules: matched, tensors, ...more });
  if (prompts) writeFileSync(`${folder}/run.json`, JSON.stringify({ version: 1, options: {}, prompts }));
  return folder;
}

async function chatting(
  options: Partial<ChatOptions>,
  work: (chat: Chat, line: (text: string) => Promise<ChatEvent[]>) => Promise<void>,
) {
  const chat = await openChat({ base, threads: 1, maxNewTokens: 8, ...options }, nodePlatform);
  try {
    await work(chat, (text) => collect(enter(chat, text)));
  } finally {
    await chat.generator.close();
  }
}

const answers = (events: readonly ChatEvent[]) => only(events, "answered").map(({ by, text }) => [by, text]);
const notes = (events: readonly ChatEvent[]) =>
  only(events, "note")
    .map(({ text }) => text)
    .join("\n");

test("turns, undo, retry, reset: the model sees the conversation, and each answer streams", async () => {
  await chatting({ temperature: 1, seed: 7 }, async (chat, line) => {
    const first = await line("name[Cocum]");
    const [answered] = only(first, "answered");
    assert.equal(
      only(first, "token")
        .map(({ text }) => text)
        .join(""),
      answered!.text,
    );
    assert.ok(answered!.tokens > 1 && answered!.text.length > 0);
    const used = chat.stats.contextTokens;
    await line("near[The Bakers]");
    assert.ok(chat.stats.contextTokens > used + answered!.tokens, "the second turn holds the first");
    assert.deepEqual(
      chat.exchanges.map(({ user }) => user),
      ["name[Cocum]", "near[The Bakers]"],
    );
    const before = chat.exchanges[1]!.answer;
    const [again] = answers(await line("/retry"));
    assert.equal(chat.exchanges.length, 2);
    assert.equal(chat.exchanges[1]!.answer, again![1]);
    assert.notEqual(again![1], before, "another seed, another answer");
    assert.match(notes(await line("/undo")), /near\[The Bakers\]/);
    assert.equal(chat.exchanges.length, 1);
    await line("/reset");
    assert.equal(chat.exchanges.length, 0);
    await assert.rejects(line("/undo"), { code: "chat/empty" });
    await assert.rejects(line("/retry"), { code: "chat/empty" });
    assert.deepEqual(await line("   "), []);
  });
});

test("the same seed gives the same conversation", async () => {
  const texts: string[][] = [];
  for (const seed of [3, 3, 4]) {
    await chatting({ temperature: 1, seed }, async (chat, line) => {
      for (const text of ["name[Cocum]", "//name"]) await line(text);
      texts.push(chat.exchanges.map(({ answer }) => answer));
      assert.equal(chat.exchanges[1]!.user, "/name");
    });
  }
  assert.deepEqual(texts[0], texts[1]);
  assert.notDeepEqual(texts[0], texts[2]);
});

test("adapters are switched by name, read from a folder, taken off, and compared with the base", async () => {
  const [one, two] = [await adapter("one", 1), await adapter("two", 2)];
  await chatting({ adapter: [one] }, async (chat, line) => {
    const message = "name[The Eagle], food[Italian]";
    const texts: Record<string, string> = {};
    for (const command of ["/adapter one", `/adapter ${two}`, "/adapter off"]) {
      await line(command);
      const [[by, text]] = answers(await line(message)) as [[string, string]];
      texts[by] = text;
      await line("/reset");
    }
    assert.deepEqual(Object.keys(texts), ["one", "two", "base"]);
    assert.equal(new Set(Object.values(texts)).size, 3, "three different answers");
    assert.match(notes(await line("/compare")), /^two answers now\.\nEvery message is answered by the base and by two\.$/);
    assert.deepEqual(answers(await line(message)), [
      ["base", texts["base"]],
      ["two", texts["two"]],
    ]);
    assert.deepEqual(
      chat.exchanges.map(({ answer }) => answer),
      [texts["two"]],
    );
    await line("/compare");
    assert.equal(only(await line("more"), "answer").length, 1);
    assert.equal(notes(await line("/compare off")), "One answer a message.");
    assert.match(notes(await line("/compare one")), /base and by one\.$/);
    assert.equal(only(await line("/compare"), "note").length, 1);
    assert.equal(chat.compare, false);
    await line("/adapter two");
    assert.match(notes(await line("/adapter")), / {2}one\n\* two\n {2}base/);
    await assert.rejects(line("/adapter tow"), { code: "chat/adapter", expected: /^one of two, one, off/ });
    await assert.rejects(line(`/adapter ${base}`), /adapter_config/);
    assert.equal(chat.active, "two");
  });
});

test("an adapter of another base is refused unless any is allowed, and what is refused is not listed", async () => {
  const other = await adapter("other", 3, undefined, { baseFingerprint: "3:0123456789abcdef" });
  const again = await adapter("again", 4, undefined, {
    layerReplication: [
      [0, 2],
      [1, 2],
    ],
  });
  await assert.rejects(openChat({ base, adapter: [other] }, nodePlatform), { code: "adapter/other-base", next: /--any-base/ });
  await chatting({}, async (chat, line) => {
    await assert.rejects(line(`/adapter ${other}`), { code: "adapter/other-base" });
    await assert.rejects(line(`/adapter ${again}`), { code: "adapter/layers" });
    assert.deepEqual([chat.adapters.size, chat.active, chat.last], [0, null, null]);
    assert.deepEqual(answers(await line("name[Cocum]"))[0]![0], "base");
  });
  await chatting({ adapter: [other], anyBase: true }, async (chat, line) => {
    assert.equal(answers(await line("name[Cocum]"))[0]![0], "other");
    await line("/adapter off");
    await line(`/adapter ${other}/`);
    assert.equal(chat.adapters.size, 2);
  });
  const small = { ...nodePlatform, adapterLimits: { maxRank: 2 } };
  await assert.rejects(openChat({ base, adapter: [other], anyBase: true }, small), { code: "adapter/limit" });
});

test("an adapter trained on prompts and completions is asked as in its data, whatever template the base has", async () => {
  const folder = await adapter("prompted", 1, { kind: "completion", before: "Q: ", after: "\n" });
  await chatting({ adapter: [folder] }, async (chat, line) => {
    assert.match(
      [...tellFormat(chat)].map((event) => (event as { text: string }).text).join(),
      /prompts and completions.*"Q: ".*"\\n"/,
    );
    assert.deepEqual([...tellFormat(chat)], [], "shown once");
    await line("why");
    assert.equal(chat.exchanges[0]!.prompt, "Q: why\n");
    const tokens = chat.tokenizer.encode("Q: why\n").length;
    assert.equal(chat.stats.contextTokens, tokens + only(await line("why"), "answered")[0]!.tokens, "no turn before is seen");
    assert.equal(chat.exchanges[0]!.answer, chat.exchanges[1]!.answer);
    const file = path.join(root, "prompts.jsonl");
    await line(`/save ${file}`);
    const saved = await collect(readRecords(nodeFiles, file));
    assert.deepEqual(saved[1]!.record, { prompt: "Q: why\n", completion: chat.exchanges[1]!.answer });
    assert.match(notes(await line("/system Be brief")), /no effect/);
    await line("/adapter off");
    assert.equal(messageFormat(chat).kind, "messages");
  });
  await chatting({ adapter: [folder], raw: false }, async (chat) => assert.equal(messageFormat(chat).kind, "messages"));
  await chatting({ adapter: [folder], raw: true }, async (chat, line) => {
    await line("why");
    assert.equal(chat.exchanges[0]!.prompt, "why");
  });
});

test("without a chat template messages are continued as text, and a note is shown", async () => {
  const config = JSON.parse(readFileSync(`${base}/tokenizer_config.json`, "utf8"));
  const folder = variant("bare", { "tokenizer_config.json": { ...config, chat_template: undefined } });
  await chatting({ base: folder }, async (chat, line) => {
    assert.match(notes([...tellFormat(chat)]), /no chat template/);
    await line("name[Cocum]");
    assert.equal(chat.exchanges[0]!.prompt, "name[Cocum]");
  });
  await assert.rejects(openChat({ base: folder, raw: false }, nodePlatform), { code: "generate/no-template" });
});

test("a conversation is saved as train takes it, and never over a file that was there", async () => {
  await chatting({ system: "Be brief" }, async (chat, line) => {
    const file = path.join(root, "talk.jsonl");
    await assert.rejects(line(`/save ${file}`), { code: "chat/empty" });
    await line('say "hi"');
    await assert.rejects(line("/save talk.txt"), { code: "chat/save" });
    await assert.rejects(line("/save"), { code: "chat/save" });
    await line(`/save ${file}`);
    await line("more");
    await line(`/save ${file}`);
    const [saved] = await collect(readRecords(nodeFiles, file));
    assert.ok("messages" in saved!.record);
    assert.deepEqual(saved!.record.messages, [
      { role: "system", content: "Be brief" },
      ...chat.exchanges.flatMap(({ user, answer }) => [
        { role: "user", content: user },
        { role: "assistant", content: answer },
      ]),
    ]);
    const other = path.join(root, "there.jsonl");
    writeFileSync(other, "mine");
    await assert.rejects(line(`/save ${other}`), { code: "chat/save" });
    assert.equal(readFileSync(other, "utf8"), "mine");
  });
});

test("at the limit of the positions the oldest exchanges are dropped, with a note; a message that alone is too long fails", async () => {
  await chatting({ maxNewTokens: 60 }, async (chat, line) => {
    const long = "name[The Eagle], food[Italian], area[riverside], near[Burger King] ".repeat(6);
    let shown = "";
    for (let i = 0; i < 5; i++) shown += notes(await line(`${i} ${long}`));
    assert.match(shown, /no longer fits the model's 512 positions.*\/reset/);
    assert.equal(chat.exchanges.length, 5, "the history is whole");
    assert.ok(chat.firstSeen > 0 && chat.firstSeen < 5);
    assert.ok(chat.stats.contextTokens <= 512);
    const before = { exchanges: [...chat.exchanges], firstSeen: chat.firstSeen };
    await assert.rejects(line(long.repeat(10)), { code: "generate/prompt" });
    assert.deepEqual({ exchanges: chat.exchanges, firstSeen: chat.firstSeen }, before);
    assert.equal(only(await line("/history"), "history")[0]!.firstSeen, chat.firstSeen);
  });
});

test("a signal stops the answer, and what was said stays", async () => {
  await chatting({ maxNewTokens: 300, adapter: [await adapter("stopped", 1)] }, async (chat) => {
    const stop = new AbortController();
    let text = "";
    for await (const event of enter(chat, "name[Cocum]", stop.signal)) {
      if (event.type === "token") text += event.text;
      if (event.type === "token" && text.length > 10) stop.abort();
      if (event.type === "answered") assert.equal(event.reason, "stopped");
    }
    assert.deepEqual(
      chat.exchanges.map(({ answer }) => answer),
      [text],
    );
    chat.compare = true;
    const early = new AbortController();
    for await (const event of enter(chat, "name[Cocum]", early.signal)) if (event.type === "token") early.abort();
    assert.equal(chat.exchanges.length, 1, "the adapter has not answered");
  });
});

test("unknown commands suggest the nearest", async () => {
  await chatting({}, async (_, line) => {
    for (const [wrong, right] of [
      ["/hist", "/history"],
      ["/undoo", "/undo"],
      ["/stat", "/stats"],
      ["/toString", "/"],
    ]) {
      await assert.rejects(line(wrong!), (error: { code: string; expected: string }) => {
        assert.equal(error.code, "chat/command");
        assert.ok(error.expected.startsWith(`perhaps ${right}`), error.expected);
        return true;
      });
    }
    assert.match(notes(await line("/help")), /\/retry +answer the last message again/);
    assert.deepEqual(await line("/quit"), [{ type: "quit" }]);
    assert.equal(only(await line("/stats"), "stats")[0]!.maxPositions, 512);
  });
});

test("sampling is the checkpoint's unless it is given; options are checked before the weights load", async () => {
  const greedy = { temperature: 0, topK: 0, topP: 1, repetitionPenalty: 1 };
  assert.deepEqual(await readSamplingDefaults(nodeFiles, base), greedy);
  const sampled = variant("sampled", { "generation_config.json": { do_sample: true, temperature: 0.6, top_p: 0.9 } });
  assert.deepEqual(await readSamplingDefaults(nodeFiles, sampled), { ...greedy, temperature: 0.6, topP: 0.9, topK: 50 });
  const penalized = variant("penalized", { "generation_config.json": { temperature: 0.6, repetition_penalty: 1.1 } });
  assert.deepEqual(await readSamplingDefaults(nodeFiles, penalized), { ...greedy, repetitionPenalty: 1.1 });
  const broken = variant("broken", { "generation_config.json": { do_sample: true, top_p: "much" } });
  await assert.rejects(readSamplingDefaults(nodeFiles, broken), { code: "generate/config", got: '"much"' });
  await chatting({ base: sampled, topP: 0.5 }, async ({ sampling }) => {
    assert.deepEqual(sampling, { ...greedy, temperature: 0.6, topK: 50, topP: 0.5, seed: 0 });
  });
  const closed = { ...nodePlatform, openSession: () => assert.fail("the engine was opened") };
  await assert.rejects(openChat({ base, temperature: -1 }, closed), { code: "generate/option", subject: "temperature" });
  await assert.rejects(openChat({ base, compare: true }, closed), { code: "chat/compare" });
  await assert.rejects(openChat({ base, adapter: [base] }, closed), /adapter_config/);
});

/** Runs lowrank chat with messages from a pipe. */
const piped = (input: string, ...more: string[]) =>
  lowrank(["chat", "--base", base, "--threads", "1", "--max-new-tokens", "8", ...more], { input });

test("from a pipe each line is a message, a backslash joins lines, and the status reports failures", async () => {
  const folder = await adapter("piped", 1, { kind: "completion", before: "", after: "\n" });
  const { status, stdout, stderr } = await piped(
    "name[Cocum]\\\nfood[Thai]\n\n/compare\nname[Cocum]\n/quit\nnever\n",
    "--adapter",
    folder,
  );
  assert.equal(status, 0, stderr);
  await chatting({ adapter: [folder] }, async (chat, line) => {
    await line("name[Cocum]\nfood[Thai]");
    await line("/compare");
    const expected = answers(await line("name[Cocum]")).map(([by, text]) => `[${by}]\n${text}\n`);
    assert.equal(stdout, `${chat.exchanges[0]!.answer}\n${expected.join("")}`);
  });
  assert.match(stderr, /prompts and completions/);
  const json = await piped("hello\n/nothing\n", "--json");
  const types = json.stdout
    .trim()
    .split("\n")
    .map((text) => JSON.parse(text).type);
  assert.deepEqual([types[0], types.at(-1), json.status], ["answer", "answered", 2]);
  assert.equal(JSON.parse(json.stderr).error, "chat/command");
});

/** What a terminal of so many columns is given for these events. */
function screenOf(columns: number, events: ChatEvent[], compare = true): string {
  let text = "";
  const view: ChatView = terminalView(
    {
      write(part) {
        text += terminalText(part);
      },
      columns: () => columns,
    },
    { compare: () => compare, label: () => false },
  );
  for (const event of events) view(event);
  return text;
}
const answer = (by: string, ...parts: string[]): ChatEvent[] => [
  { type: "answer", by },
  ...parts.map((text): ChatEvent => ({ type: "token", by, text })),
  { type: "answered", by, text: parts.join(""), reason: "eos", tokens: parts.length, seconds: 1 },
];

test("two answers stand side by side where there is room, else one after another", () => {
  const events = [...answer("base", "one ", "two"), ...answer("mine", "three ", "four\n", "five")];
  const rows = screenOf(100, events).split("\n");
  assert.match(rows.at(-3)!, /^one two {41,} │ three four$/);
  assert.match(rows.at(-2)!, /^ {48} │ five$/);
  const narrow = screenOf(60, events);
  assert.ok(narrow.indexOf("one two\n") < narrow.indexOf("three four\nfive\n") && narrow.includes("one two\n"), narrow);
});

test("notes are wrapped between words", () => {
  const words = screenOf(40, [{ type: "note", text: `${"word ".repeat(30)}end` }]);
  const rows = words.split("\n").map((row) => shown(row).replace(/\\u001b\[\d+m/g, ""));
  assert.ok(rows.length >= 4 && rows.every((row) => row.length <= 40 && /^(word ?)*(end)?$/.test(row)), rows.join("|"));
});

/** What a terminal shows after this output: text, line breaks, cursor to the left, rest of the line erased. */
function terminalRows(output: string): string[] {
  const rows: string[][] = [[]];
  let column = 0;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences are what is read
  for (const [part, back] of output.matchAll(/\u001b\[(\d+)D|\u001b\[K|[\s\S]/gu)) {
    if (back !== undefined) column -= Number(back);
    else if (part === "\u001b[K") rows.at(-1)!.length = column;
    else if (part === "\n") {
      rows.push([]);
      column = 0;
    } else rows.at(-1)![column++] = part;
  }
  return rows.map((row) => row.join("").trimEnd());
}

test("an answer alone is wrapped between words as it grows, however its tokens are cut", () => {
  const text = "The dragon flew over thirteen mountains and\n  a supercalifragilisticexpialidocious river, twice.";
  const wanted = [
    "The dragon flew over",
    "thirteen mountains",
    "and",
    "  a",
    "supercalifragilistice",
    "xpialidocious river,",
    "twice.",
  ];
  for (const size of [1, 2, 3, 7, 200]) {
    const tokens = text.match(new RegExp(`[\\s\\S]{1,${size}}`, "g"))!;
    assert.deepEqual(terminalRows(screenOf(22, answer("base", ...tokens), false)).slice(0, -1), wanted, `tokens of ${size}`);
  }
});

test("a model cannot write to the terminal's state", () => {
  assert.equal(shown("a\x1b[2Jb\rc\x9bd\n\te"), "a\\u001b[2Jb\\u000dc\\u009bd\n\te");
  const hostile = answer("base", "\x1b]0;title\x07", "x");
  for (const columns of [60, 100]) {
    const screen = screenOf(columns, [...hostile, ...answer("\x1b[31mmine", "\x1b[5n")]);
    const own = screen.split("\x1b").slice(1);
    assert.ok(own.length > 0 && own.every((rest) => /^\[(K|2m|22m)/.test(rest)), JSON.stringify(screen));
    assert.ok(!screen.includes("\x07"));
  }
});

test("words are wrapped by cells", () => {
  assert.deepEqual(wrap("one two three", 7), ["one two", "three"]);
  assert.deepEqual(wrap("abcdefghij\n\nx", 4), ["abcd", "efgh", "ij", "", "x"]);
  assert.deepEqual(wrap("日本語です", 4), ["日本", "語で", "す"]);
  assert.equal(cells("e\u0301日🙂"), 5);
  const lines: string[] = [];
  const wrapping = besideGrowing("left side", 4, (line) => lines.push(line));
  for (const part of ["aa b", "b c", "c dd"]) wrapping.push(part);
  assert.deepEqual(lines, ["left │ aa", "side │ bb", "     │ cc"]);
  wrapping.end();
  assert.deepEqual(lines, ["left │ aa", "side │ bb", "     │ cc", "     │ dd"]);
});
