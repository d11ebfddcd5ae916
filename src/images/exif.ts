// What EXIF data may cost a decoder: directories that refer to themselves thousands of times take it minutes.
import { LowrankError } from "../errors.ts";
import { grouped } from "../units.ts";

/** Most entries of all directories, each counted as often as it is referred to; photos have a few hundred. */
export const MAX_EXIF_ENTRIES = 10_000;
/** Directories that are followed; those beyond are the decoder's to stop at. */
const MAX_DIRECTORIES = 256;

/** What EXIF data stand behind in JPEG and WebP, in PNG, and in WebP. */
const MARKS = ["Exif\0\0", "eXIf", "EXIF"].map((text) => [...text].map((character) => character.charCodeAt(0)));
/** Entries that point to directories: EXIF, GPS, interoperability. */
const POINTERS = [0x8769, 0x8825, 0xa005];
const ENTRY_BYTES = 12;

/** Refuses an image whose EXIF data have entries without end. */
export function checkExif(file: Uint8Array, subject: string): void {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (const mark of MARKS) {
    for (let at = file.indexOf(mark[0]!); at >= 0; at = file.indexOf(mark[0]!, at + 1)) {
      if (!mark.every((byte, i) => file[at + i] === byte)) continue;
      // In WebP the size of the chunk comes first, and the mark of JPEG may follow it.
      for (const start of [at + mark.length, at + 8]) if (entriesAt(view, start) > MAX_EXIF_ENTRIES) throw tooMany(subject);
    }
  }
}

/** Entries of the directories of TIFF data, no more than are too many. */
function entriesAt(view: DataView, start: number): number {
  const end = view.byteLength;
  if (start + 8 > end) return 0;
  const isLittle = view.getUint32(start) === 0x49492a00;
  if (!isLittle && view.getUint32(start) !== 0x4d4d002a) return 0;
  const directories = [view.getUint32(start + 4, isLittle)];
  let entries = 0;
  for (let i = 0; i < Math.min(directories.length, MAX_DIRECTORIES) && entries <= MAX_EXIF_ENTRIES; i++) {
    const at = start + directories[i]!;
    if (at + 2 > end) continue;
    const count = Math.min(view.getUint16(at, isLittle), Math.floor((end - at - 2) / ENTRY_BYTES));
    entries += count;
    for (let entry = at + 2; entry < at + 2 + count * ENTRY_BYTES; entry += ENTRY_BYTES) {
      if (POINTERS.includes(view.getUint16(entry, isLittle))) directories.push(view.getUint32(entry + 8, isLittle));
    }
  }
  return entries;
}

const tooMany = (subject: string): LowrankError =>
  new LowrankError("image/exif", "the image's EXIF data have too many entries", {
    subject,
    expected: `at most ${grouped(MAX_EXIF_ENTRIES)}, each counted as often as it is referred to`,
    got: "more",
    next: "Save the image again without its EXIF data.",
  });
