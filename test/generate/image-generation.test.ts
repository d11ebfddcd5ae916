// Generation from conversations and texts with images, against Transformers' greedy generation (test/fixtures/image-text).
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { copyFile, rm, writeFile } from "node:fs/promises";
import { after, describe, it, test } from "node:test";
import { type Chat, type ChatEvent, openChat } from "../../src/commands/chat/chat.ts";
import { enter } from "../../src/commands/chat/chat-commands.ts";
import type { Generator } from "../../src/generate/generator.ts";
import type { Prompt } from "../../src/generate/prompts.ts";
import { loadBase, openGenerator, readImage } from "../../src/index.ts";
import { nodePlatform } from "../../src/node.ts";
import type { ChatMessage } from "../../src/text/template.ts";
import { type ImageFamily, imageFamilies, imageModel, picture } from "../helpers/image-model.ts";
import { printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const NEW_TOKENS = 10;

/** The model, and what Transformers answers. */
async function model(family: ImageFamily) {
  const { folder, expected } = await imageModel(family);
  return { folder, rows: expected.asked ?? expected.listed! };
}

async function idsOf(generator: Generator, prompts: readonly Prompt[]): Promise<number[][]> {
  const ids: number[][] = prompts.map(() => []);
  for await (const event of generator.generate(prompts, { maxNewTokens: NEW_TOKENS, eosIds: [] })) {
    if (event.type === "token") ids[event.row]!.push(event.token);
  }
  return ids;
}

for (const family of Object.keys(imageFamilies) as ImageFamily[]) {
  test(`${family}: greedy generation is Transformers', one by one and in a batch`, async () => {
    const { folder, rows } = await model(family);
    const generator = await openGenerator(folder, { threads: 1 });
    const prompts = rows.map(({ messages, text, images }): Prompt => {
      const files = images.map(picture);
      return messages ? { messages, images: files } : { text, images: files };
    });
    for (const [i, prompt] of prompts.entries())
      assert.deepEqual(await idsOf(generator, [prompt]), [rows[i]!.answer], rows[i]!.name);
    assert.deepEqual(
      await idsOf(generator, prompts),
      rows.map(({ answer }) => answer),
    );
    await generator.close();
  });
}

describe("how images are given", async () => {
  const { folder, rows } = await model("llava");
  const generator = await openGenerator(folder, { threads: 1 });
  after(() => generator.close());
  const { answer } = rows.find(({ name }) => name === "one image")!;
  const file = picture("small.png");
  const ask = (content: ChatMessage["content"]): ChatMessage[] => [{ role: "user", content }];
  const text = { type: "text", text: "What is this?" } as const;
  const ways: Record<string, Prompt> = {
    "a path in a part": ask([{ type: "image", image: file }, text]),
    "an image in memory": ask([{ type: "image", image: await readImage(file) }, text]),
    "a file: address": ask([{ type: "image", url: `file://${file}` }, text]),
    "beside a question that is a string": { messages: ask("What is this?"), images: [file] },
    "in a text": { text: "USER: <image>\nWhat is this? ASSISTANT:", images: [file] },
  };
  for (const [name, prompt] of Object.entries(ways)) {
    it(name, async () => assert.deepEqual(await idsOf(generator, [prompt]), [answer]));
  }
  it("before a text that has no place for it", async () => {
    const [first, second] = await idsOf(generator, [
      { text: "<image>Hi", images: [file] },
      { text: "Hi", images: [file] },
    ]);
    assert.deepEqual(first, second);
  });
  it("another image, another answer", async () => {
    const other = await idsOf(generator, [{ messages: ask("What is this?"), images: [picture("tall.png")] }]);
    assert.notDeepEqual(other, [answer]);
  });
});

describe("lowrank generate", () => {
  const output = async (args: string[]): Promise<string> => {
    const { status, stdout, stderr } = await printed("generate", ...args, "--max-new-tokens", "10", "--threads", "1");
    assert.equal(status, 0, stderr);
    return stdout.trimEnd();
  };
  it("--image comes before the prompt; a conversation names its images beside its file", async () => {
    const { folder } = await model("idefics3");
    const wide = await output(["--base", folder, "--prompt", "And this?", "--image", picture("wide.png")]);
    const small = await output(["--base", folder, "--prompt", "And this?", "--image", picture("small.png")]);
    assert.notEqual(wide, small);
    await copyFile(picture("wide.png"), `${folder}/cat.png`);
    const text = { type: "text", text: "And this?" };
    const named = [{ role: "user", content: [{ type: "image", image: "cat.png" }, text] }];
    const listed = { messages: [{ role: "user", content: [{ type: "image" }, text] }], images: ["cat.png"] };
    for (const conversation of [named, { messages: named }, listed]) {
      const file = `${folder}/conversation.json`;
      await writeFile(file, JSON.stringify(conversation));
      assert.equal(await output(["--base", folder, "--messages", file]), wide);
    }
  });
  it("a model without a chat template continues the text behind the image", async () => {
    const { folder } = await model("idefics");
    const before = await output(["--base", folder, "--prompt", "Hi", "--image", picture("wide.png")]);
    assert.equal(await output(["--base", folder, "--prompt", "<image>Hi", "--image", picture("wide.png")]), before);
  });
});

describe("lowrank chat", () => {
  const chatting = async (folder: string, lines: string[]): Promise<{ events: ChatEvent[]; chat: Chat }> => {
    const chat = await openChat({ base: folder, threads: 1, maxNewTokens: NEW_TOKENS }, nodePlatform);
    const events: ChatEvent[] = [];
    try {
      for (const line of lines) for await (const event of enter(chat, line)) events.push(event);
    } finally {
      await chat.generator.close();
    }
    return { events, chat };
  };
  const answersIn = (events: readonly ChatEvent[]) => events.flatMap((event) => (event.type === "answered" ? [event.text] : []));
  it("/image goes with the next message and stays in the conversation", async () => {
    const { folder, rows } = await model("idefics3");
    const file = `${temporaryFolder()}/talk.jsonl`;
    const { events } = await chatting(folder, [
      `/image ${picture("wide.png")}`,
      "And this?",
      "/retry",
      "And now?",
      "/history",
      `/save ${file}`,
    ]);
    const [first, again] = answersIn(events);
    const { answer } = rows.find(({ name }) => name === "wide image")!;
    const tokenizer = await (await loadBase(folder)).tokenizer();
    assert.equal(first, tokenizer.decode(answer, { skipSpecialTokens: true }));
    assert.equal(again, first);
    const history = events.find((event) => event.type === "history")!;
    assert.deepEqual(
      history.exchanges.map(({ images }) => images),
      [[picture("wide.png")], []],
    );
    const { messages } = JSON.parse(readFileSync(file, "utf8")) as { messages: ChatMessage[] };
    assert.deepEqual(messages[0], {
      role: "user",
      content: [
        { type: "image", image: picture("wide.png") },
        { type: "text", text: "And this?" },
      ],
    });
    // the saved conversation is what train takes, and ends as the conversation did
    const generator = await openGenerator(folder, { threads: 1 });
    const [ids] = await idsOf(generator, [messages.slice(0, 1)]);
    assert.deepEqual(ids, answer);
    await generator.close();
  });
  it("without a template the image comes before the text; alone, /image takes it back", async () => {
    const { folder } = await model("idefics");
    const lines = ["Hi", `/image ${picture("wide.png")}`, "Hi", `/image ${picture("wide.png")}`, "/image", "Hi"];
    const [without, seen, taken] = answersIn((await chatting(folder, lines)).events);
    assert.notEqual(seen, without);
    assert.equal(taken, without);
  });
  it("a model of texts refuses, and what is no image", async () => {
    const file = picture("wide.png");
    await assert.rejects(chatting(`${fixtures}/tiny-llama`, [`/image ${file}`]), { code: "model/no-images" });
    const { folder } = await model("llava");
    await assert.rejects(chatting(folder, [`/image ${folder}/config.json`]), { code: "image/format" });
  });
});

describe("what is refused", () => {
  const prompt: Prompt = { text: "<image>", images: [picture("small.png")] };
  it("images for a model that reads none", async () => {
    const generator = await openGenerator(`${fixtures}/tiny-llama`, { threads: 1 });
    const messages: ChatMessage[] = [{ role: "user", content: [{ type: "image", image: picture("small.png") }] }];
    for (const given of [prompt, messages, { messages: [], images: prompt.images }]) {
      await assert.rejects(idsOf(generator, [given]), { code: "model/no-images", expected: /llava/ });
    }
    await generator.close();
  });
  it("another number of images than places, a file that is none, an address; the generator goes on", async () => {
    const { folder } = await model("llava");
    const generator = await openGenerator(folder, { threads: 1 });
    const refused = (given: Prompt, code: string) => assert.rejects(idsOf(generator, [given]), { code });
    await refused({ text: "<image><image>", images: prompt.images }, "data/image-count");
    await refused({ messages: [{ role: "user", content: "<image> a" }], images: [] }, "data/image-count");
    await refused({ text: "<image>", images: [`${folder}/config.json`] }, "image/format");
    await refused({ text: "<image>", images: ["https://example.com/a.png"] }, "image/address");
    assert.equal((await idsOf(generator, [prompt]))[0]!.length, NEW_TOKENS);
    await generator.close();
  });
  it("a folder that does not say how images are prepared still answers without", async () => {
    const { folder } = await model("llava");
    await rm(`${folder}/processor_config.json`);
    const generator = await openGenerator(await loadBase(folder), { threads: 1 });
    await assert.rejects(idsOf(generator, [prompt]), { code: "image/no-processor" });
    assert.equal((await idsOf(generator, ["Hi"]))[0]!.length, NEW_TOKENS);
    await generator.close();
  });
});
