// lowrank classify and lowrank embed: what they print, what they read, what they refuse.
// slow
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { type TestContext, test } from "node:test";
import { readHeader, readTensor } from "../../src/formats/safetensors.ts";
import { openClassifier, openEmbedder } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { Classification } from "../../src/predict/types.ts";
import { jsonLines, printed, printedFor } from "../helpers/program.ts";
import { imageFile, tinyTask } from "../helpers/tiny-tasks.ts";

const [wide, tall] = [imageFile("wide.png"), imageFile("tall.png")];

/** A model, with what the API reports of it. */
async function classifierOf(t: TestContext, name: "bert" | "vit" | "clip") {
  const made = await tinyTask(t, name);
  const classifier = await openClassifier(made.base, { adapter: made.adapter });
  t.after(() => classifier.close());
  return { ...made, classifier };
}

test("classify prints one text's classes in a column, and lines of standard input with a line each", async (t) => {
  const { base, adapter, classifier } = await classifierOf(t, "bert");
  const [first, second] = await classifier.classify(["I love it", "a dull story"]);
  const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
  const one = await printed("classify", "--base", base, "--adapter", adapter, "--text", "I love it");
  assert.deepEqual(
    one.stdout.trimEnd().split("\n"),
    first!.scores.map(({ label, probability }) => `${label}  ${percent(probability)}`),
  );
  const many = await printedFor("I love it\r\n\na dull story\n", "classify", "--base", base, "--adapter", adapter, "--top", "1");
  const line = (text: string, { scores: [best] }: typeof first & object) =>
    `${text}: ${best!.label} ${percent(best!.probability)}`;
  assert.deepEqual(many.stdout.trimEnd().split("\n"), [line("I love it", first!), line("a dull story", second!)]);
  assert.equal(many.stderr, "");
});

test("classify --json gives what the API gives, for pairs and for texts that are cut", async (t) => {
  const { base, adapter, classifier } = await classifierOf(t, "bert");
  const long = "I love this film and the cat ".repeat(9);
  const command = ["classify", "--base", base, "--adapter", adapter];
  const pair = await printed(...command, "--text", "I love it", "--text", long, "--text-pair", "a joy", "--json");
  const expected = await classifier.classify([
    { text: "I love it", textPair: "a joy" },
    { text: long, textPair: "a joy" },
  ]);
  assert.deepEqual(
    jsonLines(pair.stdout).map(({ scores, cut, textPair, input }) => ({ scores, cut, textPair, input })),
    expected.map((one, i) => ({ ...one, textPair: "a joy", input: [...["I love it", long]][i] })),
  );
  assert.deepEqual(
    expected.map(({ cut }) => cut),
    [false, true],
  );
  const result = await printed(...command, "--text", long);
  assert.match(result.stderr, /One text was longer than the model reads/);
});

test("hundreds of files on the command line are classified in blocks, in their order", async (t) => {
  const { base, classifier } = await classifierOf(t, "vit");
  await classifier.useAdapter(null);
  const [small] = await classifier.classify([imageFile("small.png")]);
  const files = Array.from({ length: 700 }, (_, i) => (i === 300 ? wide : imageFile("small.png")));
  const found = await printed("classify", "--base", base, "--json", ...files);
  assert.equal(found.status, 0, found.stderr);
  const lines = jsonLines<Classification & { input: string }>(found.stdout);
  assert.deepEqual(
    lines.map(({ input }) => input),
    files,
  );
  const rounded = ({ scores }: Classification) => scores.map(({ label, probability }) => `${label} ${probability.toFixed(4)}`);
  assert.deepEqual(rounded(lines[699]!), rounded(small!));
  assert.notDeepEqual(rounded(lines[300]!), rounded(small!));
});

test("classify by labels, from the command line and from a config file", async (t) => {
  const { base, adapter, folder, classifier } = await classifierOf(t, "clip");
  const command = ["classify", "--base", base, "--adapter", adapter, "--json"];
  const template = ["a photo of a {}", "the {} sat"];
  const flags = ["--labels", "cat, dog", "--template", template[0]!, "--template", template[1]!];
  const found = await printed(...command, ...flags, wide, "--image", tall);
  const expected = await classifier.classify([tall, wide], { labels: ["cat", "dog"], template });
  assert.deepEqual(
    jsonLines(found.stdout).map(({ scores }) => scores),
    expected.map(({ scores }) => scores),
  );
  await writeFile(`${folder}/own.yaml`, 'labels: ["cat, dog", "dog, cat"]\n');
  const both = await printedFor(`${wide}\n`, ...command, "--config", `${folder}/own.yaml`);
  assert.deepEqual(
    jsonLines<Classification>(both.stdout)[0]!
      .scores.map(({ label }: { label: string }) => label)
      .sort(),
    ["cat, dog", "dog, cat"],
  );
});

test("embed prints a line for each text and image, or writes one tensor", async (t) => {
  const { base, adapter, folder } = await tinyTask(t, "clip");
  const embedder = await openEmbedder(base, { adapter });
  t.after(() => embedder.close());
  const expected = [...(await embedder.embedTexts(["a cat"])), ...(await embedder.embedImages([wide, tall]))];
  const command = ["embed", "--base", base, "--adapter", adapter, "--text", "a cat", wide, tall];
  const lines = jsonLines<{ text?: string; image?: string; embedding: number[] }>((await printed(...command)).stdout);
  assert.deepEqual(
    lines.map(({ text, image }) => text ?? image),
    ["a cat", wide, tall],
  );
  for (const [i, { embedding }] of lines.entries()) assert.deepEqual(Float32Array.from(embedding), expected[i]);
  const output = `${folder}/vectors.safetensors`;
  const written = await printed(...command, "--output", output);
  assert.match(written.stdout, /^3 vectors of 20 numbers: .*tensor embeddings\n$/);
  const entry = (await readHeader(nodeFiles, output)).tensors.get("embeddings")!;
  const { shape, data } = await readTensor(nodeFiles, output, entry);
  assert.deepEqual([...shape], [3, 20]);
  assert.deepEqual(
    [...(data as Float32Array)],
    expected.flatMap((vector) => [...vector]),
  );
});

test("what a command cannot do is refused with what can", async (t) => {
  const [{ base: bert }, { base: clip, folder }] = await Promise.all([tinyTask(t, "bert"), tinyTask(t, "clip")]);
  const refusal = async (args: string[]) => {
    const { status, stderr } = await printed(...args);
    assert.equal(status, 2);
    return stderr;
  };
  assert.match(await refusal(["classify", "--base", bert, wide]), /the model classifies texts/);
  assert.match(await refusal(["classify", "--base", clip, "--labels", "a,b", "--text", "a cat"]), /the model classifies images/);
  assert.match(await refusal(["classify", "--base", clip, "--labels", "a,a", wide]), /a label occurs twice/);
  assert.match(await refusal(["classify", "--base", clip, "--labels", "a,", wide]), /a label is empty/);
  const empty = await printedFor("\n \n", "classify", "--base", bert);
  assert.deepEqual([empty.status, empty.stdout], [2, ""]);
  assert.match(empty.stderr, /standard input has no line/);
  assert.match(await refusal(["classify", "--base", bert, "--text", " "]), /the text is empty/);
  assert.match(
    await refusal(["classify", "--base", "embedded", "--text", "hi"]),
    /lowrank train --task sequence-classification[\s\S]*lowrank generate/,
  );
  assert.match(await refusal(["generate", "--base", bert, "--prompt", "hi"]), /lowrank classify/);
  assert.match(await refusal(["embed", "--base", bert, "--task", "sequence-classification", "--text", "hi"]), /lowrank classify/);
  const output = `${folder}/vectors.npy`;
  assert.match(await refusal(["embed", "--base", clip, "--text", "hi", "--output", output]), /safetensors/);
  const unwritten = `${folder}/vectors.safetensors`;
  assert.match(await refusal(["embed", "--base", clip, "--output", unwritten, `${folder}/none.png`]), /none\.png/);
  assert.equal(existsSync(unwritten), false);
});
