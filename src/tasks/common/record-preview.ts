// Previews of tasks whose records are fields: records as the model reads them, counts of each file, and what to look at before training.
import type { MadeExample } from "../../data/examples.ts";
import type { ImageStore } from "../../data/images.ts";
import { textsIn } from "../../data/store.ts";
import { readImage } from "../../images/image.ts";
import type { Platform } from "../../platform/platform.ts";
import { grouped, percent } from "../../units.ts";
import type { PreviewContext, PreviewedFiles, Previewing, TaskData } from "../task.ts";
import {
  type DatasetStats,
  duplicateWarnings,
  fileWarnings,
  lengthsOf,
  type ShownExample,
  truncationWarning,
} from "./preview.ts";

/** Of a class with fewer training records little can be learnt. */
const FEW_RECORDS = 5;
/** With one class this frequent, a model that always predicts it looks good. */
const MOST_OF_ONE_CLASS = 0.9;
/** Classes that a warning names. */
const NAMED = 5;

export async function recordPreview({ base, data, platform, ids: withIds }: PreviewContext): Promise<Previewing> {
  const { classes, images } = data;
  const tokenizer = base.config.vocabSize > 0 ? await base.tokenizer() : null;
  const text = (part: Int32Array): string => tokenizer!.limited(() => tokenizer!.decode(part, { skipSpecialTokens: false }));
  return {
    stats: (source) => recordStats(source, data),
    async show({ place, whole, isCut = false }): Promise<ShownExample> {
      const { ids, classes: own = [], value, images: [image] = [] } = whole;
      return {
        place,
        ...(classes && own.length === 1 && { label: classes.labels()[classes.placeOf(own[0]!)]! }),
        ...(value !== undefined && { label: String(value) }),
        ...(tokenizer && {
          text: textsIn(whole)
            .filter(({ length }) => length > 0)
            .map(text),
          tokens: ids.length,
          isCut,
          ...(withIds && { ids: [...ids] }),
        }),
        ...(image !== undefined && { image: await shownImage(images!, image, platform) }),
      };
    },
    warnings: recordWarnings,
  };
}

/** Counts of a file; `total` is asked for when all files are read. */
function recordStats(source: string, { classes, images }: Pick<TaskData, "classes" | "images">) {
  const lengths: number[] = [];
  const counts = new Map<number, number>();
  const seen = new Set<number>();
  let [records, truncated] = [0, 0];
  return {
    add({ whole: { ids, classes: own = [], images: shown = [] }, isCut = false }: MadeExample): void {
      records++;
      if (ids.length > 0) lengths.push(ids.length);
      if (isCut) truncated++;
      for (const number of own) if (number >= 0) counts.set(number, (counts.get(number) ?? 0) + 1);
      for (const image of shown) seen.add(image);
    },
    total(file: DatasetStats["file"]): DatasetStats {
      const named = new Map(classes && records > 0 ? classes.labels().map((label) => [label, 0]) : []);
      for (const [number, count] of classes ? counts : []) {
        const label = classes!.labels()[classes!.placeOf(number)]!;
        named.set(label, (named.get(label) ?? 0) + count);
      }
      return {
        source,
        file,
        records,
        tokens: lengths.reduce((sum, length) => sum + length, 0),
        truncated,
        lengths: lengths.length > 0 ? lengthsOf(lengths) : null,
        classes: classes ? [...named].map(([label, count]) => ({ label, count })) : null,
        images: images ? seen.size : null,
      };
    },
  };
}

async function shownImage(
  images: ImageStore,
  image: number,
  { files, decodeImage }: Platform,
): Promise<ShownExample["image"] & object> {
  const path = images.pathOf(image);
  const { width, height } = await readImage(files, decodeImage, path);
  const [tiles, , preparedHeight, preparedWidth] = (await images.read(image)).pixelValues.shape;
  return { path, width, height, prepared: { tiles: tiles!, width: preparedWidth!, height: preparedHeight! } };
}

const recordWarnings = (found: PreviewedFiles): string[] => [
  ...fileWarnings(found, (file) => [truncationWarning(file, found.maxLength, "texts", "their end is not read")]),
  ...(found.train.records > 0 && found.train.classes ? classWarnings(found.train, found.train.classes, found.evaluation) : []),
  ...duplicateWarnings(
    found,
    (count) => `${count === 1 ? "1 record was" : `${grouped(count)} records were`} there before with another label`,
  ),
];

function classWarnings(
  { source, words, ...counts }: DatasetStats,
  classes: readonly { label: string; count: number }[],
  evaluation: DatasetStats | null,
): string[] {
  const [what, records, measure] = words === undefined ? ["record", counts.records, "macro F1"] : ["word", words, "F1"];
  const few = classes.filter(({ count }) => count > 0 && count < FEW_RECORDS).map(({ label, count }) => `${label} (${count})`);
  const none = classes.filter(({ count }) => count === 0).map(({ label }) => label);
  const most = classes.find(({ count }) => count > MOST_OF_ONE_CLASS * records);
  const missed = (evaluation?.classes ?? []).filter(({ label, count }) => count > 0 && none.includes(label));
  return [
    few.length > 0 && `${source}: fewer than ${FEW_RECORDS} ${what}s of ${listed(few)}`,
    none.length > 0 && `${source}: no ${what} of ${listed(none)}, which training then never sees`,
    most &&
      `${source}: ${percent(most.count / records)} of the ${what}s are of ${most.label}; look at ${measure} and not at accuracy`,
    missed.length > 0 && `the evaluation has classes without a training ${what}: ${listed(missed.map(({ label }) => label))}`,
  ].filter((one) => typeof one === "string");
}

const listed = (names: readonly string[]): string =>
  `${names.slice(0, NAMED).join(", ")}${names.length > NAMED ? `, and ${names.length - NAMED} more` : ""}`;
