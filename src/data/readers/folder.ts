// A folder of images as Hugging Face's imagefolder lays it out: with a metadata.jsonl that names them, or with a folder for each class.
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { grouped } from "../../units.ts";
import type { ChooseColumns, LeftOut, Row, Source } from "./blocks.ts";

/** How deep folders lie in a folder. */
export const MAX_FOLDER_DEPTH = 16;
/** Most names in a folder and those inside: files, folders, and what is left out. */
export const MAX_FOLDER_NAMES = 2_000_000;

/** The file that says what the images of a folder are. */
export const METADATA_NAME = "metadata.jsonl";
/** Endings of images. What a file is, its first bytes say when it is read. */
const IMAGE_ENDINGS = /\.(png|jpe?g|webp)$/i;
/** The words for parts of a data set that imagefolder knows. */
const PARTS = /^(train|training|test|testing|eval|evaluation|validation|valid|val|dev)$/i;

const isHidden = (name: string): boolean => name.startsWith(".") || name.startsWith("__");

/** Refuses a folder with a folder for each part of a data set, since it says no single part. */
export async function checkParts(files: Files, folder: string): Promise<void> {
  const names: string[] = [];
  for (const name of await files.list(folder)) {
    if (isHidden(name) || IMAGE_ENDINGS.test(name)) continue;
    if (!(await files.isFolder(`${folder}/${name}`))) continue;
    if (!PARTS.test(name)) return;
    names.push(name);
  }
  if (names.length === 0) return;
  const train = names.find((name) => /^train/i.test(name)) ?? names[0]!;
  const other = names.find((name) => name !== train);
  throw new LowrankError("data/folder", "the folder holds the parts of a data set, not classes", {
    subject: folder,
    expected: `a folder for each class, or ${METADATA_NAME}`,
    got: names.join(", "),
    next: `Give one part: ${folder}/${train}${other === undefined ? "" : `, and another to evaluate on: ${folder}/${other}`}.`,
  });
}

/** Refuses a folder where records come from a file alone. */
export function notFromFolder(folder: string): LowrankError {
  return new LowrankError("data/folder", "this base learns from the records of a file, not from a folder", {
    subject: folder,
    expected: "a file of records, such as .jsonl or .csv",
    got: "a folder",
    next: "Give the file. A folder of images is for a base that classifies images or compares them with texts (vit, clip).",
  });
}

/** Refuses a folder that has no records for its images; a record has these keys. */
export function noMetadata(folder: string, keys: readonly string[]): LowrankError {
  const record = keys.map((key) => `"${key}": ${key === "file_name" ? '"1.png"' : "…"}`);
  return new LowrankError("data/folder", "the folder has no records for its images", {
    subject: folder,
    expected: METADATA_NAME,
    got: "no such file in it",
    next: `Write it, one line an image: {${record.join(", ")}}. Or give a data file that names the images.`,
  });
}

/**
 * A row {image, label} for each image: its path inside the folder, and the folder at the top that it is in. Sorted by name, each
 * folder's files and folders as one list. Symbolic links are followed; a folder that is reached twice is refused, so there are no loops.
 */
export async function* classFolders(source: Source, choose: ChooseColumns): AsyncGenerator<Row> {
  const { files, path: root } = source;
  choose(["image", "label"]);
  const leftOut: LeftOut = { hidden: 0, others: 0, first: null, empty: 0 };
  source.leftOut = leftOut;
  /** Where each folder was reached, by its real path. */
  const reached = new Map<string, string>();
  let names = 0;
  let images = 0;

  /** The images in a folder and in those inside. Paths are below the root. */
  async function* imagesIn(inside: string, depth: number): AsyncGenerator<string> {
    const folder = inside === "" ? root : `${root}/${inside}`;
    if (depth > MAX_FOLDER_DEPTH) throw tooDeep(folder);
    const real = await files.realPath(folder);
    const before = reached.get(real);
    if (before !== undefined) throw reachedTwice(folder, before);
    reached.set(real, folder);
    const list = await files.list(folder);
    names += list.length;
    if (names > MAX_FOLDER_NAMES) throw tooMany(root);
    for (const name of list) {
      const path = inside === "" ? name : `${inside}/${name}`;
      const isImage = IMAGE_ENDINGS.test(name);
      if (isHidden(name)) leftOut.hidden++;
      else if (isImage && depth > 0) {
        images++;
        yield path;
      } else if (await files.isFolder(`${root}/${path}`)) {
        // At the top there are few names, and a class may be called anything.
        const earlier = images;
        yield* imagesIn(path, depth + 1);
        if (depth === 0 && images === earlier) leftOut.empty++;
      } else if (isImage) throw noClass(`${root}/${path}`);
      else if (leftOut.others++ === 0) leftOut.first = `${root}/${path}`;
    }
  }
  for await (const image of imagesIn("", 0)) {
    yield { fields: new Map(Object.entries({ image, label: image.slice(0, image.indexOf("/")) })), place: image };
  }
  if (images === 0) throw noImages(root, leftOut);
}

const noImages = (subject: string, { empty, others, hidden }: LeftOut): LowrankError =>
  new LowrankError("data/empty", "there are no images in the folder", {
    subject,
    expected: "FOLDER/CLASS/image.png, a folder for each class; .png, .jpg, .jpeg or .webp",
    got:
      empty + others + hidden === 0
        ? "an empty folder"
        : `folders of classes without an image: ${empty}, files that are no image by the name: ${others}, hidden names: ${hidden}`,
    next: `Check that it is the folder you mean, or write ${METADATA_NAME} that names the images.`,
  });

const noClass = (subject: string): LowrankError =>
  new LowrankError("data/folder", "the image is in no class's folder", {
    subject,
    expected: "FOLDER/CLASS/image.png, the folder at the top being the class",
    got: "an image at the top",
    next: `Move it into the folder of its class, or write ${METADATA_NAME}, one line an image: {"file_name": "1.png", "label": "cat"}.`,
  });

const reachedTwice = (subject: string, before: string): LowrankError =>
  new LowrankError("data/folder", "the folder is reached twice, through a symbolic link", {
    subject,
    expected: "each folder once",
    got: `it is ${before} too`,
    next: "Remove one of the two.",
  });

const tooDeep = (subject: string): LowrankError =>
  new LowrankError("data/folder", "folders are nested too deep", {
    subject,
    expected: `at most ${MAX_FOLDER_DEPTH} levels`,
    got: "more",
    next: "Move the images nearer to the folder of their class.",
  });

const tooMany = (subject: string): LowrankError =>
  new LowrankError("data/folder", "there are too many files in the folder", {
    subject,
    expected: `at most ${grouped(MAX_FOLDER_NAMES)} names, hidden ones included`,
    got: "more",
    next: `Check that it is the folder you mean. A data file can name more images.`,
  });
