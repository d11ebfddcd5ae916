// Training and evaluating on conversations with images: losses are Transformers' and PEFT's (test/fixtures/image-text).
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { copyFile, cp, mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { describe, it, test } from "node:test";
import { readHeader, readTensor } from "../../src/formats/safetensors.ts";
import { answers, evaluate, type FinetuneEvent, type FinetuneOptions, finetune, plan, preview } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { collect, near } from "../helpers/assert.ts";
import { type ImageFamily, imageFamilies, imageModel, picture } from "../helpers/image-model.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const TOLERANCE = 3e-5;

/** A data file with these records beside their images. */
async function dataFile(records: readonly object[], names: readonly string[]): Promise<string> {
  const folder = temporaryFolder();
  await mkdir(`${folder}/pictures`);
  for (const name of new Set(names)) await copyFile(picture(name), `${folder}/pictures/${name}`);
  await writeFile(`${folder}/data.jsonl`, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return `${folder}/data.jsonl`;
}

/** The model of a family and a file of what is trained on. */
async function given(family: ImageFamily) {
  const { folder, expected } = await imageModel(family);
  const rows = expected.answered ?? expected.listed!.slice(1, 4);
  const records = rows.map(({ messages, text, images }) => ({
    messages,
    text,
    images: images.map((name) => `pictures/${name}`),
  }));
  const data = await dataFile(
    records,
    rows.flatMap(({ images }) => images),
  );
  return { folder, rows, records, data, losses: expected.losses };
}

const eventsOf = (options: FinetuneOptions): Promise<FinetuneEvent[]> => collect(finetune(options));

for (const family of Object.keys(imageFamilies) as ImageFamily[]) {
  test(`${family}: losses are those of Transformers and PEFT, and fall in training`, async () => {
    const { folder, rows, data, losses } = await given(family);
    const adapter = `${fixtures}/cases/${imageFamilies[family]}/adapter`;
    const found = await evaluate({ base: folder, data, adapter, threads: 1 });
    assert.equal(found.data.targets, losses.targets);
    near(found.base.loss, losses.loss, TOLERANCE);
    near(found.adapter!.loss, losses.adapter, TOLERANCE);

    const output = path.join(temporaryFolder(), "adapter");
    const options = { base: folder, data, output, batchSize: rows.length, steps: 12, learningRate: 0.02, threads: 1 };
    const events = await eventsOf({ ...options, targetModules: "all-linear" });
    const prepared = events.find((event) => event.type === "prepared")!;
    assert.equal(prepared.train.images, new Set(rows.flatMap(({ images }) => images)).size);
    const steps = events.filter((event) => event.type === "step");
    near(steps[0]!.loss, losses.loss, TOLERANCE); // an adapter begins as the base
    assert.ok(steps.at(-1)!.loss < 0.8 * losses.loss, `${steps.at(-1)!.loss}`);
    const trained = await evaluate({ base: folder, data, adapter: output, threads: 1 });
    assert.ok(trained.adapter!.loss < steps.at(-1)!.loss);
  });
}

test("all weights are trained, the vision side's too", async () => {
  const { folder, data, losses } = await given("llava");
  const output = path.join(temporaryFolder(), "model");
  const options = { base: folder, data, output, batchSize: 2, steps: 6, learningRate: 0.01, threads: 1 };
  const steps = (await eventsOf({ ...options, method: "full" })).filter((event) => event.type === "step");
  near(steps[0]!.loss, losses.loss, TOLERANCE);
  const after = await evaluate({ base: output, data, threads: 1 });
  assert.ok(after.base.loss < 0.8 * losses.loss);
  const [before, trained] = await Promise.all([folder, output].map((model) => weightsOf(`${model}/model.safetensors`)));
  const unchanged = [...before!].filter(([name, data]) => Buffer.from(data).equals(Buffer.from(trained!.get(name)!)));
  // What the features do not need: the layer behind them, its norm, and the embedding of rows that are no token.
  const behind = /vision_model\.(encoder\.layers\.1|post_layernorm)|vision_tower\.(encoder\.layers\.1|post_layernorm)/;
  assert.deepEqual(
    unchanged.map(([name]) => name).filter((name) => !behind.test(name)),
    [],
  );
});

async function weightsOf(file: string): Promise<Map<string, Uint8Array>> {
  const { tensors } = await readHeader(nodeFiles, file);
  const read = [...tensors].map(async ([name, info]): Promise<[string, Uint8Array]> => {
    const { data } = await readTensor(nodeFiles, file, info);
    return [name, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];
  });
  return new Map(await Promise.all(read));
}

describe("how records name their images", async () => {
  const { folder, records, data, losses } = await given("llava");
  const folderOfData = path.dirname(data);
  const lossOf = async (name: string, changed: readonly object[]): Promise<number> => {
    const file = `${folderOfData}/${name}.jsonl`;
    await writeFile(file, changed.map((record) => `${JSON.stringify(record)}\n`).join(""));
    return (await evaluate({ base: folder, data: file, threads: 1 })).base.loss;
  };
  it("in parts of messages", async () => {
    const inParts = records.map(({ messages, images }) => {
      const rest = [...images];
      return {
        messages: messages.map((message) => ({
          ...message,
          content: (message.content as { type: string }[]).map((part) =>
            part.type === "image" ? { ...part, path: rest.shift() } : part,
          ),
        })),
      };
    });
    near(await lossOf("parts", inParts), losses.loss, TOLERANCE);
  });
  it("in turns that write the token, as LLaVA's data sets do", async () => {
    const conversations = [
      { from: "human", value: "<image>\nWhat is this?" },
      { from: "gpt", value: "A cat." },
    ];
    const messages = [
      { role: "user", content: [{ type: "text", text: "<image>\nWhat is this?" }] },
      { role: "assistant", content: [{ type: "text", text: "A cat." }] },
    ];
    const [first] = records[0]!.images;
    near(
      await lossOf("llava", [{ conversations, image: first }]),
      await lossOf("same", [{ messages, images: [first] }]),
      TOLERANCE,
    );
  });
  it("beside a prompt and its completion", async () => {
    const [image] = records[0]!.images;
    const before = await lossOf("before", [{ prompt: "What?", completion: " A cat.", images: [image] }]);
    near(await lossOf("token", [{ prompt: "<image>What?", completion: " A cat.", images: [image] }]), before, TOLERANCE);
    assert.notEqual(await lossOf("without", [{ prompt: "What?", completion: " A cat." }]), before);
  });
  it("records without images beside such with them", async () => {
    const text = {
      messages: [
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Hello." },
      ],
    };
    const [alone, mixed] = [await lossOf("text", [text]), await lossOf("mixed", [text, ...records])];
    const targets = "Hello. ".length;
    near(mixed, (alone * targets + losses.loss * losses.targets) / (targets + losses.targets), TOLERANCE);
  });
});

test("a record whose images do not fit into the maximum length is left out and counted", async () => {
  const { folder, data } = await given("idefics3");
  const found = await evaluate({ base: folder, data, maxLength: 100, threads: 1 });
  assert.deepEqual([found.data.count, found.data.droppedImages, found.data.droppedCut], [1, 1, 1]);
  const shown = await preview({ base: folder, data, maxLength: 100 });
  assert.deepEqual([shown.train.continued!.examples, shown.train.continued!.dropped.cut], [1, 1]);
});

test("preview names images and counts their tokens", async () => {
  const { folder, rows, data } = await given("llava");
  const { shown } = await preview({ base: folder, data });
  assert.deepEqual(shown[0]!.parts, [
    { text: "<s>USER: [image wide.png, 4 tokens]\nWhat is this? ASSISTANT: ", trained: false },
    { text: "A cat. ", trained: true },
  ]);
  assert.deepEqual(
    shown.map(({ tokens }) => tokens),
    rows.map(({ ids }) => ids.length),
  );
});

interface Tokens {
  added_tokens: { content: string; id: number }[];
}

test("samples and exact answers see the images", async () => {
  const { folder, data } = await given("idefics3");
  const { added_tokens: added } = JSON.parse(readFileSync(`${folder}/tokenizer.json`, "utf8")) as Tokens;
  const ends = added.filter(({ content }) => content === "<end_of_utterance>").map(({ id }) => id);
  await writeFile(`${folder}/generation_config.json`, JSON.stringify({ eos_token_id: ends }));
  const output = path.join(temporaryFolder(), "adapter");
  const options = { base: folder, data, output, evalData: data, samples: 2, batchSize: 2, threads: 1, learningRate: 0.05 };
  const events = await eventsOf({ ...options, steps: 40, evalEvery: 40, targetModules: "all-linear" });
  const { samples } = events.filter((event) => event.type === "samples").at(-1)!;
  assert.match(samples[0]!.prompt, /User:<fake_token_around_image><row_1_col_1>\[image wide\.png, 4\d tokens\]/);
  const found = await collect(answers({ base: folder, data, adapter: output, threads: 1 }));
  const total = found.find((event) => event.type === "matches")!;
  assert.deepEqual([total.count, total.base], [2, 0]);
  const learned = samples.filter(({ text, expected }) => text.startsWith(expected)).length;
  assert.equal(total.adapter, learned);
  assert.ok(learned > 0, JSON.stringify(samples));
});

test("a run resumes to the same bits, and not on other images", async () => {
  const { folder, data } = await given("llava");
  const root = temporaryFolder();
  const options = { base: folder, data, batchSize: 1, steps: 4, checkpointEvery: 2, threads: 1 };
  const [whole, broken] = [`${root}/whole`, `${root}/broken`];
  for (const output of [whole, broken]) await eventsOf({ ...options, output });
  const bits = (output: string) => readFileSync(`${output}/adapter_model.safetensors`);
  const breakOff = () =>
    Promise.all(["checkpoint-4", "adapter_model.safetensors"].map((name) => rm(`${broken}/${name}`, { recursive: true })));
  await breakOff();
  await eventsOf({ ...options, output: broken, resume: true });
  assert.deepEqual(bits(broken), bits(whole));
  await breakOff();
  await copyFile(picture("gray.png"), `${path.dirname(data)}/pictures/wide.png`);
  await assert.rejects(eventsOf({ ...options, output: broken, resume: true }), {
    code: "train/resume-mismatch",
    got: /examples/,
  });
});

test("examples may be longer where the model reads images", async () => {
  const { folder } = await given("llava");
  const config = JSON.parse(readFileSync(`${folder}/config.json`, "utf8")) as { text_config: object };
  const long = { max_position_embeddings: 4096 };
  const planned = async (json: Record<string, unknown>) => (await plan(json)).maxLength;
  assert.equal(await planned({ ...config, text_config: { ...config.text_config, ...long } }), 2048);
  assert.equal(await planned({ ...config.text_config, ...long, model_type: "llama" }), 1024);
});

describe("what is refused", () => {
  it("packing", async () => {
    const { folder, data } = await given("llava");
    const output = path.join(temporaryFolder(), "adapter");
    await assert.rejects(eventsOf({ base: folder, data, output, packing: true }), { code: "train/option", subject: "packing" });
  });
  it("images for a model of texts, with the record's place", async () => {
    const { data } = await given("llava");
    const refused = evaluate({ base: `${fixtures}/tiny-llama`, data });
    await assert.rejects(refused, { code: "model/no-images", subject: new RegExp(`${path.basename(data)}, line 1`) });
  });
  it("an image that is not there, and one that is none, with the record's place", async () => {
    const { folder, records } = await given("llava");
    for (const [image, code] of [
      ["pictures/none.png", /^file\//],
      ["data.jsonl", /^image\/format/],
      ["https://example.com/a.png", /^image\/address/],
    ] as const) {
      const file = await dataFile([records[0]!, { ...records[0]!, images: [image] }], ["wide.png"]);
      await assert.rejects(evaluate({ base: folder, data: file }), { code, subject: /line 2/ });
    }
  });
  it("a token for images in config.json that the tokenizer lacks, and a chat template that writes another", async () => {
    const { folder, data } = await given("llava");
    const other = path.join(temporaryFolder(), "model");
    await cp(folder, other, { recursive: true });
    const change = async (name: string, from: string, to: string) =>
      writeFile(`${other}/${name}`, readFileSync(`${folder}/${name}`, "utf8").replace(from, to));
    await change("chat_template.jinja", "<image>", "<picture>");
    await assert.rejects(preview({ base: other, data }), { code: "data/image-count", next: /has to write <image>/ });
    await change("config.json", '"image_token_index": 95', '"image_token_index": 3000');
    await assert.rejects(preview({ base: other, data }), { code: "data/image-token", expected: /3000/, next: /config\.json/ });
  });
  it("images inside the data file", async () => {
    const { folder, records } = await given("llava");
    const file = await dataFile([{ ...records[0]!, images: [{ bytes: "AAAA", path: "wide.png" }] }], ["wide.png"]);
    await assert.rejects(evaluate({ base: folder, data: file }), { code: "data/value", got: "bytes" });
  });
  it("more or fewer images than places", async () => {
    const { folder, records, data } = await given("llava");
    const [image] = records[0]!.images;
    const file = `${path.dirname(data)}/count.jsonl`;
    for (const record of [
      { ...records[0]!, images: [image, image] },
      { messages: records[0]!.messages },
      { text: "<image>", images: [image, image] },
      { text: "<image>" },
    ]) {
      await writeFile(file, JSON.stringify(record));
      await assert.rejects(evaluate({ base: folder, data: file }), { code: "data/image-count", subject: /line 1/ });
    }
  });
});

test("a plan counts an image a row, and says so", async () => {
  const { folder } = await given("llava");
  const config = JSON.parse(readFileSync(`${folder}/config.json`, "utf8")) as Record<string, unknown>;
  const planned = await plan(config, { batchSize: 4, maxLength: 32 });
  assert.ok(planned.warnings.some((text) => text.includes("one image a row")));
  const alone = await plan({ ...(config["text_config"] as object), model_type: "llama" }, { batchSize: 4, maxLength: 32 });
  assert.ok(planned.memory.activations > alone.memory.activations);
});
