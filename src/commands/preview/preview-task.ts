// What a run of another task than language modelling would train on: texts as they are read, classes, images, what is there twice.
import { type RecordKey, recordKey, seenRecords } from "../../data/duplicates.ts";
import type { MadeExample } from "../../data/examples.ts";
import type { ImageStore } from "../../data/images.ts";
import type { RecordFile } from "../../data/readers.ts";
import type { AnyRecord } from "../../data/task-records.ts";
import { readImage } from "../../images/image.ts";
import type { TextBase } from "../../models/base.ts";
import { taskInputs } from "../../models/registry.ts";
import type { Task, TaskConfig } from "../../models/task.ts";
import type { Platform } from "../../platform/platform.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { type DataReader, dataReader } from "../../train/datasets.ts";
import type { PreviewOptions } from "./preview.ts";
import { makeTaskAccount, type TaskDatasetPreview } from "./task-stats.ts";
import { taskWarnings } from "./task-warnings.ts";

/** A record as the model reads it. */
export interface ShownRecord {
  /** Of its record in the file: "line 3". */
  place: string;
  /** The name of its class; of a classifier. */
  label?: string;
  /** What the tokens decode to, special tokens included; of a task with texts. Of two texts the second begins the second part. */
  text?: string[];
  tokens?: number;
  /** Whether the text was longer than the model reads, or than `maxLength`. */
  isCut?: boolean;
  ids?: number[];
  /** Its image: the file, upright, and the pixels that the model gets of it. */
  image?: { path: string; width: number; height: number; prepared: { tiles: number; width: number; height: number } };
}

export interface TaskPreview {
  task: Task;
  /** In tokens; null where no text is read. */
  maxLength: number | null;
  train: TaskDatasetPreview;
  evaluation: TaskDatasetPreview | null;
  duplicates: {
    /** Records that are there again in the same file. */
    train: number;
    evaluation: number;
    /** Training records of a classifier whose text or image was there before, with another class. */
    contradicting: number;
    /** Records of the evaluation that are training records. */
    shared: number;
    /** Others of the evaluation whose text or image is that of a training record. */
    sameQuestion: number;
  };
  shown: ShownRecord[];
  /** What a person should look at before training. */
  warnings: string[];
}

/** Looks at data for `base` as a run with these options would read it. Throws what the run would. */
export async function previewTask(
  base: TextBase & { config: TaskConfig },
  options: PreviewOptions,
  platform: Platform,
): Promise<TaskPreview> {
  const { data, evalData, evalSplit, seed = 0, examples = 3, ids = false } = options;
  const { config } = base;
  const hasTexts = taskInputs(config)["inputIds"] !== undefined;
  const reader = await dataReader(platform, base, { ...options, trainOn: "all" });
  const held = evalSplit === undefined ? new Set<number>() : await reader.held(data, evalSplit, seed);

  const train = makeTaskAccount(data, reader);
  const hasEvaluation = evalData !== undefined || evalSplit !== undefined;
  const evaluation = hasEvaluation ? makeTaskAccount(evalData ?? data, reader) : null;
  const [trained, evaluated] = [seenRecords(), seenRecords()];
  const duplicates = { train: 0, evaluation: 0, contradicting: 0, shared: 0, sameQuestion: 0 };
  const first: MadeExample<AnyRecord>[] = [];
  /** The records for evaluation; those of a split are compared when all of the training's are known. */
  const others: RecordKey[] = [];
  let index = 0;
  const read = reader.each(data);
  for await (const made of read.examples) {
    const key = recordKey(made.record);
    if (held.has(index++)) {
      evaluation!.add(made);
      others.push(key);
      continue;
    }
    train.add(made);
    if (trained.has(key)) duplicates.train++;
    else if (trained.asked(key)) duplicates.contradicting++;
    trained.add(key);
    if (first.length < examples) first.push(made);
  }
  // From here on other classes are refused, as in training.
  if (index > 0) reader.classes?.settle(data);
  let readToo: { file: RecordFile<AnyRecord> } = read;
  if (evalData !== undefined) {
    const second = reader.each(evalData);
    for await (const made of second.examples) {
      evaluation!.add(made);
      others.push(recordKey(made.record));
    }
    readToo = second;
  }
  for (const key of others) {
    if (evaluated.has(key)) duplicates.evaluation++;
    evaluated.add(key);
    if (trained.has(key)) duplicates.shared++;
    else if (trained.asked(key)) duplicates.sameQuestion++;
  }
  const tokenizer = hasTexts ? await base.tokenizer() : null;
  const shown: ShownRecord[] = [];
  for (const made of first) shown.push(await show(made, reader, tokenizer, ids, platform));
  const found = {
    task: config.task,
    maxLength: hasTexts ? reader.maxLength : null,
    train: train.total(read.file.recognized()),
    evaluation: evaluation?.total(readToo.file.recognized()) ?? null,
    duplicates,
    shown,
  };
  return { ...found, warnings: taskWarnings(found) };
}

async function show(
  { place, whole, isCut }: MadeExample<AnyRecord>,
  { classes, images }: DataReader,
  tokenizer: Tokenizer | null,
  withIds: boolean,
  platform: Platform,
): Promise<ShownRecord> {
  const { ids, second = ids.length, answer, images: [image] = [] } = whole;
  const text = (part: Int32Array): string => tokenizer!.limited(() => tokenizer!.decode(part, { skipSpecialTokens: false }));
  return {
    place,
    ...(classes && { label: classes.labels()[classes.placeOf(answer!)]! }),
    ...(tokenizer && {
      text: [ids.subarray(0, second), ids.subarray(second)].filter(({ length }) => length > 0).map(text),
      tokens: ids.length,
      isCut: isCut ?? false,
      ...(withIds && { ids: [...ids] }),
    }),
    ...(image !== undefined && { image: await shownImage(images!, image, platform) }),
  };
}

async function shownImage(
  images: ImageStore,
  image: number,
  { files, decodeImage }: Platform,
): Promise<ShownRecord["image"] & object> {
  const path = images.pathOf(image);
  const { width, height } = await readImage(files, decodeImage!, path);
  const [tiles, , preparedHeight, preparedWidth] = (await images.read(image)).pixelValues.shape;
  return { path, width, height, prepared: { tiles: tiles!, width: preparedWidth!, height: preparedHeight! } };
}
