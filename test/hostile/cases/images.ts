// Hostile and odd folders of images, and images in them.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, symlinkSync } from "node:fs";
import { MAX_FOLDER_DEPTH } from "../../../src/data/readers/folder.ts";
import { decodeImage } from "../../../src/platform/node/images.ts";
import { type Case, examplesOf, type Place } from "../../helpers/hostile.ts";
import { png } from "../../helpers/png.ts";
import { fixtures } from "../../helpers/repository.ts";

const vit = `${fixtures}/cases/vit-imgcls/base`;
const processor = { image_processor_type: "ViTImageProcessor", do_resize: true, size: { height: 16, width: 16 } };

const picture = png({ width: 4, height: 4 }, Array(4).fill(new Uint8Array(12).fill(200)));
/** A header that says more pixels than there are. */
const bomb = png({ width: 60_000, height: 60_000 }, [new Uint8Array(12)]);

/** Trains a classifier on the case's folder `pets`, in which `change` has added something to two good classes. */
const folder = (change: (place: Place) => unknown) => async (place: Place) => {
  for (const name of ["cat", "dog"]) place.file(`pets/${name}/1.png`, picture);
  change(place);
  cpSync(vit, place.at("vit"), { recursive: true });
  place.file("vit/preprocessor_config.json", JSON.stringify(processor));
  return place.train({ base: place.at("vit"), data: place.at("pets") }, { decodeImage });
};
/** …that gives so many examples. */
const gives = (count: number, change: (place: Place) => unknown) => async (place: Place) =>
  assert.equal(examplesOf(await folder(change)(place)), count);

const holds = (name: string, content: string | Uint8Array) => (place: Place) => place.file(`pets/${name}`, content);
const link = (to: string, name: string) => (place: Place) => symlinkSync(place.at(to), place.at(`pets/${name}`));
const metadata = (...lines: object[]) => holds("metadata.jsonl", lines.map((line) => `${JSON.stringify(line)}\n`).join(""));

export const imageCases: Case[] = [
  { name: "a link to the folder itself", ends: "data/folder", message: /pets\/cat\/all/, work: folder(link("pets", "cat/all")) },
  { name: "a class that is a link to another", ends: "data/folder", message: /pets\/a too/, work: folder(link("pets/cat", "a")) },
  { name: "a link that leads to itself", ends: "file/link-loop", work: folder(link("pets/cat/loop", "cat/loop")) },
  { name: "a link to an image that is gone", ends: "file/missing", message: /2\.png/, work: folder(link("none", "cat/2.png")) },
  { name: "a link to nothing", ends: "accepted", work: gives(2, link("none", "cat/readme")) },
  {
    name: "folders without end",
    ends: "data/folder",
    message: new RegExp(`${MAX_FOLDER_DEPTH}`),
    work: folder(holds(`cat/${"a/".repeat(200)}1.png`, picture)),
  },
  { name: "a pipe with the name of an image", ends: "file/not-regular", work: folder((place) => place.pipe("pets/cat/2.png")) },
  { name: "a pipe with another name", ends: "accepted", work: gives(2, (place) => place.pipe("pets/cat/2")) },
  { name: "a folder with the name of an image", ends: "file/not-regular", work: folder(holds("cat/2.png/x", "")) },
  { name: "a class with the name of an image", ends: "accepted", work: gives(3, holds("owl.png/1.png", picture)) },
  { name: "an empty image", ends: "image/format", message: /cat\/2\.png.*\n.*\n.*empty/, work: folder(holds("cat/2.png", "")) },
  { name: "a drawing that calls itself PNG", ends: "image/format", message: /SVG/, work: folder(holds("cat/2.png", "<svg/>")) },
  { name: "an image cut short", ends: "image/damaged", work: folder(holds("cat/2.png", picture.subarray(0, 50))) },
  { name: "an image of billions of pixels", ends: "image/pixels", message: /60,000/, work: folder(holds("cat/2.png", bomb)) },
  {
    name: "two thousand other files",
    ends: "accepted",
    work: gives(2, (place) => Array.from({ length: 2000 }, (_, i) => place.file(`pets/cat/${i}.txt`, ""))),
  },
  {
    name: "a thousand names of one image",
    ends: "accepted",
    work: gives(1002, (place) => Array.from({ length: 1000 }, (_, i) => link("pets/dog/1.png", `cat/x${i}.png`)(place))),
  },
  { name: "names with line breaks and escapes", ends: "accepted", work: gives(3, holds("a\n\u001b[2J/\u202e.png", picture)) },
  { name: "a class named __proto__", ends: "accepted", work: gives(2, holds("__proto__/1.png", picture)) },
  { name: "a class named constructor", ends: "accepted", work: gives(3, holds("constructor/1.png", picture)) },
  {
    name: "metadata that is a folder",
    ends: "file/not-regular",
    message: /metadata\.jsonl/,
    work: folder((place) => mkdirSync(place.at("pets/metadata.jsonl"))),
  },
  { name: "metadata without a line", ends: "data/empty", work: folder(metadata()) },
  {
    name: "metadata that names a device",
    ends: "file/not-regular",
    message: /line 1.*\/dev\/zero/,
    work: folder(metadata({ file_name: "/dev/zero", label: "a" })),
  },
  {
    name: "metadata that names itself",
    ends: "image/format",
    message: /metadata\.jsonl, line 1/,
    work: folder(metadata({ file_name: "metadata.jsonl", label: "a" })),
  },
  {
    name: "metadata with a NUL in a path",
    ends: "file/name",
    message: /line 1/,
    work: folder(metadata({ file_name: "a\0b.png", label: "a" })),
  },
];
