// Folders that are written whole or not at all: two writers at once, killed writers, folders that can't be replaced.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, test } from "node:test";
import { LowrankError } from "../../src/errors.ts";
import { LOCK_NAME } from "../../src/files.ts";
import { writeFolder } from "../../src/formats/folder.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { lockFolder as lock } from "../../src/platform/node/lock.ts";
import { refused } from "../helpers/assert.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";

const fresh = freshFolders();
let folder = "";
beforeEach(() => {
  folder = fresh();
});
const at = (name: string) => path.join(folder, name);
const MARK = ".lowrank-unfinished.json";
const ID = "0f8fad5b-d9cb-469f-a165-70867728950e";
const names = ["1_Pooling", "config.json", "model.safetensors", "tokenizer.json"];

const fill = async (temporary: string) => {
  for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
    await nodeFiles.write(`${temporary}/${name}`, new TextEncoder().encode(name));
  }
  await nodeFiles.makeFolder(`${temporary}/1_Pooling`);
  await nodeFiles.write(`${temporary}/1_Pooling/config.json`, Uint8Array.of(49));
};

/** A writer that is killed while it fills the folder, or when `when` says so; what it leaves is still locked. */
async function killed(target: string, when: (from: string, to: string) => boolean = () => false): Promise<void> {
  const never = new Promise<never>(() => {});
  let reached = () => {};
  const here = new Promise<void>((resolve) => {
    reached = resolve;
  });
  const stop = () => {
    reached();
    return never;
  };
  const files = { ...nodeFiles, rename: (from: string, to: string) => (when(from, to) ? stop() : nodeFiles.rename(from, to)) };
  const deadLock: typeof lock = async (...place) => {
    const held = await lock(...place);
    await held.release();
    const file = `${place[0]}/${place[1] ?? LOCK_NAME}`;
    const dead = { pid: 2 ** 30, place: "", started: null, since: "", token: "" };
    writeFileSync(file, JSON.stringify({ ...dead, place: await ownPlace() }));
    return { check: async () => {}, release: async () => true };
  };
  const filling = async (temporary: string) => {
    await fill(temporary);
    if (when === neverMoves) await stop();
  };
  void writeFolder(files, target, filling, { lock: deadLock }).catch(() => {});
  await here;
}
const neverMoves = () => false;

async function ownPlace(): Promise<string> {
  const other = at("place");
  mkdirSync(other, { recursive: true });
  const held = await lock(other);
  const { place } = JSON.parse(readFileSync(`${other}/${LOCK_NAME}`, "utf8"));
  await held.release();
  await nodeFiles.remove(other);
  return place;
}

test("a folder of another's, whatever it is called, is left alone", async () => {
  const foreign = [".out.new", `.out.${ID}.new`, `.other.${ID}.new`];
  for (const name of foreign) {
    mkdirSync(at(name));
    writeFileSync(at(`${name}/precious`), "");
  }
  mkdirSync(at("elsewhere"));
  for (const name of [MARK, "precious"]) writeFileSync(at(`elsewhere/${name}`), "{}");
  symlinkSync(at("elsewhere"), at(`.out.${ID.replace("0", "1")}.new`));
  await writeFolder(nodeFiles, at("out"), fill, { lock });
  assert.deepEqual(readdirSync(at("out")), names);
  for (const name of [...foreign, "elsewhere"]) assert.ok(existsSync(at(`${name}/precious`)), name);
});

test("of two at once one is refused, and the other's folder is whole", async () => {
  for (const target of ["new", "empty"]) {
    if (target === "empty") mkdirSync(at(target));
    let go = () => {};
    const slow = async (temporary: string) => {
      await fill(temporary);
      await new Promise<void>((resolve) => {
        go = resolve;
        begun();
      });
    };
    let begun = () => {};
    const isBegun = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const first = writeFolder(nodeFiles, at(target), slow, { lock });
    await isBegun;
    await refused(writeFolder(nodeFiles, at(target), fill, { lock }), "file/locked");
    go();
    await first;
    assert.deepEqual(readdirSync(at(target)), names);
  }
  assert.deepEqual(readdirSync(folder), ["empty", "new"]);
});

test("what a killed writer left is removed by the next one for the same target, whenever it was killed", async () => {
  const moments: [string, boolean, Parameters<typeof killed>[1]][] = [
    ["filling a new folder", false, neverMoves],
    ["filling one that is there", true, neverMoves],
    ["before the rename", false, (from) => from.endsWith(".new")],
    ...["1_Pooling", "tokenizer.json", "config.json"].map((name): [string, boolean, Parameters<typeof killed>[1]] => [
      `before ${name} is moved`,
      true,
      (_, to) => path.dirname(to) === at("out") && path.basename(to) === name,
    ]),
  ];
  for (const [what, isThere, when] of moments) {
    if (isThere) mkdirSync(at("out"));
    await killed(at("out"), when);
    assert.ok(!existsSync(at("out/config.json")), `${what}: a part of a model looks like one`);
    assert.ok(
      readdirSync(isThere ? at("out") : folder).some((name) => name.endsWith(".new")),
      what,
    );
    await writeFolder(nodeFiles, at("out"), fill, { lock });
    assert.deepEqual(readdirSync(at("out")), names, what);
    assert.deepEqual(readdirSync(folder), ["out"], what);
    await nodeFiles.remove(at("out"));
  }
});

test("one that was killed after its last move is done, and one beside other files removes none", async () => {
  mkdirSync(at("out"));
  await killed(at("out"), neverMoves);
  const [making] = readdirSync(at("out")).filter((name) => name.endsWith(".new"));
  const sizes = Object.fromEntries(names.map((name) => [name, name === "1_Pooling" ? null : name.length]));
  writeFileSync(at(`out/${making}/${MARK}`), JSON.stringify(sizes));
  renameSync(at(`out/${making}/model.safetensors`), at("out/model.safetensors"));
  writeFileSync(at("out/mine"), "");
  await refused(writeFolder(nodeFiles, at("out"), fill, { lock }), "folder/not-empty", { got: /mine/ });
  assert.deepEqual(readdirSync(at("out")), ["mine", "model.safetensors"]);
  await nodeFiles.remove(at("out/mine"));
  mkdirSync(at(`out/${making}`));
  writeFileSync(at(`out/${making}/${MARK}`), JSON.stringify(sizes));
  await refused(writeFolder(nodeFiles, at("out"), fill, { lock }), "folder/not-empty");
  assert.deepEqual(readdirSync(at("out")), ["model.safetensors"]);
});

test("a folder that can't be replaced, as one that is mounted, is filled in place, config.json as the last", async () => {
  mkdirSync(at("out"));
  const { ino } = statSync(at("out"));
  const moves: string[] = [];
  const rename = async (from: string, to: string) => {
    if (to === at("out")) throw new LowrankError("file/io", "EBUSY: resource busy or locked", { subject: to, exitCode: 1 });
    if (path.dirname(from) !== path.dirname(to) && path.dirname(path.dirname(from)) !== at("out"))
      throw new LowrankError("file/io", "EXDEV: cross-device link not permitted", { subject: to, exitCode: 1 });
    moves.push(path.basename(to));
    await nodeFiles.rename(from, to);
  };
  await writeFolder({ ...nodeFiles, rename }, at("out"), fill, { lock });
  assert.equal(moves.at(-1), "config.json");
  assert.deepEqual(readdirSync(at("out")), names);
  assert.equal(statSync(at("out")).ino, ino);
  assert.deepEqual(readdirSync(folder), ["out"]);
});

test("a move that fails leaves the folder empty", async () => {
  mkdirSync(at("out"));
  const rename = async (from: string, to: string) => {
    if (to.endsWith("tokenizer.json")) throw new LowrankError("file/io", "input/output error", { subject: to, exitCode: 1 });
    await nodeFiles.rename(from, to);
  };
  await assert.rejects(writeFolder({ ...nodeFiles, rename }, at("out"), fill, { lock }), { code: "file/io" });
  assert.deepEqual(readdirSync(at("out")), []);
});

test("a disk that is too small is found before anything is written", async () => {
  const check = async (place: string) => {
    assert.equal(place, folder);
    throw new LowrankError("merge/disk", "too small");
  };
  await assert.rejects(writeFolder(nodeFiles, at("out"), fill, { lock, check }), { code: "merge/disk" });
  assert.deepEqual(readdirSync(folder), []);
});
