// What is copied beside a model's weights: its own files, and nothing that a stranger's links lead to.
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, test } from "node:test";
import { copySideFiles } from "../../src/formats/side-files.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { refused } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const skip = process.platform === "win32" && "Windows makes no links";
const root = temporaryFolder();
const secret = path.join(root, "id_rsa");
writeFileSync(secret, "secret");
let place = "";
let count = 0;
beforeEach(() => {
  place = path.join(root, `${count++}`);
  for (const folder of ["base/.git", "base/extra", "out"]) mkdirSync(path.join(place, folder), { recursive: true });
  writeFileSync(path.join(place, "base/config.json"), "{}");
});
const at = (name: string) => path.join(place, name);
const copy = (from = at("base")) => copySideFiles(nodeFiles, from, at("out"));
const copied = () => readdirSync(at("out")).map((name) => [name, readFileSync(at(`out/${name}`), "utf8")]);

test("a link out of the folder is refused by name, and so is one to what is hidden in it", { skip }, async () => {
  writeFileSync(at("base/.git/config"), "password");
  writeFileSync(at("base-2"), "beside");
  symlinkSync(secret, at("hop"));
  const links = [secret, "../../id_rsa", "../hop", "../base-2", ".git/config"];
  for (const link of links) {
    symlinkSync(link, at("base/tokenizer.json"));
    await refused(copy(), "file/link-outside", { subject: at("base/tokenizer.json") });
    assert.ok(!readdirSync(at("out")).includes("tokenizer.json"), link);
    rmSync(at("base/tokenizer.json"));
  }
  symlinkSync(path.join(root, "nowhere"), at("base/vocab.txt"));
  await refused(copy(), "file/missing", { subject: at("base/vocab.txt") });
});

test("links within the folder are copied as files, and the folder itself may be a link", { skip }, async () => {
  writeFileSync(at("base/extra/merges"), "a b");
  symlinkSync("extra/merges", at("base/merges.txt"));
  symlinkSync(at("base"), at("linked"));
  await copy(at("linked"));
  assert.deepEqual(copied(), [
    ["config.json", "{}"],
    ["merges.txt", "a b"],
  ]);
});

test("a Hugging Face cache's links lead to the blobs of the same model, and no further", { skip }, async () => {
  const model = at("hub/models--a--b");
  const snapshot = `${model}/snapshots/0123`;
  for (const folder of [`${snapshot}/sub`, `${model}/blobs/deep`, at("hub/models--c--d/blobs")])
    mkdirSync(folder, { recursive: true });
  writeFileSync(`${model}/blobs/aa`, "{}");
  writeFileSync(`${model}/blobs/deep/cc`, "");
  writeFileSync(at("hub/models--c--d/blobs/bb"), "private");
  symlinkSync("../../blobs/aa", `${snapshot}/config.json`);
  symlinkSync("../../../blobs/aa", `${snapshot}/sub/config.json`);
  for (const folder of [snapshot, `${snapshot}/sub`]) {
    await copy(folder);
    assert.deepEqual(copied(), [["config.json", "{}"]]);
  }
  symlinkSync(secret, `${model}/blobs/ee`);
  for (const link of ["../../../models--c--d/blobs/bb", "../../blobs/deep/cc", "../../blobs/ee"]) {
    symlinkSync(link, `${snapshot}/vocab.txt`);
    await refused(copy(snapshot), "file/link-outside");
    rmSync(`${snapshot}/vocab.txt`);
  }
  // The same links in a folder that is in no cache.
  renameSync(`${model}/snapshots`, `${model}/elsewhere`);
  await refused(copy(`${model}/elsewhere/0123`), "file/link-outside");
});
