// Files on a real disk: what is refused, what a failed write leaves behind.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, it } from "node:test";
import { writeFolder } from "../../src/formats/folder.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { refused } from "../helpers/assert.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";

const fresh = freshFolders();

let folder = "";
beforeEach(() => {
  folder = fresh();
});
const at = (name: string) => path.join(folder, name);

describe("nodeFiles reads", () => {
  it("any range, and nothing past the end", async () => {
    writeFileSync(at("f"), "0123456789");
    assert.equal(await nodeFiles.size(at("f")), 10);
    assert.equal(Buffer.from(await nodeFiles.read(at("f"), 3, 4)).toString(), "3456");
    assert.equal((await nodeFiles.read(at("f"), 10, 0)).length, 0);
    for (const [offset, length] of [
      [8, 3],
      [-1, 2],
      [0, -1],
      [0.5, 1],
      [0, 2 ** 52],
    ] as const) {
      await refused(nodeFiles.read(at("f"), offset, length), "file/past-end", { subject: at("f") });
    }
  });

  it("bytes that typed arrays can lie on", async () => {
    writeFileSync(at("f"), Buffer.alloc(24, 1));
    const bytes = await nodeFiles.read(at("f"), 8, 16);
    assert.equal(new BigInt64Array(bytes.buffer, bytes.byteOffset, 2).length, 2);
  });

  it("only regular files that exist", async () => {
    mkdirSync(at("d"));
    execFileSync("mkfifo", [at("pipe")]);
    symlinkSync(at("nowhere"), at("dangling"));
    await refused(nodeFiles.size(at("none")), "file/missing", { subject: at("none") });
    await refused(nodeFiles.size(at("dangling")), "file/missing", { subject: at("dangling") });
    await refused(nodeFiles.size(at("d")), "file/not-regular", { subject: at("d") });
    await refused(nodeFiles.read(at("d"), 0, 0), "file/not-regular", { subject: at("d") });
    await refused(nodeFiles.read(at("pipe"), 0, 0), "file/not-regular", { subject: at("pipe") });
    await refused(nodeFiles.list(at("none")), "file/missing", { subject: at("none") });
    assert.deepEqual(await Promise.all(["d", "none", "dangling", "pipe/x"].map((name) => nodeFiles.exists(at(name)))), [
      true,
      false,
      false,
      false,
    ]);
  });

  it("names sorted, links resolved", async () => {
    writeFileSync(at("b"), "");
    writeFileSync(at("a"), "");
    symlinkSync("b", at("c"));
    assert.deepEqual(await nodeFiles.list(folder), ["a", "b", "c"]);
    assert.equal(await nodeFiles.realPath(at("c")), await nodeFiles.realPath(at("b")));
  });
});

describe("nodeFiles writes", () => {
  it("bytes, parts, and parts that arrive one by one", async () => {
    const parts = [Uint8Array.of(97, 98), Uint8Array.of(), Uint8Array.of(99)];
    await nodeFiles.write(at("bytes"), Uint8Array.of(120));
    await nodeFiles.write(at("parts"), parts);
    await nodeFiles.write(
      at("stream"),
      (async function* () {
        yield* parts;
      })(),
    );
    assert.deepEqual(
      readdirSync(folder).map((name) => readFileSync(at(name), "utf8")),
      ["x", "abc", "abc"],
    );
  });

  it("leaves the old file and no temporary one when the data fails half-way", async () => {
    writeFileSync(at("f"), "old");
    const failing = (async function* () {
      yield Uint8Array.of(1, 2, 3);
      assert.equal(readdirSync(folder).length, 2, "the new bytes lie beside the old file");
      throw new Error("no more");
    })();
    await assert.rejects(nodeFiles.write(at("f"), failing), /no more/);
    assert.deepEqual(readdirSync(folder), ["f"]);
    assert.equal(readFileSync(at("f"), "utf8"), "old");
  });

  it("names the path when the place is wrong, and leaves nothing", async () => {
    mkdirSync(at("d"));
    await refused(nodeFiles.write(at("d"), Uint8Array.of(1)), "file/not-regular", { subject: at("d") });
    await refused(nodeFiles.write(at("none/f"), Uint8Array.of(1)), "file/missing", { subject: at("none/f") });
    assert.deepEqual(readdirSync(folder), ["d"]);
  });

  it("removes files and folders, and accepts that nothing is there", async () => {
    await nodeFiles.makeFolder(at("a/b"));
    await nodeFiles.write(at("a/b/f"), Uint8Array.of(1));
    await nodeFiles.remove(at("a"));
    await nodeFiles.remove(at("a"));
    assert.ok(!existsSync(at("a")));
  });
});

describe("nodeFiles.rename", () => {
  it("moves a file over another, and a folder to a free or an empty place", async () => {
    writeFileSync(at("a"), "new");
    writeFileSync(at("b"), "old");
    await nodeFiles.rename(at("a"), at("b"));
    assert.equal(readFileSync(at("b"), "utf8"), "new");
    for (const name of ["d", "empty"]) {
      mkdirSync(at("making"));
      writeFileSync(at("making/f"), "");
      if (name === "empty") mkdirSync(at(name));
      await nodeFiles.rename(at("making"), at(name));
      assert.deepEqual(readdirSync(at(name)), ["f"]);
    }
    assert.deepEqual(readdirSync(folder), ["b", "d", "empty"]);
  });

  it("never replaces a folder that holds something, or takes what is not there", async () => {
    for (const name of ["a", "b"]) mkdirSync(at(name));
    writeFileSync(at("b/f"), "");
    await refused(nodeFiles.rename(at("a"), at("b")), "file/not-empty", { subject: at("b") });
    await refused(nodeFiles.rename(at("none"), at("c")), "file/missing", { subject: at("none") });
    assert.deepEqual(readdirSync(at("b")), ["f"]);
  });
});

describe("writeFolder", () => {
  const fill = async (temporary: string) => {
    await nodeFiles.write(`${temporary}/one`, Uint8Array.of(49));
    await nodeFiles.write(`${temporary}/two`, Uint8Array.of(50));
  };

  it("shows the whole folder at once", async () => {
    await writeFolder(nodeFiles, at("deep/out"), async (temporary) => {
      await fill(temporary);
      assert.ok(!existsSync(at("deep/out")));
    });
    assert.deepEqual(readdirSync(at("deep/out")), ["one", "two"]);
    assert.deepEqual(readdirSync(at("deep")), ["out"]);
  });

  it("takes an empty folder's place, and no other's", async () => {
    mkdirSync(at("empty"));
    await writeFolder(nodeFiles, `${at("empty")}/`, fill);
    assert.deepEqual(readdirSync(at("empty")), ["one", "two"]);
    let filled = false;
    const again = writeFolder(nodeFiles, at("empty"), async () => {
      filled = true;
    });
    await refused(again, "folder/not-empty", { subject: at("empty") });
    assert.equal(filled, false);
  });

  it("leaves nothing when it fails, also when the target appears meanwhile", async () => {
    const failing = writeFolder(nodeFiles, at("out"), async (temporary) => {
      await fill(temporary);
      throw new Error("half-way");
    });
    await assert.rejects(failing, /half-way/);
    assert.deepEqual(readdirSync(folder), []);
    const late = writeFolder(nodeFiles, at("out"), async (temporary) => {
      await fill(temporary);
      mkdirSync(at("out"));
      writeFileSync(at("out/other"), "");
    });
    await refused(late, "file/not-empty", { subject: at("out") });
    assert.deepEqual(readdirSync(folder), ["out"]);
    assert.deepEqual(readdirSync(at("out")), ["other"]);
  });
});

describe("nodeFiles appends", () => {
  it("to what is there, or to a new file, and to nothing but a file", async () => {
    await nodeFiles.append(at("f"), Buffer.from("one\n"));
    await nodeFiles.append(at("f"), Buffer.from("two\n"));
    assert.equal(readFileSync(at("f"), "utf8"), "one\ntwo\n");
    execFileSync("mkfifo", [at("pipe")]);
    await refused(nodeFiles.append(at("pipe"), Buffer.from("x")), "file/not-regular", { subject: at("pipe") });
    await refused(nodeFiles.append(at("no/f"), Buffer.from("x")), "file/missing", { subject: at("no/f") });
  });

  it("never to a link, wherever it leads", { skip: process.platform === "win32" && "Windows makes no links" }, async () => {
    writeFileSync(at("precious"), "as it was");
    symlinkSync(at("precious"), at("link"));
    symlinkSync(at("nowhere"), at("dangling"));
    for (const name of ["link", "dangling"]) {
      await refused(nodeFiles.append(at(name), Buffer.from("x")), "file/link", { subject: at(name) });
    }
    assert.equal(readFileSync(at("precious"), "utf8"), "as it was");
    assert.ok(!existsSync(at("nowhere")));
    await nodeFiles.write(at("link"), Buffer.from("new"));
    assert.equal(readFileSync(at("precious"), "utf8"), "as it was", "a write takes the place of the link");
  });
});
