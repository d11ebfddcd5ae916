// Conversations with images against Transformers' processors: ids, masks, tensors (test/fixtures/image-text), and forms of contents.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it, test } from "node:test";
import type { ImageProcessor, ProcessedImage } from "../../src/images/processor.ts";
import { loadTextBase } from "../../src/models/base.ts";
import { illustrated } from "../../src/multimodal/conversation.ts";
import { encodeWithImages } from "../../src/multimodal/expand.ts";
import { type ImageSide, imageSide, imageTensors } from "../../src/multimodal/images.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { decodeImage } from "../../src/platform/node/images.ts";
import { renderWithMask } from "../../src/text/mask.ts";
import { contentIn, imagePartsOf, textOf } from "../../src/text/parts.ts";
import { type ChatMessage, type ChatTemplate, renderChat } from "../../src/text/template.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { fixtures } from "../helpers/repository.ts";

const pictures = `${fixtures}/images/files`;

interface Row {
  name: string;
  messages: ChatMessage[];
  text: string;
  images: string[];
  ids: number[];
  inside?: number[];
  seen?: number[][];
  pixels: { shape: number[]; mean: number } | null;
}

interface Family {
  tokenizer: Tokenizer;
  side: ImageSide;
  processor: ImageProcessor;
  expected: { asked: Row[]; answered: Row[]; listed: Row[] };
}

async function openFamily(name: string): Promise<Family> {
  const folder = `${fixtures}/image-text/${name}`;
  const base = await loadTextBase(nodeFiles, folder);
  const tokenizer = await base.tokenizer();
  const side = imageSide(base, tokenizer, { files: nodeFiles, decodeImage })!;
  const expected = JSON.parse(readFileSync(`${folder}/expected.json`, "utf8")) as Family["expected"];
  return { tokenizer, side, processor: await side.processor(), expected };
}

const prepared = (side: ImageSide, names: readonly string[]): Promise<ProcessedImage[]> =>
  Promise.all(names.map((name) => side.prepare(`${pictures}/${name}`)));

/** The tensors are those of Transformers: images.test.ts compares the processors' values, here it is their order and number. */
function assertPixels({ side, processor }: Family, ids: Int32Array, images: ProcessedImage[], expected: Row["pixels"]): void {
  const tensors = imageTensors(side.text, processor, { rows: 1, width: ids.length }, [{ ids, start: 0, images }]);
  if (!tensors || !expected) {
    assert.ok(!tensors && (expected?.mean ?? 0) === 0);
    return;
  }
  const { shape, data } = tensors.pixelValues;
  assert.deepEqual(shape, expected.shape.slice(-shape.length));
  const mean = (data as Float32Array).reduce((sum, value) => sum + value, 0) / data.length;
  assert.ok(Math.abs(mean - expected.mean) < 0.01, `${mean} is not ${expected.mean}`);
}

for (const family of ["llava", "idefics3", "smolvlm"]) {
  describe(`${family}: a conversation with images has Transformers' ids`, async () => {
    const opened = await openFamily(family);
    const { tokenizer, side, expected } = opened;
    const template = tokenizer.template!;
    for (const { name, messages, images: names, ids, pixels } of expected.asked) {
      it(name, async () => {
        const images = await prepared(side, names);
        const given = illustrated(messages, names, side.text.token);
        assert.deepEqual(given.images, names);
        const text = renderChat(template, given.messages, { addGenerationPrompt: true });
        const encoded = encodeWithImages(tokenizer, side.text, text, [], images);
        assert.deepEqual([...encoded.ids], ids);
        assertPixels(opened, encoded.ids, images, pixels);
      });
    }
    for (const { name, messages, images: names, ids, inside } of expected.answered) {
      it(`${name}: what is trained`, async () => {
        const images = await prepared(side, names);
        const { text, spans } = renderWithMask(template, messages);
        const encoded = encodeWithImages(tokenizer, side.text, text, spans, images);
        assert.deepEqual([...encoded.ids], ids);
        if (inside) return assert.deepEqual([...encoded.inside], inside);
        const targets = encoded.ids.filter((_, i) => encoded.inside[i]);
        const answers = messages.filter(({ role }) => role === "assistant").map(({ content }) => textOf(content));
        assert.equal(tokenizer.decode(targets), answers.map((answer) => ` ${answer}<end_of_utterance>`).join(""));
      });
    }
  });
}

describe("idefics: a text with images has Transformers' ids and image attention mask", async () => {
  const opened = await openFamily("idefics");
  const { tokenizer, side, expected } = opened;
  for (const { name, text, images: names, ids, seen, pixels } of expected.listed) {
    it(name, async () => {
      const images = await prepared(side, names);
      const encoded = encodeWithImages(tokenizer, side.text, text, [], images);
      assert.deepEqual([...encoded.ids], ids);
      assertPixels(opened, encoded.ids, images, pixels);
      // in the middle of a batch, padded on both sides
      const [width, start] = [ids.length + 5, 2];
      const row = { ids: encoded.ids, start, images };
      const mask = imageTensors(side.text, opened.processor, { rows: 2, width }, [
        row,
        { ...row, images: [], ids: new Int32Array(1) },
      ])?.imageAttentionMask;
      if (!mask) return assert.equal(images.length, 0);
      assert.deepEqual(mask.shape, [2, width, images.length]);
      const flat = [...(mask.data as Int32Array)];
      const own = flat.splice(start * images.length, ids.length * images.length);
      assert.deepEqual(own, seen!.flat());
      assert.ok(flat.every((value) => value === 0));
    });
  }
});

test("tokens around an image that the text has already are not doubled", async () => {
  const { tokenizer, side } = await openFamily("idefics");
  const [around, image] = ["<fake_token_around_image>", "<image>"];
  const encode = (text: string) =>
    [...encodeWithImages(tokenizer, side.text, text, [], [grid, grid]).ids].map((id) => tokenizer.idToToken(id)).join("");
  const grid = { rows: 0, columns: 0 };
  assert.equal(encode(`${image}${image}a`), `<s>${around}${image}${around}${image}${around}a`);
  assert.equal(encode(`${around}${image}${around}${image}${around}a`), `<s>${around}${image}${around}${image}${around}a`);
});

test("tokens of an image in the assistant's turn are no targets, and those beside it are", async () => {
  const { tokenizer, side } = await openFamily("llava");
  const text = "USER: hi ASSISTANT:see <image> there";
  const { ids, inside } = encodeWithImages(
    tokenizer,
    side.text,
    text,
    [[text.indexOf("see"), text.length]],
    [{ rows: 0, columns: 0 }],
  );
  assert.equal(tokenizer.decode(ids.filter((_, i) => inside[i])), "see  there");
  assert.equal(ids.filter((id) => id === side.text.id).length, 4);
});

test("as many images as places for them", async () => {
  const { tokenizer, side } = await openFamily("llava");
  const grid = { rows: 0, columns: 0 };
  for (const [text, grids] of [
    ["no place", [grid]],
    ["<image>", []],
    ["<image><image>", [grid]],
  ] as const) {
    assert.throws(() => encodeWithImages(tokenizer, side.text, text, [], grids), { code: "data/image-count" });
  }
});

describe("where a conversation's images are", () => {
  const user = (content: ChatMessage["content"]): ChatMessage => ({ role: "user", content });
  const image = { type: "image" } as const;
  it("parts name them, and others take listed ones in order", () => {
    const messages = [user([image, { type: "image", path: "b.png" }, { type: "image", url: "c.png" }]), user([image])];
    assert.deepEqual(illustrated(messages, ["a.png", "d.png"], "<image>").images, ["a.png", "b.png", "c.png", "d.png"]);
  });
  it("listed ones without a place come before the first user's text", () => {
    const system: ChatMessage = { role: "system", content: "s" };
    const { messages, images } = illustrated([system, user("What?"), user("More?")], ["a.png"], "<image>");
    assert.deepEqual(messages, [system, user([image, { type: "text", text: "What?" }]), user("More?")]);
    assert.deepEqual(images, ["a.png"]);
  });
  it("a text may hold the token itself", () => {
    const messages = [user("<image>\nWhat?")];
    assert.equal(illustrated(messages, ["a.png"], "<image>").messages, messages);
  });
  it("numbers that do not fit are refused", () => {
    for (const [messages, listed] of [
      [[user([image, image])], ["a.png"]],
      [[user([{ type: "image", image: "b.png" }])], ["a.png"]],
    ] as const) {
      assert.throws(() => illustrated(messages, listed, "<image>"), { code: "data/image-count" });
    }
    assert.throws(() => illustrated([user([{ type: "image", image: 7 }])], [], "<image>"), { code: "data/value" });
  });
  it("contents are checked", () => {
    const openai = [
      { type: "image_url", image_url: { url: "a.png" } },
      { type: "text", text: "What?", image: null },
    ];
    assert.deepEqual(contentIn(openai, "content", "here"), [
      { type: "image", url: "a.png" },
      { type: "text", text: "What?" },
    ]);
    assert.deepEqual(contentIn([{ type: "image", text: null, path: null }], "content", "here"), [image]);
    for (const wrong of [7, [], null, [7], [{ type: "video" }], [{ type: "text" }]]) {
      assert.throws(() => contentIn(wrong, "content", "here"), { code: "data/value", subject: "here" });
    }
    assert.equal(imagePartsOf([user("text"), user([image])]).length, 1);
  });
});

describe("contents take the form that a template reads", () => {
  const template = (source: string): ChatTemplate => ({ source, file: "template", tokens: {} });
  const strings = template("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}");
  const parts = template(
    "{% for m in messages %}[{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}{% endfor %}]{% endfor %}",
  );
  const both = template(
    "{% for m in messages %}[{% if m.content is string %}s:{{ m.content }}{% else %}{% for p in m.content %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<image>{% endif %}{% endfor %}{% endif %}]{% endfor %}",
  );
  const text = (text: string) => ({ type: "text", text }) as const;
  const list: ChatMessage[] = [{ role: "user", content: [text("a"), text("b")] }];
  const string: ChatMessage[] = [{ role: "user", content: "ab" }];
  const withImage: ChatMessage[] = [{ role: "user", content: [{ type: "image", path: "type.png" }, text("b")] }];
  it("strings for one that reads strings", () => {
    assert.equal(renderChat(strings, string), "[ab]");
    assert.equal(renderChat(strings, list), "[ab]");
    assert.throws(() => renderChat(strings, withImage), { code: "template/parts" });
  });
  it("lists for one that reads lists, where Jinja would write nothing for a string", () => {
    assert.equal(renderChat(parts, string), "[ab]");
    assert.equal(renderChat(parts, list), "[ab]");
    assert.equal(renderChat(parts, withImage), "[<image>b]");
  });
  it("either for one that reads both", () => {
    assert.equal(renderChat(both, string), "[s:ab]");
    assert.equal(renderChat(both, list), "[ab]");
    assert.equal(renderChat(both, withImage), "[<image>b]");
  });
  it("the assistant's turns are found in lists", () => {
    const answer: ChatMessage = { role: "assistant", content: [text("yes")] };
    const { text: rendered, spans } = renderWithMask(both, [...withImage, answer]);
    assert.deepEqual([rendered, spans.map(([a, b]) => rendered.slice(a, b))], ["[<image>b][yes]", ["[yes]"]]);
  });
});

describe("what cannot be read says so", () => {
  it("an address on the network", async () => {
    const { side } = await openFamily("llava");
    for (const address of ["https://example.com/cat.png", "data:image/png;base64,AAAA", "file:///%E0%A4%A.png", "file://["]) {
      await assert.rejects(side.prepare(address), { code: "image/address" });
    }
  });
});
