// How well a model that compares images and texts tells classes that it was never trained on: each label as a text (zero-shot).

import type { Adapter } from "../../adapters/peft-files.ts";
import type { ExampleReport } from "../../data/dataset.ts";
import { type RecordFile, readSpelled } from "../../data/readers.ts";
import { inOrder } from "../../data/store.ts";
import { type TaskRecords, taskSpellings } from "../../data/task-records.ts";
import { LowrankError } from "../../errors.ts";
import type { AnyBase } from "../../models/base.ts";
import type { Platform } from "../../platform/platform.ts";
import { openClassifier } from "../../predict/classifier.ts";
import { classificationMeasures } from "../../predict/measures.ts";
import type { Classifier } from "../../predict/types.ts";
import { DEFAULT_TEMPLATE } from "../../predict/zero-shot.ts";
import { dataReader, finished } from "../../train/datasets.ts";
import type { EvaluateOptions } from "./evaluate.ts";
import type { ClassifierScore } from "./measures.ts";

/** Images that are classified at once. */
const BATCH_IMAGES = 64;

/** Whether a file for a contrastive model has classes in the place of texts. */
export async function hasClasses({ files }: Platform, options: EvaluateOptions): Promise<boolean> {
  if ((options.template ?? options.labelColumn) !== undefined) return true;
  const begins = async <T extends keyof TaskRecords>(task: T): Promise<boolean> => {
    const file: RecordFile<TaskRecords[T]> = readSpelled(files, options.data, taskSpellings[task](options));
    try {
      for await (const _ of file) return true;
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
    }
    return false;
  };
  return !(await begins("contrastive")) && begins("image-classification");
}

/** Classifies the images of `options.data` by the base, and by the adapter on it. The classes are those of the file. */
export async function zeroShot(
  base: AnyBase,
  adapter: Adapter | null,
  options: EvaluateOptions,
  platform: Platform,
): Promise<{ data: ExampleReport; template: readonly string[]; base: ClassifierScore; adapter: ClassifierScore | null }> {
  const { template: given = DEFAULT_TEMPLATE, anyBase, threads } = options;
  const template = typeof given === "string" ? [given] : given;
  const reader = await dataReader(platform, base, { ...options, trainOn: "all", records: "image-classification" });
  try {
    const { examples, report } = await finished(reader.read(options.data));
    const images: { path: string; label: number }[] = [];
    for await (const { images: [image] = [], answer } of inOrder(examples)) {
      images.push({ path: reader.images!.pathOf(image!), label: reader.classes!.placeOf(answer!) });
    }
    const labels = reader.labels()!;
    const classifier = await openClassifier(base, { ...platform, anyBase, threads });
    try {
      const own = await scoreOf(classifier, images, labels, template);
      if (adapter) await classifier.useAdapter(adapter);
      return { data: report, template, base: own, adapter: adapter && (await scoreOf(classifier, images, labels, template)) };
    } finally {
      await classifier.close();
    }
  } finally {
    await reader.close();
  }
}

async function scoreOf(
  classifier: Classifier,
  images: readonly { path: string; label: number }[],
  labels: readonly string[],
  template: readonly string[],
): Promise<ClassifierScore> {
  const places = new Map(labels.map((label, i) => [label, i]));
  const predicted: number[] = [];
  let loss = 0;
  for (let from = 0; from < images.length; from += BATCH_IMAGES) {
    const some = images.slice(from, from + BATCH_IMAGES);
    const found = await classifier.classify(
      some.map(({ path }) => path),
      { labels, template },
    );
    for (const [i, { scores }] of found.entries()) {
      predicted.push(places.get(scores[0]!.label)!);
      loss -= Math.log(scores.find(({ label }) => label === labels[some[i]!.label])!.probability);
    }
  }
  const expected = images.map(({ label }) => label);
  return { loss: loss / images.length, ...classificationMeasures(expected, predicted, labels) };
}
