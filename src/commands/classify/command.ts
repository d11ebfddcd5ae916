// lowrank classify: texts or images in, their likeliest classes out.
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import { type Given, option } from "../../options.ts";
import type { Classification, Classifier, LabelledSpan, LabelScore } from "../../predict/types.ts";
import { table } from "../../terminal/columns.ts";
import { note, print, printJson } from "../../terminal/terminal.ts";
import { taskOption } from "../../train/options.ts";
import { oneLine, percent } from "../../units.ts";
import { adapterOption, anyBase, base, defineCommand, device, threads } from "../command.ts";
import { inBatches, inputLines, inputOptions } from "./inputs.ts";

/** Characters of an input that are shown beside its classes. */
const SHOWN_CHARS = 60;

/** Classes that are shown where --top is not given. */
const SHOWN_CLASSES = 5;

export const command = defineCommand({
  summary: "classify texts or images, with a classifier or with labels of your own (CLIP)",
  options: {
    files: inputOptions.files,
    base,
    adapter: adapterOption("an adapter to attach, with its classes"),
    anyBase,
    task: taskOption,
    text: inputOptions.text,
    textPair: option(z.string().optional(), { help: "the second text of each, for a model that classifies pairs" }),
    image: inputOptions.image,
    labels: option(z.array(z.string()).optional(), {
      value: "A,B,…",
      commas: true,
      help: "the classes to choose from, with commas between them; for a model that compares images and texts",
    }),
    template: option(z.array(z.string()).optional(), {
      help: 'makes a text of a label, which stands where {} is ("a photo of a {}"); can be repeated: the mean counts',
    }),
    top: option(z.number().default(SHOWN_CLASSES), { help: "how many of the likeliest classes are shown" }),
    device,
    threads,
  },
  argument: "files",
  examples: [
    '--base my-classifier --text "The food was cold."',
    "--base openai/clip-vit-base-patch32 --labels cat,dog photo.jpg",
  ],
  async run(values, { api, json }) {
    const { textPair, labels, template, top = SHOWN_CLASSES } = values;
    const classifier = await api.openClassifier(values.base, values);
    try {
      const inputs = inputsFor(classifier, values, textPair);
      const isOne = Array.isArray(inputs) && inputs.length === 1;
      let cut = 0;
      for await (const block of inBatches(inputs)) {
        const asked = textPair === undefined ? block : block.map((text) => ({ text, textPair }));
        const found = await classifier.classify(asked, { top, labels, template });
        cut += found.filter((one) => one.cut).length;
        for (const [i, one] of found.entries()) {
          if (json) printJson({ type: "classification", input: block[i], textPair, ...one });
          else print(...(isOne ? alone(one) : [beside(block[i]!, one)]));
        }
      }
      const were = cut === 1 ? "One text was" : `${cut} texts were`;
      if (cut > 0 && !json) note(`${were} longer than the model reads, and truncated.`);
    } finally {
      await classifier.close();
    }
    return 0;
  },
});

/** What the model reads of what was given: texts, or paths of images. */
function inputsFor(
  { reads }: Classifier,
  given: Given<typeof inputOptions>,
  textPair?: string,
): string[] | AsyncIterable<string> {
  const { text: texts = [], image = [], files = [] } = given;
  const images = [...image, ...files];
  const readsTexts = reads === "text";
  const wrong = readsTexts ? images[0] : (texts[0] ?? textPair);
  if (wrong !== undefined) {
    throw new LowrankError("cli/usage", `the model classifies ${readsTexts ? "texts" : "images"}`, {
      expected: readsTexts ? "--text TEXT, or lines on standard input" : "image files",
      got: oneLine(wrong, SHOWN_CHARS),
      next: readsTexts
        ? "Give texts. The lines of a file of texts: lowrank classify … < FILE."
        : "Give files of images: PNG, JPEG or WebP.",
    });
  }
  const own = readsTexts ? texts : images;
  return own.length > 0 ? own : inputLines(readsTexts ? "--text TEXT" : "image files");
}

const labelText = ({ label }: LabelScore): string => oneLine(label, SHOWN_CHARS);
const spanText = ({ text }: LabelledSpan): string => oneLine(text, SHOWN_CHARS);

/** The classes of an input, its number, or its words with their classes and what they name. */
function alone({ scores, value, words, entities }: Classification): string[] {
  if (value !== undefined) return [String(value)];
  const found = (one: LabelScore) => [labelText(one), percent(one.probability)];
  const rows = words?.map((word) => [spanText(word), ...found(word)]) ?? scores.map(found);
  const named = (entities ?? []).map((entity) => [spanText(entity), ...found(entity)]);
  return [...(rows.length > 0 ? table(rows) : []), ...(named.length > 0 ? ["", ...table(named)] : [])];
}

function beside(input: string, { scores, value, words, entities }: Classification): string {
  const spans = (entities ?? words)?.map((one) => `${spanText(one)} (${labelText(one)} ${percent(one.probability)})`);
  const found = spans ?? scores.map((one) => `${labelText(one)} ${percent(one.probability)}`);
  return `${oneLine(input, SHOWN_CHARS)}: ${value ?? (found.join(", ") || "nothing")}`;
}
