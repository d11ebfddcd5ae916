// Folders of images as data: a folder for each class, metadata.jsonl, and what is refused or left out.
// slow
import assert from "node:assert/strict";
import { copyFile, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import type { FinetuneEvent } from "../../src/commands/train/finetune.ts";
import { imageStore } from "../../src/data/images.ts";
import { MAX_FOLDER_DEPTH, MAX_FOLDER_NAMES } from "../../src/data/readers/folder.ts";
import { readFormats } from "../../src/data/readers.ts";
import type { RecordFormats } from "../../src/data/records.ts";
import { LowrankError } from "../../src/errors.ts";
import type { Files } from "../../src/files.ts";
import type { DecodeImage, RgbImage } from "../../src/images/image.ts";
import type { ImageProcessor } from "../../src/images/processor.ts";
import { finetune } from "../../src/index.ts";
import { modelConfig } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { classLabel } from "../../src/tasks/common/classification.ts";
import { labelledImages, labelledTexts } from "../../src/tasks/common/labelled.ts";
import { recordData } from "../../src/tasks/common/record-data.ts";
import { imageTexts } from "../../src/tasks/contrastive/index.ts";
import { float32 } from "../../src/tensor.ts";
import { recognizedText } from "../../src/terminal/data.ts";
import type { FinetuneOptions } from "../../src/train/options.ts";
import { collect, refused } from "../helpers/assert.ts";
import { memoryFiles } from "../helpers/memory-files.ts";
import { type Colour, colours, jsonl, picture, processor, taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const classifiedImages = labelledImages(classLabel);
const kinds = { "image-classification": classifiedImages, contrastive: imageTexts };
type Kinds = typeof kinds;
type RecordOf<T extends keyof Kinds> = Parameters<Kinds[T]["example"]>[0];

const open = <T extends keyof Kinds>(files: Files, folder: string, task: T) =>
  readFormats(files, folder, kinds[task].formats({}) as RecordFormats<RecordOf<T>>);

/** The records of a folder, and their places in messages. */
async function read<T extends keyof Kinds>(files: Files, folder: string, task: T) {
  const file = open(files, folder, task);
  const records: RecordOf<T>[] = [];
  const places: string[] = [];
  for await (const { record, place } of file) {
    records.push(record);
    places.push(file.where(place));
  }
  return { records, places, recognized: file.recognized(), progress: file.progress() };
}

const refusal = (work: Promise<unknown>, code: string): Promise<LowrankError> => refused(work, code, { subject: /./ });

/** Files without content at these paths. */
const holding = (...paths: string[]) => memoryFiles(Object.fromEntries(paths.map((name) => [name, ""])));

const run = (options: FinetuneOptions): Promise<FinetuneEvent[]> => collect(finetune(options));

/** Pictures of each colour in a folder for it, below `folder`. */
async function byColour(folder: string, name: string, numbers: readonly number[]): Promise<string> {
  for (const colour of Object.keys(colours) as Colour[]) {
    await mkdir(`${folder}/${name}/${colour}`, { recursive: true });
    for (const number of numbers) {
      await copyFile(`${folder}/${await picture(folder, colour, number)}`, `${folder}/${name}/${colour}/${number}.png`);
    }
  }
  return `${folder}/${name}`;
}

test("the folder at the top is the class, folders below count to it, and the order is that of the names", async () => {
  const files = holding("pets/dog/b.jpg", "pets/dog/a.PNG", "pets/cat/young/1.webp", "pets/cat/z.jpeg", "pets/cat/a.png");
  const { records, places, recognized } = await read(files, "pets", "image-classification");
  assert.deepEqual(
    records.map(({ image, label }) => [image, label]),
    [
      ["pets/cat/a.png", "cat"],
      ["pets/cat/young/1.webp", "cat"],
      ["pets/cat/z.jpeg", "cat"],
      ["pets/dog/a.PNG", "dog"],
      ["pets/dog/b.jpg", "dog"],
    ],
  );
  assert.deepEqual(
    places,
    records.map(({ image }) => image),
  );
  assert.equal(recognizedText(recognized!), "a folder for each class");
});

test("files that are no images are counted and reported", async () => {
  const others = ["pets/.DS_Store", "pets/notes.txt", "pets/cat/.thumbs/1.png", "pets/cat/x.gif", "pets/__MACOSX/a.png"];
  const files = holding("pets/cat/1.png", "pets/dog/1.png", "pets/fox/none.txt", ...others);
  const { records, recognized } = await read(files, "pets", "image-classification");
  assert.equal(records.length, 2);
  assert.deepEqual(recognized!.leftOut, { hidden: 3, others: 3, first: "pets/cat/x.gif", empty: 1 });
  assert.equal(
    recognizedText(recognized!),
    "a folder for each class; left out: 3 files that are no image by the name (pets/cat/x.gif, …), 3 hidden names, 1 folder without an image",
  );
});

test("metadata.jsonl is read in place of the folders, its paths relative to the folder", async () => {
  const lines = '{"file_name":"cat/1.png","label":"lion"}\n{"file_name":"/far/2.png","label":"tiger"}\n';
  const labelled = await read(
    memoryFiles({ "pets/metadata.jsonl": lines, "pets/cat/1.png": "" }),
    "pets",
    "image-classification",
  );
  assert.deepEqual(
    labelled.records.map(({ image, label }) => [image, label]),
    [
      ["pets/cat/1.png", "lion"],
      ["/far/2.png", "tiger"],
    ],
  );
  assert.deepEqual(labelled.places, ["pets/metadata.jsonl, line 1", "pets/metadata.jsonl, line 2"]);
  const captions = memoryFiles({ "pets/metadata.jsonl": '{"file_name":"1.png","text":"a lion"}' });
  assert.deepEqual((await read(captions, "pets", "contrastive")).records, [{ image: "pets/1.png", text: "a lion" }]);
});

test("paths of a data file are relative to its folder, of two folders not the same", async () => {
  const files = memoryFiles({ "a/d.jsonl": '{"image":"1.png","label":0}', "d.jsonl": '{"image":"1.png","label":0}' });
  assert.equal((await read(files, "a/d.jsonl", "image-classification")).records[0]!.image, "a/1.png");
  assert.equal((await read(files, "d.jsonl", "image-classification")).records[0]!.image, "1.png");
});

test("a folder that is not data is refused with what to give instead", async () => {
  const parts = holding("pets/train/cat/1.png", "pets/test/cat/1.png", "pets/README.md");
  for (const task of ["image-classification", "contrastive"] as const) {
    const error = await refusal(read(parts, "pets", task), "data/folder");
    assert.match(error.next!, /pets\/train, .*pets\/test/);
  }
  // Among other classes the word is a class's.
  const vehicles = await read(holding("v/train/1.png", "v/car/1.png"), "v", "image-classification");
  assert.deepEqual(
    vehicles.records.map(({ label }) => label),
    ["car", "train"],
  );
  const loose = await refusal(read(holding("pets/1.png", "pets/cat/1.png"), "pets", "image-classification"), "data/folder");
  assert.equal(loose.subject, "pets/1.png");
  assert.match((await refusal(read(holding("pets/cat/1.png"), "pets", "contrastive"), "data/folder")).next!, /"text"/);
  const named = readFormats(holding("p/cat/1.png"), "p", classifiedImages.formats({ labelColumn: "kind" }));
  await refusal(named[Symbol.asyncIterator]().next(), "data/keys");
});

test("a folder without an image says what is in it, and a base that reads files takes none", async () => {
  const files = holding("pets/cat/notes.txt", "pets/dog/.1.png");
  const error = await refusal(read(files, "pets", "image-classification"), "data/empty");
  assert.match(error.message, /no images/);
  assert.match(error.got!, /without an image: 2, .*: 1, hidden names: 1/);
  const texts = readFormats(holding("pets/cat/1.png"), "pets", labelledTexts(classLabel).formats({}));
  assert.match((await refusal(texts[Symbol.asyncIterator]().next(), "data/folder")).next!, /vit, clip/);
});

test("how deep folders lie, and how many names they have, is bounded", async () => {
  const deep = (levels: number) => read(holding(`p/${"a/".repeat(levels)}1.png`), "p", "image-classification");
  assert.equal((await deep(MAX_FOLDER_DEPTH)).records.length, 1);
  await refusal(deep(MAX_FOLDER_DEPTH + 1), "data/folder");
  const names = Array.from({ length: 20_000 }, (_, i) => (i < 9 ? `${i}.png` : `.${i}`));
  const many: Files = {
    ...memoryFiles(),
    exists: async () => false,
    isFolder: async (name) => !name.endsWith(".png"),
    list: async (folder) => (folder === "p" ? Array.from({ length: 200 }, (_, i) => `class-${i}`) : names),
  };
  let count = 0;
  const reading = (async () => {
    for await (const _ of open(many, "p", "image-classification")) count++;
  })();
  await refusal(reading, "data/folder");
  assert.ok(count > 9 * 90 && count <= 9 * (MAX_FOLDER_NAMES / names.length), String(count));
});

test("links are followed, and a folder that is reached twice ends the reading", async (t) => {
  const folder = temporaryFolder(t);
  const data = await byColour(folder, "data", [0]);
  await mkdir(`${folder}/elsewhere`);
  await copyFile(`${data}/red/0.png`, `${folder}/elsewhere/1.png`);
  await symlink(`${folder}/elsewhere`, `${data}/far`);
  await symlink(`${folder}/elsewhere/1.png`, `${data}/red/1.png`);
  await symlink(`${folder}/nowhere`, `${data}/red/broken`);
  const { records, recognized } = await read(nodeFiles, data, "image-classification");
  assert.deepEqual(
    records.map(({ image }) => path.relative(data, image)),
    ["blue/0.png", "far/1.png", "green/0.png", "red/0.png", "red/1.png"],
  );
  assert.equal(recognized!.leftOut!.others, 1);

  await symlink(data, `${data}/red/up`);
  const loop = await refusal(read(nodeFiles, data, "image-classification"), "data/folder");
  assert.equal(loop.subject, `${data}/red/up`);
  await symlink("itself", `${data}/blue/itself`);
  await refusal(read(nodeFiles, data, "image-classification"), "file/link-loop");
});

test("a folder that cannot be read is named", async () => {
  const files = holding("p/cat/1.png", "p/dog/1.png");
  const denied = () => {
    throw new LowrankError("file/denied", "permission denied", { subject: "p/dog", next: "Check the owner." });
  };
  const list = (folder: string) => (folder === "p/dog" ? denied() : files.list(folder));
  const error = await refusal(read({ ...files, list }, "p", "image-classification"), "file/denied");
  assert.equal(error.subject, "p/dog");
});

test("a classifier trains on a folder as on a file of the same images; the run keeps the folder and goes on with it", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "vit");
  const data = await byColour(folder, "data", [0, 1, 2]);
  const evalData = await byColour(folder, "held", [7]);
  await writeFile(`${data}/readme.md`, "pictures");
  const options = { base, data: `${data}/`, evalData, batchSize: 3, steps: 4, learningRate: 1e-2 } as const;
  const stop = new AbortController();
  const output = `${folder}/out`;
  const events: FinetuneEvent[] = [];
  for await (const event of finetune({ ...options, output, signal: stop.signal })) {
    events.push(event);
    if (event.type === "step" && event.step === 2) stop.abort();
  }
  const prepared = events.find((event) => event.type === "prepared")!;
  assert.deepEqual(prepared.train.classes, [
    { label: "blue", count: 3 },
    { label: "green", count: 3 },
    { label: "red", count: 3 },
  ]);
  assert.deepEqual([prepared.train.images, prepared.eval!.images, prepared.eval!.alsoTrained], [9, 3, 0]);
  assert.equal(prepared.train.file!.leftOut!.others, 1);
  const kept = JSON.parse(await readFile(`${folder}/out/run.json`, "utf8")).options;
  assert.deepEqual([kept.data, kept.evalData], [data, evalData]);
  const more = await run({ output, resume: true });

  const records = ["blue", "green", "red"].flatMap((label) => [0, 1, 2].map((i) => ({ image: `data/${label}/${i}.png`, label })));
  const file = await jsonl(folder, "train.jsonl", records);
  const same = await run({ ...options, data: file, output: `${folder}/same` });
  const losses = (of: FinetuneEvent[]) => of.flatMap((event) => (event.type === "step" ? [event.loss] : []));
  assert.equal(losses(same).length, 4);
  assert.deepEqual([...losses(events), ...losses(more)], losses(same));
});

test("the first broken image in the data's order is reported, with its record, what is wrong and what to do", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "vit");
  const data = await byColour(folder, "data", [0, 1, 2]);
  const trained = (file: string) => run({ base, data: file, output: `${folder}/out`, steps: 1 });
  const whole = await readFile(`${data}/green/1.png`);
  await writeFile(`${data}/green/1.png`, whole.subarray(0, whole.length - 30));
  await writeFile(`${data}/red/2.png`, "no image");
  const damaged = await refusal(trained(data), "image/damaged");
  assert.equal(damaged.subject, `${data}/green/1.png`);
  assert.match(damaged.next!, /leave it out/);
  await writeFile(`${data}/green/1.png`, whole);
  assert.equal((await refusal(trained(data), "image/format")).subject, `${data}/red/2.png`);

  const records = [0, 1, 2, 3].map((i) => ({ image: `data/green/${i}.png`, label: i % 2 }));
  const missing = await refusal(trained(await jsonl(folder, "list.jsonl", records)), "file/missing");
  assert.equal(missing.subject, `${folder}/list.jsonl, line 4 (${data}/green/3.png)`);
  assert.match(missing.next!, /leave the record out/);
  // An earlier record's image is reported before a later line that is no record.
  const list = `${folder}/list.jsonl`;
  await writeFile(list, `${await readFile(list, "utf8")}not json\n`);
  await refusal(trained(list), "file/missing");
});

test("names with line breaks are names like others", async (t) => {
  const folder = temporaryFolder(t);
  const base = await taskBase(folder, "vit");
  const data = await byColour(folder, "data", [0, 1]);
  await mkdir(`${data}/two\nlines`);
  await copyFile(`${data}/red/0.png`, `${data}/two\nlines/a\nb.png`);
  const events = await run({ base, data, output: `${folder}/out`, steps: 1 });
  const prepared = events.find((event) => event.type === "prepared")!;
  assert.deepEqual(
    prepared.train.classes!.map(({ label }) => label),
    ["blue", "green", "red", "two\nlines"],
  );
});

test("images are decoded four at a time, given in order, and the first broken one of the order is reported", async () => {
  const names = Array.from({ length: 40 }, (_, i) => `p/${i % 2 ? "cat" : "dog"}/${10 + i}.png`);
  let [working, most] = [0, 0];
  /** What comes earlier takes longer, and two are broken. */
  const decode: DecodeImage = async (_, name) => {
    most = Math.max(most, ++working);
    const number = names.indexOf(name);
    await new Promise((resolve) => setTimeout(resolve, 4 - (number % 4)));
    working--;
    if (name === names[20] || name === names[24])
      throw new LowrankError("image/damaged", "broken", { subject: name, next: "Leave it." });
    return { name, width: 1, height: 1, data: Uint8Array.of(number, 0, 0), channels: 3, orientation: 1 };
  };
  const files = holding(...names);
  await files.write("base/preprocessor_config.json", new TextEncoder().encode(JSON.stringify(processor)));
  const config = modelConfig({ model_type: "vit", image_size: 16, patch_size: 8 });
  const base = { checkpoint: { folder: "base" }, config, tokenizer: () => assert.fail("no text is read") };
  const { images, open: openData } = await recordData(classifiedImages)(base, { trainOn: "all" }, { files, decodeImage: decode });
  const places: string[] = [];
  const error = await refusal(
    (async () => {
      const { records, make } = openData("p");
      for await (const { place, whole } of make(records)) {
        places.push(place);
        assert.equal(images!.pathOf(whole.images![0]!), `p/${place}`);
      }
    })(),
    "image/damaged",
  );
  assert.equal(error.subject, names[20]);
  const sorted = [...names].sort();
  assert.deepEqual(
    places.map((place) => `p/${place}`),
    sorted.slice(0, sorted.indexOf(names[20]!)),
  );
  assert.ok(most === 4, `${most} at a time`);
});

test("an image that is asked for while it is read is read once", async () => {
  let decoded = 0;
  const decode: DecodeImage = async (_, name) => {
    decoded++;
    return { name, width: 1, height: 1, data: new Uint8Array(3), channels: 3, orientation: 1 };
  };
  const image = { pixelValues: float32([1, 3, 1, 1], new Float32Array(3)), rows: 0, columns: 0 };
  const load = async (): Promise<ImageProcessor> => ({ config: {} as never, process: () => image, stack: () => assert.fail() });
  const store = imageStore(holding("a.png", "b.png"), decode, load);
  assert.deepEqual(await Promise.all(["a.png", "b.png", "a.png"].map(store.add)), [0, 1, 0]);
  assert.deepEqual([await store.add("b.png"), store.count, decoded], [1, 2, 2]);
});

test("an image that does not stay in memory is read again, and refused if it is another one by then", async () => {
  let byte = 1;
  const decode: DecodeImage = async (_, name) => {
    return { name, width: 1, height: 1, data: new Uint8Array(3).fill(byte), channels: 3, orientation: 1 };
  };
  const pixel = (image: RgbImage) => ({
    pixelValues: float32([1, 3, 1, 1], Float32Array.from(image.data)),
    rows: 0,
    columns: 0,
  });
  const load = async (): Promise<ImageProcessor> => ({ config: {} as never, process: pixel, stack: () => assert.fail() });
  const store = imageStore(holding("a.png", "b.png"), decode, load, 12);
  const [kept, other] = [await store.add("a.png"), await store.add("b.png")];
  assert.equal(store.bytes, 12);
  assert.deepEqual([...(await store.read(other)).pixelValues.data], [1, 1, 1]);
  byte = 2;
  assert.deepEqual([...(await store.read(kept)).pixelValues.data], [1, 1, 1]);
  const error = await refusal(store.read(other), "image/changed");
  assert.equal(error.subject, "b.png");
});
