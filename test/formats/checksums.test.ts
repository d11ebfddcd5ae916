// SHA256SUMS: what is written is what coreutils checks, whatever a file is called; a stranger's file is read or refused by name.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { damagedFile, readSums, SUMS_NAME, summing } from "../../src/formats/checksums.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { digest } from "../../src/platform/node/host.ts";
import { refused } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const text = (value: string) => new TextEncoder().encode(value);

test("sums are of what is written, in coreutils' format, for names of any kind", async () => {
  const folder = temporaryFolder();
  mkdirSync(`${folder}/inner`);
  const { files, writeSums } = summing(nodeFiles, digest);
  await files.write(`${folder}/b.txt`, text("first"));
  await files.write(`${folder}/b.txt`, [text("sec"), text("ond")]);
  await files.write(`${folder}/inner/a b.json`, text("{}"));
  await files.write(`${folder}/back\\slash and\nline`, new Uint8Array());
  await files.write(`${folder}/large`, new Uint8Array((8 << 20) + 1).fill(7));
  await writeSums(folder);
  const checked = execFileSync("sha256sum", ["-c", "--strict", SUMS_NAME], { cwd: folder, encoding: "utf8" });
  assert.equal(checked.match(/: OK$/gm)?.length, 4, checked);
  const sums = (await readSums(nodeFiles, folder))!;
  assert.deepEqual([...sums.keys()], ["b.txt", "back\\slash and\nline", "inner/a b.json", "large"]);
  assert.equal(await damagedFile(nodeFiles, folder, digest), null);
  writeFileSync(`${folder}/inner/a b.json`, "[]");
  assert.equal((await damagedFile(nodeFiles, folder, digest))?.file, "inner/a b.json");
});

test("sums that others wrote are read; paths out of the folder and other lines are refused", async () => {
  const folder = temporaryFolder();
  const sum = "AB".repeat(32);
  const given = (content: string) => {
    writeFileSync(`${folder}/${SUMS_NAME}`, content);
    return readSums(nodeFiles, folder);
  };
  assert.deepEqual(
    [...(await given(`# a comment\r\n${sum} *./x\r\n\n${sum}  y/z`))!],
    [
      ["x", sum.toLowerCase()],
      ["y/z", sum.toLowerCase()],
    ],
  );
  const bad = ["x", `${sum}  ../x`, `${sum}  /etc/passwd`, `${sum}  a/../../x`, `${sum} x`, `${sum}  a/`, `${sum}  ..`, "\0"];
  for (const line of bad) await refused(given(`${sum}  fine\n${line}\n`), "checksums/format", /line 2/);
  assert.equal(await readSums(nodeFiles, `${folder}/nowhere`), null);
});

test("without a digest files are as they are", async () => {
  const { files, writeSums } = summing(nodeFiles);
  assert.equal(files, nodeFiles);
  await writeSums("/nowhere");
});
