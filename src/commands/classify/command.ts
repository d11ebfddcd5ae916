// lowrank classify: texts or images in, their likeliest classes out.

import { note, oneLine, print, printJson, table } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { LowrankError } from "../../errors.ts";
import { openClassifier } from "../../node.ts";
import type { Classification, Classifier, ClassifyOptions } from "../../predict/types.ts";
import { blocks, givenInputs, type InputFlags, inputLines, SHOWN_CLASSES } from "./inputs.ts";

interface Options extends InputFlags {
  base: string;
  adapter?: string;
  anyBase?: boolean;
  textPair?: string;
  labels?: string[];
  template?: string[];
  top?: number;
  threads?: number;
}

/** Characters of an input that are shown beside its classes. */
const SHOWN_CHARS = 60;

/** Classifies; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const {
    base,
    adapter,
    anyBase,
    threads,
    textPair,
    labels,
    template,
    top = SHOWN_CLASSES,
    ...given
  } = values as Values & Options;
  const options: ClassifyOptions = { top, labels, template };
  const classifier = await openClassifier(base, { adapter, anyBase, threads });
  try {
    const inputs = inputsFor(classifier, given, textPair);
    const isOne = Array.isArray(inputs) && inputs.length === 1;
    let cut = 0;
    for await (const block of blocks(inputs)) {
      const found = await classifier.classify(
        textPair === undefined ? block : block.map((text) => ({ text, textPair })),
        options,
      );
      cut += found.filter((one) => one.cut).length;
      for (const [i, one] of found.entries()) {
        if (json) printJson({ type: "classification", input: block[i], textPair, ...one });
        else print(isOne ? alone(one) : beside(block[i]!, one));
      }
    }
    if (cut > 0 && !json) note(`${cut === 1 ? "One text was" : `${cut} texts were`} longer than the model reads, and cut.`);
  } finally {
    await classifier.close();
  }
  return 0;
}

/** What the model reads of what was given: texts, or paths of images. */
function inputsFor({ reads }: Classifier, given: InputFlags, textPair?: string): string[] | AsyncIterable<string> {
  const { texts, images } = givenInputs(given);
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

const percent = (probability: number): string => `${(100 * probability).toFixed(1)} %`;

const alone = ({ scores }: Classification): string =>
  table(scores.map(({ label, probability }) => [oneLine(label, SHOWN_CHARS), percent(probability)]));

const beside = (input: string, { scores }: Classification): string =>
  `${oneLine(input, SHOWN_CHARS)}: ${scores.map(({ label, probability }) => `${oneLine(label, SHOWN_CHARS)} ${percent(probability)}`).join(", ")}`;
