// Previews of tasks whose records are fields: records as the model reads them, counts of each file, and what to look at before training.
import type { MadeExample } from "../../data/examples.ts";
import type { ImageStore } from "../../data/images.ts";
import { readImage } from "../../images/image.ts";
import type { Platform } from "../../platform/platform.ts";
import { grouped } from "../../units.ts";
import type { PreviewContext, PreviewedFiles, Previewing, TaskData } from "../task.ts";
import { type DatasetStats, lengthsOf, type ShownExample, sharedWarning } from "./preview.ts";

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
      const { ids, starts = [], classes: own = [], value, images: [image] = [] } = whole;
      const borders = [0, ...starts, ids.length];
      const parts = borders.slice(1).map((end, i) => ids.subarray(borders[i]!, end));
      return {
        place,
        ...(classes && own.length === 1 && { label: classes.labels()[classes.placeOf(own[0]!)]! }),
        ...(value !== undefined && { label: String(value) }),
        ...(tokenizer && {
          text: parts.filter(({ length }) => length > 0).map(text),
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
export function recordStats(source: string, { classes, images }: Pick<TaskData, "classes" | "images">) {
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
  const { width, height } = await readImage(files, decodeImage!, path);
  const [tiles, , preparedHeight, preparedWidth] = (await images.read(image)).pixelValues.shape;
  return { path, width, height, prepared: { tiles: tiles!, width: preparedWidth!, height: preparedHeight! } };
}

function recordWarnings(found: PreviewedFiles): string[] {
  const { maxLength, train, evaluation, duplicates } = found;
  const warnings = [train, ...(evaluation ? [evaluation] : [])].flatMap((file) => fileWarnings(file, maxLength));
  if (train.records > 0 && train.classes) warnings.push(...classWarnings(train, evaluation));
  const { contradicting } = duplicates;
  if (contradicting > 0) {
    const records = contradicting === 1 ? "1 record was" : `${grouped(contradicting)} records were`;
    warnings.push(`${train.source}: ${records} there before with another label; one of both is wrong`);
  }
  return [...warnings, ...sharedWarning(found)];
}

function fileWarnings({ source, records, truncated }: DatasetStats, maxLength: number | null): string[] {
  if (records === 0) return [`${source}: there are no records, and a run would refuse the file`];
  if (truncated <= records / 10) return [];
  return [
    `${source}: ${grouped(truncated)} of ${grouped(records)} texts are truncated at ${maxLength} tokens, and their end is not read`,
  ];
}

function classWarnings({ source, classes, ...counts }: DatasetStats, evaluation: DatasetStats | null): string[] {
  const all = classes!;
  const [what, records, measure] =
    counts.words === undefined ? ["record", counts.records, "macro F1"] : ["word", counts.words, "F1"];
  const few = all.filter(({ count }) => count > 0 && count < FEW_RECORDS);
  const none = all.filter(({ count }) => count === 0);
  const most = all.find(({ count }) => count > MOST_OF_ONE_CLASS * records);
  const missed = (evaluation?.classes ?? []).filter(({ label, count }) => count > 0 && none.some((one) => one.label === label));
  const warnings: string[] = [];
  if (few.length > 0) {
    warnings.push(
      `${source}: fewer than ${FEW_RECORDS} ${what}s of ${listed(few.map(({ label, count }) => `${label} (${count})`))}`,
    );
  }
  if (none.length > 0)
    warnings.push(`${source}: no ${what} of ${listed(none.map(({ label }) => label))}, which training then never sees`);
  if (most) {
    const share = ((100 * most.count) / records).toFixed(1);
    warnings.push(`${source}: ${share} % of the ${what}s are of ${most.label}; look at ${measure} and not at accuracy`);
  }
  if (missed.length > 0) {
    warnings.push(`the evaluation has classes without a training ${what}: ${listed(missed.map(({ label }) => label))}`);
  }
  return warnings;
}

const listed = (names: readonly string[]): string =>
  `${names.slice(0, NAMED).join(", ")}${names.length > NAMED ? `, and ${names.length - NAMED} more` : ""}`;
