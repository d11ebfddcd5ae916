// How well a model that compares images and texts classifies images by classes that it was never trained on: each label as a text (zero-shot).

import type { Adapter } from "../../adapters/peft-files.ts";
import { inOrder } from "../../data/store.ts";
import { LowrankError } from "../../errors.ts";
import type { AnyBase } from "../../models/base.ts";
import type { Platform } from "../../platform/platform.ts";
import { openClassifier } from "../../predict/classifier.ts";
import type { Classifier } from "../../predict/types.ts";
import { DEFAULT_TEMPLATE } from "../../predict/zero-shot.ts";
import { type ClassifierScore, classLabel } from "../../tasks/common/classification.ts";
import { classificationMeasures } from "../../tasks/common/classification-measures.ts";
import { labelledImages } from "../../tasks/common/labelled.ts";
import { recordData } from "../../tasks/common/record-data.ts";
import { ownTask, taskOf } from "../../tasks/index.ts";
import type { TaskData } from "../../tasks/task.ts";
import { dataReader, finished } from "../../train/datasets.ts";
import type { EvaluateOptions } from "./evaluate.ts";

/** Images that are classified at once. */
const BATCH_IMAGES = 64;

/** The images with classes of a file, as data of a base. */
const classifiedImages = recordData(labelledImages(classLabel));

/** Whether a file for a base that compares images and texts has classes in the place of texts. */
export async function hasClasses(base: AnyBase, options: EvaluateOptions, platform: Platform): Promise<boolean> {
  if ((options.template ?? options.labelColumn) !== undefined) return true;
  const begins = async ({ open }: TaskData): Promise<boolean> => {
    try {
      for await (const _ of open(options.data).file) return true;
    } catch (error) {
      if (!(error instanceof LowrankError)) throw error;
    }
    return false;
  };
  const pairs = await taskOf(ownTask(base.config)).data(base, { ...options, trainOn: "all" }, platform);
  return !(await begins(pairs)) && begins(await classifiedImages(base, { ...options, trainOn: "all" }, platform));
}

/** Classifies the images of `options.data` by the base, and by the adapter on it. The classes are those of the file. */
export async function scoreZeroShot(base: AnyBase, adapter: Adapter | null, options: EvaluateOptions, platform: Platform) {
  const { template: given = DEFAULT_TEMPLATE, anyBase, baseDtype, threads } = options;
  const template = typeof given === "string" ? [given] : given;
  const reader = dataReader(platform.files, await classifiedImages(base, { ...options, trainOn: "all" }, platform));
  try {
    const { examples, report } = await finished(reader.read(options.data));
    const images: { path: string; label: number }[] = [];
    for await (const { images: [image] = [], classes: [number] = [] } of inOrder(examples)) {
      images.push({ path: reader.images!.pathOf(image!), label: reader.classes!.placeOf(number!) });
    }
    const labels = reader.labels()!;
    const classifier = await openClassifier(base, { ...platform, anyBase, baseDtype, threads });
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
    const paths = some.map(({ path }) => path);
    const found = await classifier.classify(paths, { labels, template });
    for (const [i, { scores }] of found.entries()) {
      predicted.push(places.get(scores[0]!.label)!);
      loss -= Math.log(scores.find(({ label }) => label === labels[some[i]!.label])!.probability);
    }
  }
  const expected = images.map(({ label }) => label);
  return { loss: loss / images.length, ...classificationMeasures(expected, predicted, labels) };
}
