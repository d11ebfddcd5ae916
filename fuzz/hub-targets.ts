// What a hub answers and what its cache holds, as targets of the fuzzer: listings from a connection that reads files in memory, and
// a cache on the disk, since that is where Python and lowrank share it.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Files } from "../src/files.ts";
import { parseJsonObject, readText } from "../src/formats/json.ts";
import { cachedSnapshot, shardsOf } from "../src/hub/cache.ts";
import type { Hub } from "../src/hub/client.ts";
import { checkWeights, listModel, sideFilesOf, weightsOf } from "../src/hub/listing.ts";
import { bytesIn } from "./inputs.ts";
import type { Contents, Target } from "./targets.ts";

const ID = "owner/model";
const COMMIT = "1".repeat(40);
const lfs = (name: string, size: number) => ({
  type: "file",
  path: name,
  size,
  oid: "0".repeat(40),
  lfs: { oid: "a".repeat(64), size },
});
const small = (name: string) => ({ type: "file", path: name, size: 100, oid: "b".repeat(40) });
const index = bytesIn({ metadata: {}, weight_map: { a: "s-1.safetensors", b: "s-2.safetensors" } });

/** A hub whose answers are files: what it says of the model, a page of its listing, and where the next page is. */
function hubOf(files: Files): Hub {
  const answer = async (name: string, headers: Record<string, string> = {}) => {
    const bytes = await files.read(name, 0, await files.size(name));
    const body = (async function* () {
      yield bytes;
    })();
    return { status: 200, headers: new Headers(headers), body };
  };
  return {
    name: { id: ID, revision: "main" },
    endpoint: "https://hub.example",
    token: null,
    plainToken: null,
    timeoutSeconds: 30,
    wait: async () => {},
    async send({ pathname, searchParams }) {
      if (pathname.includes("/revision/")) return answer("info.json");
      if (searchParams.has("cursor")) return answer("last.json");
      const link = new TextDecoder("latin1").decode(await files.read("link", 0, await files.size("link")));
      return answer("tree.json", { link: link.replaceAll(/[^ -~]/g, "") });
    },
  };
}

const listing: Contents = {
  "info.json": bytesIn({ _id: "1", id: ID, sha: COMMIT, private: false }),
  "tree.json": bytesIn([small("config.json"), small("tokenizer.json"), { type: "directory", path: "onnx", oid: "c", size: 0 }]),
  "last.json": bytesIn([
    lfs("model.safetensors", 1e9),
    lfs("s-1.safetensors", 1e6),
    lfs("s-2.safetensors", 1e6),
    small("a/b/c.json"),
  ]),
  link: bytesIn('<https://hub.example/api/models/owner/model/tree/1?recursive=true&cursor=1>; rel="next"'),
  "index.json": index,
};
const { "last.json": last, ...others } = listing;
const sharded = {
  ...others,
  "last.json": bytesIn([small("model.safetensors.index.json"), ...JSON.parse(new TextDecoder().decode(last)).slice(1)]),
};

const model = `models--${ID.replace("/", "--")}`;
const snapshot = `${model}/snapshots/${COMMIT}`;
const cache: Contents = {
  [`${model}/refs/main`]: bytesIn(COMMIT),
  [`${snapshot}/config.json`]: bytesIn({ model_type: "llama" }),
  [`${snapshot}/tokenizer.json`]: bytesIn({}),
  [`${snapshot}/model.safetensors.index.json`]: index,
  [`${snapshot}/s-1.safetensors`]: bytesIn("x"),
  [`${snapshot}/s-2.safetensors`]: bytesIn("x"),
};

let home: string | undefined;
/** A folder for a cache, one for each thread, gone when it ends. */
function cacheHome(): string {
  if (home === undefined) {
    const made = mkdtempSync(path.join(tmpdir(), "lowrank-fuzz-"));
    process.on("exit", () => rmSync(made, { recursive: true, force: true }));
    home = made;
  }
  return home;
}

export const hubTargets: Target[] = [
  {
    name: "hub-listing",
    inputs: [listing, sharded],
    async read(files) {
      const hub = hubOf(files);
      const found = await listModel(hub);
      checkWeights(found, hub);
      sideFilesOf(found, hub);
      const { weight_map } = parseJsonObject(await readText(files, "index.json"), "index.json");
      const shards = Object.values((weight_map ?? {}) as Record<string, unknown>).filter((name) => typeof name === "string");
      weightsOf(found, shards, hub);
    },
  },
  {
    name: "hub-cache",
    inputs: [cache],
    async read(files) {
      const at = cacheHome();
      for (const name of Object.keys(cache)) {
        mkdirSync(path.join(at, path.dirname(name)), { recursive: true });
        writeFileSync(path.join(at, name), await files.read(name, 0, await files.size(name)));
      }
      const found = await cachedSnapshot(at, { id: ID, revision: "main" });
      if (found?.state !== "partial" && found) await shardsOf(path.join(found.folder, "model.safetensors.index.json"));
    },
  },
];
