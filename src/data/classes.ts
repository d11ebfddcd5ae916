// The classes of a classifier: numbered as they come while a file is read, put in order when all of them are known.
import { LowrankError, nearest } from "../errors.ts";

/** Most classes that data may have. */
export const MAX_CLASSES = 10_000;
/** Longest name of a class. */
const MAX_CLASS_CHARS = 500;

export interface Classes {
  /** The number of a class; of a new one, the next. Fails with `data/label` on a class that the model does not have. */
  numberOf(name: string, subject: string): number;
  /** From now on there are no new ones: `subject`, the file of data, has been read. Fails with `data/label` on fewer than two. */
  settle(subject: string): void;
  /** All of them in the order of the logits. */
  labels(): readonly string[];
  /** The place among `labels` of the class with this number. */
  placeOf(number: number): number;
}

/** Whether a name is a number below `count`, as numbers are written, which stands for a class by its place. */
const isIndex = (name: string, count: number): boolean => /^(0|[1-9]\d{0,5})$/.test(name) && Number(name) < count;

/** Numbers in their order, whatever names are the same number too. */
const byNumber = (a: string, b: string): number => Number(a) - Number(b) || byName(a, b);
const byName = (a: string, b: string): number => (a < b ? -1 : 1);

/**
 * The classes of the data for a model that knows `own`. Data that name these by name, or by number where none of them has a number
 * for a name, are about these classes.
 * Others have classes of their own, sorted by name, or by number where all are numbers; with `fixed` they are refused.
 */
export function classesOf(own: readonly string[], fixed: boolean): Classes {
  const names = new Map<string, number>();
  const ownPlaces = new Map(own.map((label, i) => [label, i]));
  let settled: { labels: readonly string[]; places: number[] } | undefined;

  const indices = own.some((label) => isIndex(label, Number.POSITIVE_INFINITY)) ? 0 : own.length;

  /** The place among `own` of a class, by name or by number. */
  const ownPlace = (name: string): number | undefined =>
    ownPlaces.get(name) ?? (isIndex(name, indices) ? Number(name) : undefined);

  const settle = (): typeof settled & object => {
    const all = [...names.keys()];
    if (all.every((name) => ownPlaces.has(name)) || all.every((name) => isIndex(name, indices)) || fixed) {
      return { labels: own, places: all.map((name) => ownPlace(name)!) };
    }
    const isNumbered = all.every((name) => /^-?\d{1,15}(\.\d{1,15})?$/.test(name));
    const labels = [...all].sort(isNumbered ? byNumber : byName);
    const places = new Map(labels.map((label, i) => [label, i]));
    return { labels, places: all.map((name) => places.get(name)!) };
  };

  return {
    numberOf(name, subject) {
      const known = names.get(name);
      if (known !== undefined) return known;
      const isKnown = settled ? settled.labels.includes(name) || (settled.labels === own && ownPlace(name) !== undefined) : true;
      if (!isKnown || (fixed && ownPlace(name) === undefined)) throw unknownClass(name, settled?.labels ?? own, subject);
      if (names.size === MAX_CLASSES || name.length > MAX_CLASS_CHARS) throw noClass(name, names.size, subject);
      names.set(name, names.size);
      settled?.places.push(settled.labels === own ? ownPlace(name)! : settled.labels.indexOf(name));
      return names.size - 1;
    },
    settle(subject) {
      if (settled) return;
      if (names.size < 2 && !fixed) throw oneClass([...names.keys()], subject);
      settled = settle();
    },
    labels: () => (settled ?? settle()).labels,
    placeOf: (number) => (settled ?? settle()).places[number]!,
  };
}

const unknownClass = (name: string, labels: readonly string[], subject: string): LowrankError =>
  new LowrankError("data/label", "the class is not one of the model's", {
    subject,
    expected: `one of ${labels.slice(0, 20).join(", ")}${labels.length > 20 ? ", …" : ""}`,
    got: name.slice(0, 200),
    next: `Correct the label (the nearest class is ${nearest(name.slice(0, 128), labels, 1)[0]}), or leave the record out.`,
  });

const noClass = (name: string, count: number, subject: string): LowrankError =>
  new LowrankError("data/label", "the label does not look like the name of a class", {
    subject,
    expected: `at most ${MAX_CLASSES} classes, with names of at most ${MAX_CLASS_CHARS} characters`,
    got: count === MAX_CLASSES ? `one class more: ${name.slice(0, 60)}` : `${name.length} characters`,
    next: "Check which column holds the classes (--label-column).",
  });

const oneClass = (names: readonly string[], subject: string): LowrankError =>
  new LowrankError("data/label", "there are too few classes", {
    subject,
    expected: "at least two classes",
    got: names.join(", ") || "none",
    next: "Add records of other classes, of images in folders a folder for each; or check which column holds the classes (--label-column).",
  });
