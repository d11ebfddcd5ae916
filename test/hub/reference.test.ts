// What names a model: folders, `embedded`, names on the hub; and the cache that Python writes.
import assert from "node:assert/strict";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { cacheFolder } from "../../src/hub/cache.ts";
import { hubName, resolveModel } from "../../src/hub/reference.ts";
import { refused } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
const fixture = `${fixtures}/tiny-llama`;
const commit = "0123456789abcdef0123456789abcdef01234567";

/** The cache of a home where Python downloaded `files` of owner/name. */
function pythonCache(home: string, files: string[], { ref = "main", absent = [] as string[] } = {}): Record<string, string> {
  const model = path.join(root, home, "hub", "models--owner--name");
  const snapshot = path.join(model, "snapshots", commit);
  for (const folder of ["blobs", "refs", `snapshots/${commit}`, `.no_exist/${commit}`]) {
    mkdirSync(path.join(model, folder), { recursive: true });
  }
  writeFileSync(path.join(model, "refs", ref), commit);
  for (const file of files) {
    writeFileSync(path.join(model, "blobs", `hash-of-${file}`), "{}");
    symlinkSync(`../../blobs/hash-of-${file}`, path.join(snapshot, file));
  }
  for (const file of absent) writeFileSync(path.join(model, ".no_exist", commit, file), "");
  return { HF_HOME: path.join(root, home), HF_HUB_OFFLINE: "1" };
}
const snapshotIn = (home: string) => path.join(root, home, "hub", "models--owner--name", "snapshots", commit);

const notFound = (reference: string, environment: Record<string, string> = { HF_HOME: root, HF_HUB_OFFLINE: "1" }) =>
  refused(resolveModel(reference, { environment }));

describe("a reference", () => {
  it("to a folder is that folder, as it was written", async () => {
    assert.deepEqual(await resolveModel(fixture), { folder: fixture, name: fixture });
  });

  const names: [string, ReturnType<typeof hubName>][] = [
    ["owner/name", { id: "owner/name", revision: "main" }],
    ["HuggingFaceTB/SmolLM2-135M.v1@refs/pr/7", { id: "HuggingFaceTB/SmolLM2-135M.v1", revision: "refs/pr/7" }],
    [`owner/name@${commit}`, { id: "owner/name", revision: commit }],
    ["name", null],
    ["a/b/c", null],
    ["./name", null],
    ["../name", null],
    ["~/name", null],
    ["owner/../x", null],
    ["owner/na--me", null],
    ["owner/name.", null],
    ["owner/name@", null],
    ["owner/name@../../x", null],
    ["owner/name@a b", null],
    ["owner\\name", null],
    ["C:/name", null],
    [`owner/${"x".repeat(97)}`, null],
  ];
  for (const [text, expected] of names) {
    it(`${text.slice(0, 50)} is ${expected ? `revision ${expected.revision} of ${expected.id}` : "no name on the hub"}`, () => {
      assert.deepEqual(hubName(text), expected);
    });
  }

  it("that is none of the three names the folders most like it", async () => {
    const error = await notFound(`${path.dirname(fixture)}/tiny-lama/`);
    assert.equal(error.code, "reference/unknown");
    assert.match(error.next!, /tiny-llama/);
    assert.match(error.expected!, /folder.*embedded.*owner\/name/);
    const deep = await notFound(`${path.dirname(path.dirname(fixture))}/fixture/tiny-llama`);
    assert.match(deep.next!, /fixtures/);
  });

  it("to a file names its folder", async () => {
    const error = await notFound(`${fixture}/config.json`);
    assert.equal(error.code, "reference/file");
    assert.match(error.next!, /tiny-llama$/);
  });

  it("with other characters is refused, not looked up", async () => {
    for (const text of ["", "\0", "a\0b/c", "x".repeat(10_000)]) assert.equal((await notFound(text)).code, "reference/unknown");
  });
});

const model = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

describe("the cache", () => {
  it("is where Python has it", () => {
    assert.equal(cacheFolder({ HF_HOME: "/x" }), path.resolve("/x/hub"));
    assert.equal(cacheFolder({ HF_HOME: "/x", HF_HUB_CACHE: "/y" }), path.resolve("/y"));
    assert.equal(cacheFolder({ XDG_CACHE_HOME: "/z" }), path.resolve("/z/huggingface/hub"));
    assert.match(cacheFolder({}), /[/\\]\.cache[/\\]huggingface[/\\]hub$/);
  });

  it("gives a snapshot that Python downloaded, by branch and by commit", async () => {
    const environment = pythonCache("python", model);
    const expected = { folder: snapshotIn("python"), name: "owner/name" };
    assert.deepEqual(await resolveModel("owner/name", { environment }), expected);
    assert.deepEqual(await resolveModel(`owner/name@${commit}`, { environment }), expected);
    assert.equal((await notFound("owner/name@other", environment)).code, "hub/offline");
  });

  it("gives an adapter", async () => {
    const environment = pythonCache("adapter", ["adapter_config.json", "adapter_model.safetensors"]);
    assert.equal((await resolveModel("owner/name", { environment })).folder, snapshotIn("adapter"));
  });

  it("does not take a snapshot without its weights, or with links to files that are gone", async () => {
    const error = await notFound("owner/name", pythonCache("part", ["config.json", "tokenizer.json"]));
    assert.match(error.message, /only a part/);
    const environment = pythonCache("broken", model);
    rmSync(path.join(root, "broken/hub/models--owner--name/blobs/hash-of-model.safetensors"));
    assert.match((await notFound("owner/name", environment)).message, /only a part/);
  });

  it("takes the shards of an index, when all are there", async () => {
    const environment = pythonCache("shards", ["config.json", "a.safetensors", "model.safetensors.index.json"]);
    const index = path.join(root, "shards/hub/models--owner--name/blobs/hash-of-model.safetensors.index.json");
    writeFileSync(index, JSON.stringify({ weight_map: { x: "a.safetensors" } }));
    assert.equal((await resolveModel("owner/name", { environment })).folder, snapshotIn("shards"));
    writeFileSync(index, JSON.stringify({ weight_map: { x: "a.safetensors", y: "b.safetensors" } }));
    assert.equal((await notFound("owner/name", environment)).code, "hub/offline");
  });
});
