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
  const names: string[] = [];
  const numbers = new Map<string, number>();
  const ownPlaces = new Map(own.map((label, i) => [label, i]));
  const indices = own.some((label) => isIndex(label, Number.POSITIVE_INFINITY)) ? 0 : own.length;
  const asOwn: Order = {
    labels: own,
    placeOf: (name) => ownPlaces.get(name) ?? (isIndex(name, indices) ? Number(name) : undefined),
  };
  let settled: Order | undefined = fixed ? asOwn : undefined;

  const order = (): Order => {
    if (settled) return settled;
    if (names.every((name) => ownPlaces.has(name)) || names.every((name) => isIndex(name, indices))) return asOwn;
    const isNumbered = names.every((name) => /^-?\d{1,15}(\.\d{1,15})?$/.test(name));
    const labels = [...names].sort(isNumbered ? byNumber : byName);
    const places = new Map(labels.map((label, i) => [label, i]));
    return { labels, placeOf: (name) => places.get(name) };
  };

  return {
    numberOf(name, subject) {
      const known = numbers.get(name);
      if (known !== undefined) return known;
      if (settled && settled.placeOf(name) === undefined) throw unknownClass(name, settled.labels, subject);
      if (names.length === MAX_CLASSES || name.length > MAX_CLASS_CHARS) throw noClass(name, names.length, subject);
      numbers.set(name, names.length);
      return names.push(name) - 1;
    },
    settle(subject) {
      if (!settled && names.length < 2) throw oneClass(names, subject);
      settled = order();
    },
    labels: () => order().labels,
    placeOf: (number) => order().placeOf(names[number]!)!,
  };
}

/** Classes in the order of the logits. */
interface Order {
  labels: readonly string[];
  /** The place of a class among them; undefined if it is none of them. */
  placeOf(name: string): number | undefined;
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
