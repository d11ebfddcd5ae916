// The account of one data file of another task than language modelling: records, lengths, classes, images.
import type { MadeExample } from "../../data/examples.ts";
import type { Recognized } from "../../data/readers.ts";
import type { AnyRecord } from "../../data/task-records.ts";
import type { DataReader } from "../../train/datasets.ts";
import { type Lengths, lengthsOf } from "./dataset-stats.ts";

export interface TaskDatasetPreview {
  source: string;
  /** What the file was taken for; null if nothing is in it. */
  file: Recognized | null;
  records: number;
  /** Tokens of the texts, and how many texts were cut; 0 where no text is read. */
  tokens: number;
  truncated: number;
  /** In tokens, after cutting; null where no text is read. */
  lengths: Lengths | null;
  /** The classes of a classifier, in the order of its logits, with the number of records of each; null for others. */
  classes: { label: string; count: number }[] | null;
  /** Image files, each counted once; null where no image is read. */
  images: number | null;
}

/** An account that records are added to; it is told when all files are read. */
export function makeTaskAccount(source: string, { classes, images }: Pick<DataReader, "classes" | "images">) {
  const lengths: number[] = [];
  const answers = new Map<number, number>();
  const seen = new Set<number>();
  let [records, truncated] = [0, 0];
  return {
    add({ whole: { ids, answer = 0, images: own = [] }, isCut = false }: MadeExample<AnyRecord>): void {
      records++;
      if (ids.length > 0) lengths.push(ids.length);
      if (isCut) truncated++;
      answers.set(answer, (answers.get(answer) ?? 0) + 1);
      for (const image of own) seen.add(image);
    },
    total(file: Recognized | null): TaskDatasetPreview {
      const counts = new Map(classes && records > 0 ? classes.labels().map((label) => [label, 0]) : []);
      for (const [answer, count] of classes ? answers : []) {
        const label = classes!.labels()[classes!.placeOf(answer)]!;
        counts.set(label, (counts.get(label) ?? 0) + count);
      }
      return {
        source,
        file,
        records,
        tokens: lengths.reduce((sum, length) => sum + length, 0),
        truncated,
        lengths: lengths.length > 0 ? lengthsOf(lengths) : null,
        classes: classes ? [...counts].map(([label, count]) => ({ label, count })) : null,
        images: images ? seen.size : null,
      };
    },
  };
}
