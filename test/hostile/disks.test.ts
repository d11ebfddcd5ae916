// Disks and network file systems that fail in the ways of NFS: calls that are refused, or done and reported as failed; syncs that
// fail; writes that stall. A run ends with an error or with its bits, and resumes to the same bits.
// slow
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { LowrankError } from "../../src/errors.ts";
import type { Files } from "../../src/files.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { digest } from "../../src/platform/node/host.ts";
import { latestCheckpoint, type SaveWeights } from "../../src/train/checkpoint.ts";
import { logEvents, openRunLog, readMetrics } from "../../src/train/run-log.ts";
import { train } from "../../src/train/trainer.ts";
import { refused } from "../helpers/assert.ts";
import { type Fault, faultyFiles, systemError, withHandles, withSystem } from "../helpers/faulty-disk.ts";
import { freshFolders } from "../helpers/temporary-folder.ts";
import { toyRun } from "../helpers/toy.ts";
import { id, inSnapshot, isWeights, model, setting, weights } from "../hub/setting.ts";

const fresh = freshFolders();

const STEPS = 1;
const RESULT = "adapter_model.safetensors";

/** A step between two checkpoints, of which the newest stays, and its log. */
async function run(folder: string, files: Files, resume = false): Promise<void> {
  const log = await openRunLog(files, folder);
  const saveWeights: SaveWeights = async (to, place, theta) => {
    await log.flush();
    const tensor = { name: "theta", dtype: "float32" as const, shape: [theta.length], data: () => bytesOf(theta) };
    await writeSafetensors(to, `${place}/${RESULT}`, [tensor]);
  };
  const output = { folder, files, digest, saveWeights, checkpointEvery: 1, keepCheckpoints: 1, resume };
  for await (const event of logEvents(log, train(toyRun(output, { steps: STEPS })))) assert.ok(event);
}

/** The result and the last checkpoint's files, by name, without what only says how they came to be. */
const bits = (folder: string): Record<string, string> =>
  Object.fromEntries(
    [RESULT, `checkpoint-${STEPS}/${RESULT}`, `checkpoint-${STEPS}/optimizer.safetensors`].map((name) => [
      name,
      readFileSync(path.join(folder, name)).toString("base64"),
    ]),
  );
const leftovers = (folder: string): string[] => readdirSync(folder).filter((name) => name.startsWith("."));

const whole = fresh();
await run(whole, nodeFiles);

const methods: Fault["method"][] = ["write", "append", "rename", "remove", "makeFolder", "list"];
for (const method of methods) {
  test(`any ${method} of a run may fail, done or not: the run resumes to the same bits`, async () => {
    let met = 0;
    for (const [isDone, code] of [[false, "EIO"], ...(method === "list" ? [] : [[true, "ESTALE"] as const])] as const) {
      for (let at = 0; ; at++) {
        const folder = fresh();
        const { files, wasMet } = faultyFiles({ method, at, code, isDone });
        const error = await run(folder, files).catch((caught) => caught);
        if (!wasMet()) break;
        met++;
        const what = `call ${at} of ${method}, ${isDone ? "done" : "not done"}`;
        assert.ok(error === undefined || (error instanceof LowrankError && error.next), `${what}: ${error?.stack}`);
        if (error === undefined) assert.deepEqual(bits(folder), bits(whole), what);
        const checkpoints = readdirSync(folder).filter((name) => name.startsWith("checkpoint-"));
        assert.ok(checkpoints.length === 0 || (await latestCheckpoint(nodeFiles, folder)), `${what}: no checkpoint is whole`);
        await run(folder, nodeFiles, true);
        assert.deepEqual(bits(folder), bits(whole), what);
        assert.deepEqual(leftovers(folder), [], what);
        const metrics = await readMetrics(nodeFiles, folder);
        assert.deepEqual([metrics!.steps.map(({ step }) => step), metrics!.skipped], [[1], 0], what);
      }
    }
    assert.ok(met >= 4, `${met} faults`);
  });
}

test("a row of the log that is written in part harms no other row", async () => {
  const folder = fresh();
  let calls = 0;
  const append: Files["append"] = async (file, bytes) => {
    await nodeFiles.append(file, calls === 0 ? bytes.subarray(0, bytes.length / 2) : bytes);
    if (calls++ === 0) throw new LowrankError("file/no-space", "no space left on the disk", { next: "Free some space." });
  };
  await refused(run(folder, { ...nodeFiles, append }), "file/no-space");
  const metrics = await readMetrics(nodeFiles, folder);
  assert.deepEqual([metrics!.skipped, metrics!.end?.type], [1, "error"]);
});

test("a rename that was done is no failure, whatever the system says of it", async () => {
  for (const code of ["ENOENT", "EEXIST", "ESTALE", "EIO"]) {
    const folder = fresh();
    const at = (name: string) => path.join(folder, name);
    writeFileSync(at("f"), "old");
    await nodeFiles.makeFolder(at("making"));
    await withSystem(
      "rename",
      (real) => async (from, to) => {
        await real(from, to);
        throw systemError(code, "rename");
      },
      async () => {
        await nodeFiles.write(at("f"), Buffer.from("new"));
        await nodeFiles.rename(at("making"), at("made"));
      },
    );
    assert.deepEqual(readdirSync(folder).sort(), ["f", "made"]);
    assert.equal(readFileSync(at("f"), "utf8"), "new");
  }
});

test("a rename that was not done is a failure, and the old file stays alone", async () => {
  for (const code of ["ESTALE", "EIO", "ETIMEDOUT"]) {
    const file = path.join(fresh(), "f");
    writeFileSync(file, "old");
    const fails = () => () => Promise.reject(systemError(code, "rename"));
    await withSystem("rename", fails, () => refused(nodeFiles.write(file, Buffer.from("new")), "file/io", { subject: file }));
    assert.deepEqual([readdirSync(path.dirname(file)), readFileSync(file, "utf8")], [["f"], "old"]);
  }
});

test("bytes that could not be synced are never given a name", async () => {
  const file = path.join(fresh(), "f");
  writeFileSync(file, "old");
  await withSystem(
    "writeFile",
    (real) => async (to, data, options) => {
      await real(to, data, options);
      throw systemError("EIO", "fsync");
    },
    () => refused(nodeFiles.write(file, Buffer.from("new")), "file/io", { subject: file }),
  );
  assert.deepEqual([readdirSync(path.dirname(file)), readFileSync(file, "utf8")], [["f"], "old"]);
});

test("a file system that syncs no folders is one to train on; a failing one is not", async () => {
  const syncs = (code: string) => (real: () => Promise<unknown>, file: string) => () =>
    path.basename(file).startsWith("f-") ? real() : Promise.reject(systemError(code, "fsync"));
  for (const code of ["EINVAL", "ENOTSUP"]) {
    const folder = fresh();
    await withHandles("sync", syncs(code), () => run(folder, nodeFiles));
    assert.deepEqual(bits(folder), bits(whole));
  }
  const file = path.join(fresh(), "f");
  await withHandles("sync", syncs("EIO"), () => refused(nodeFiles.write(file, Buffer.from("new")), "file/io"));
});

test("a write that stalls is waited for, and changes no bit", async () => {
  const folder = fresh();
  let stalls = 0;
  const write: Files["write"] = async (file, chunks) => {
    if (file.includes("checkpoint-1")) await sleep(50 * ++stalls);
    await nodeFiles.write(file, chunks);
  };
  await run(folder, { ...nodeFiles, write });
  assert.ok(stalls > 0);
  assert.deepEqual(bits(folder), bits(whole));
});

test("a disk that stalls longer than a hub may be silent ends no download", async () => {
  const at = await setting([model()], undefined, { HF_HUB_DOWNLOAD_TIMEOUT: "0.3" });
  let stalls = 0;
  const slow = (real: (...args: never[]) => Promise<unknown>, file: string) =>
    (async (...args: never[]) => {
      if (file.startsWith(at.blob("model.safetensors")) && stalls++ < 2) await sleep(500);
      return real(...args);
    }) as (...args: never[]) => Promise<unknown>;
  await withHandles("write", slow, () => resolveModel(id, at.options));
  assert.ok(stalls >= 2);
  assert.deepEqual([at.waits, at.hub.requests.filter(({ url }) => isWeights(url)).length], [[], 1]);
  assert.deepEqual(inSnapshot(at, "model.safetensors"), weights);
});

test("a download that could not be synced is made again from its beginning", async () => {
  const at = await setting();
  const fails = (real: () => Promise<unknown>, file: string) => () =>
    file.endsWith(".incomplete") ? Promise.reject(systemError("EIO", "fsync")) : real();
  const error = await withHandles("sync", fails, () => resolveModel(id, at.options).catch((caught) => caught));
  assert.deepEqual([error.code, error.next !== undefined], ["file/io", true]);
  assert.ok(!readdirSync(path.join(at.folder, "blobs")).some((name) => name.endsWith(".incomplete")));
  await resolveModel(id, at.options);
  assert.ok(at.hub.requests.every(({ range }) => range === undefined));
  assert.ok(existsSync(at.blob("model.safetensors")));
});
