// Downloads from a server that speaks the hub's protocol: what is asked for, what lies in the cache, resuming, checks.
// slow
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { gzipSync } from "node:zlib";
import { resolveModel } from "../../src/hub/reference.ts";
import { blobOf, cut, type Fault, fakeHub, sendFile } from "./server.ts";
import { commit, failure, hubs, id, inSnapshot, isWeights, leftovers, model, setting, small, weights } from "./setting.ts";

describe("a model that is not in the cache", () => {
  it("is downloaded in the layout that Python reads, and announced first", async () => {
    const at = await setting();
    const { folder, name } = await resolveModel(id, at.options);
    assert.deepEqual([folder, name], [path.join(at.folder, "snapshots", commit), id]);
    for (const [file, bytes] of Object.entries(small)) {
      assert.deepEqual(inSnapshot(at, file), bytes);
      if (process.platform === "win32") continue;
      assert.ok(lstatSync(path.join(folder, file)).isSymbolicLink());
      assert.equal(readlinkSync(path.join(folder, file)), `../../blobs/${blobOf(file, bytes)}`);
    }
    assert.equal(readFileSync(path.join(at.folder, "refs", "main"), "utf8"), commit);
    assert.ok(existsSync(path.join(at.folder, ".no_exist", commit, "chat_template.jinja")));
    assert.deepEqual(leftovers(at), []);
    const total = Object.values(small).reduce((sum, bytes) => sum + bytes.length, 0);
    assert.deepEqual(at.events[0], { type: "download", model: id, commit, folder, files: 4, bytes: total, there: 0 });
    const last = at.events.at(-2);
    assert.ok(last?.type === "downloading" && last.done === total, JSON.stringify(last));
    assert.equal(at.events.at(-1)!.type, "downloaded");
  });

  it("is asked for once: the next use makes no request", async () => {
    const at = await setting();
    await resolveModel(id, at.options);
    const before = at.hub.requests.length;
    await resolveModel(id, at.options);
    await resolveModel(`${id}@${commit}`, at.options);
    await resolveModel(id, { ...at.options, offline: true });
    assert.equal(at.hub.requests.length, before);
  });

  it("comes without what is not used: pickles, code, other formats, folders", async () => {
    const other = Buffer.from("x");
    const names = [
      "pytorch_model.bin",
      "model.py",
      "onnx/model.onnx",
      "consolidated.safetensors",
      "README.md",
      "training_args.bin",
    ];
    const at = await setting([model({ ...small, ...Object.fromEntries(names.map((name) => [name, other])) })]);
    await resolveModel(id, at.options);
    assert.deepEqual(at.hub.downloads().sort(), Object.keys(small).sort());
  });

  it("may be in shards, of which those that the index names are downloaded", async () => {
    const [a, b] = [randomBytes(1000), randomBytes(1000)];
    const { "model.safetensors": _, ...side } = small;
    const index = Buffer.from(JSON.stringify({ weight_map: { x: "model-1.safetensors", y: "model-2.safetensors" } }));
    const files = { ...side, "model.safetensors.index.json": index, "model-1.safetensors": a, "model-2.safetensors": b };
    const at = await setting([model({ ...files, "model-3.safetensors": Buffer.from("x") })]);
    await resolveModel(id, at.options);
    assert.deepEqual(at.hub.downloads().sort(), Object.keys(files).sort());
    assert.deepEqual(inSnapshot(at, "model-2.safetensors"), b);
    const broken = await setting([model({ ...side, "model.safetensors.index.json": index, "model-1.safetensors": a })]);
    assert.equal((await failure(broken.options)).code, "hub/missing-shard");
    const none = await setting([model({ ...side, "model.safetensors.index.json": Buffer.from("{}") })]);
    assert.equal((await failure(none.options)).code, "hub/index");
  });

  it("may be an adapter", async () => {
    const files = { "adapter_config.json": Buffer.from("{}"), "adapter_model.safetensors": weights };
    const at = await setting([model(files)]);
    await resolveModel(id, at.options);
    await resolveModel(id, { ...at.options, offline: true });
    assert.deepEqual(at.hub.downloads().sort(), Object.keys(files).sort());
  });

  it("is known by a branch, and by a commit", async () => {
    const old = { ...model({ ...small, "model.safetensors": randomBytes(1000) }), commit: "2".repeat(40) };
    const at = await setting([old, model()]);
    await resolveModel(`${id}@${old.commit}`, at.options);
    assert.deepEqual(inSnapshot(at, "model.safetensors", old.commit), old.files["model.safetensors"]);
    await resolveModel(`${id}@dev`, at.options);
    assert.deepEqual(readdirSync(path.join(at.folder, "refs")), ["dev"]);
    assert.equal((await failure(at.options, `${id}@other`)).code, "hub/no-revision");
  });

  it("stays the commit it was, until it is asked for anew", async () => {
    const models = [model()];
    const at = await setting(models);
    await resolveModel(id, at.options);
    const next = { ...model({ ...small, "model.safetensors": randomBytes(500) }), commit: "3".repeat(40) };
    models.push(next);
    assert.match((await resolveModel(id, at.options)).folder, new RegExp(`${commit}$`));
    const before = at.hub.downloads().length;
    assert.match((await resolveModel(id, { ...at.options, refresh: true })).folder, new RegExp(`${next.commit}$`));
    assert.deepEqual(at.hub.downloads().slice(before), ["model.safetensors"], "what did not change is not downloaded again");
    assert.equal(
      (await resolveModel(id, { ...at.options, offline: true })).folder,
      path.join(at.folder, "snapshots", next.commit),
    );
  });

  it("gets the token, and no other address does", async () => {
    const other = await fakeHub([], (request, response) => {
      sendFile(response, weights, request.headers.range);
      return true;
    });
    hubs.push(other);
    const redirect: Fault = ({ url }, response) => {
      if (!url!.endsWith("model.safetensors")) return false;
      response.writeHead(302, { location: `${other.endpoint}/bucket` }).end();
      return true;
    };
    const at = await setting([model()], redirect, { HF_TOKEN: "hf_secret" });
    await resolveModel(id, at.options);
    assert.ok(at.hub.requests.every(({ authorization }) => authorization === "Bearer hf_secret"));
    assert.deepEqual(
      other.requests.map(({ authorization }) => authorization),
      [undefined],
    );
    assert.deepEqual(inSnapshot(at, "model.safetensors"), weights);
  });

  it("uses the token that Python's login has written", async () => {
    const at = await setting();
    mkdirSync(at.home, { recursive: true });
    writeFileSync(path.join(at.home, "token"), "hf_file\n");
    await resolveModel(id, at.options);
    assert.equal(at.hub.requests[0]!.authorization, "Bearer hf_file");
  });

  it("may come compressed, though that is not asked for", async () => {
    const at = await setting([model()], ({ url }, response) => {
      if (!url!.endsWith("/tokenizer.json")) return false;
      response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(small["tokenizer.json"]!));
      return true;
    });
    await resolveModel(id, at.options);
    assert.deepEqual(inSnapshot(at, "tokenizer.json"), small["tokenizer.json"]);
  });

  it("is completed where Python has left files out", async () => {
    const at = await setting();
    await resolveModel(id, at.options);
    rmSync(path.join(at.folder, "snapshots", commit, "tokenizer.json"));
    rmSync(at.blob("tokenizer.json"));
    const before = at.hub.downloads().length;
    await resolveModel(id, at.options);
    assert.deepEqual(at.hub.downloads().slice(before), ["tokenizer.json"]);
  });
});

describe("a connection that is cut", () => {
  it("resumes where it stopped", async () => {
    const fault: Fault = ({ url, headers }, response, count) =>
      isWeights(url) && count < 3 && cut(response, weights, headers.range, 100_000);
    const at = await setting([model()], fault);
    await resolveModel(id, at.options);
    assert.deepEqual(inSnapshot(at, "model.safetensors"), weights);
    const ranges = at.hub.requests.filter(({ url }) => isWeights(url)).map(({ range }) => range);
    assert.equal(ranges.length, 3);
    assert.equal(ranges[0], undefined);
    assert.match(ranges[2]!, /^bytes=\d+-$/);
  });

  it("again and again is a failure that keeps what came; the next try goes on there", async () => {
    let broken = true;
    const fault: Fault = ({ url, headers }, response) =>
      isWeights(url) && broken && cut(response, weights, headers.range, 20_000);
    const at = await setting([model()], fault);
    const error = await failure(at.options);
    assert.equal(error.code, "hub/unreachable");
    const partial = `${at.blob("model.safetensors")}.incomplete`;
    const kept = readFileSync(partial);
    assert.ok(kept.length > 20_000 && kept.equals(weights.subarray(0, kept.length)));
    broken = false;
    await resolveModel(id, at.options);
    assert.equal(at.hub.requests.at(-1)!.range, `bytes=${kept.length}-`);
    assert.deepEqual(inSnapshot(at, "model.safetensors"), weights);
    assert.ok(!existsSync(partial));
  });

  it("without an end is one that is silent", async () => {
    const fault: Fault = ({ url }, response) => {
      if (!isWeights(url)) return false;
      response.writeHead(200, { "content-length": weights.length }).write(weights.subarray(0, 1000));
      return true;
    };
    const at = await setting([model()], fault, { HF_HUB_DOWNLOAD_TIMEOUT: "0.1" });
    const error = await failure(at.options);
    assert.equal(error.code, "hub/unreachable");
    assert.match(error.got!, /nothing came for 0\.1 seconds/);
  });

  it("to a server that gives no parts begins again", async () => {
    const fault: Fault = ({ url, headers }, response, count) => {
      if (!isWeights(url)) return false;
      if (count === 1) return cut(response, weights, headers.range, 100_000);
      sendFile(response, weights);
      return true;
    };
    const at = await setting([model()], fault);
    await resolveModel(id, at.options);
    assert.deepEqual(inSnapshot(at, "model.safetensors"), weights);
  });

  it("stopped by a signal keeps what came", async () => {
    const stop = new AbortController();
    const fault: Fault = ({ url, headers }, response, count) => {
      if (!isWeights(url) || count > 1) return false;
      response.writeHead(200, { "content-length": weights.length }).write(weights.subarray(0, 50_000));
      setTimeout(() => stop.abort(), 100);
      return headers.range === undefined;
    };
    const at = await setting([model()], fault);
    assert.equal((await failure({ ...at.options, signal: stop.signal })).code, "hub/stopped");
    await resolveModel(id, at.options);
    assert.match(at.hub.requests.at(-1)!.range!, /^bytes=\d+-$/);
    assert.deepEqual(inSnapshot(at, "model.safetensors"), weights);
  });
});

describe("a file that is not what the listing says", () => {
  const sends =
    (bytes: Buffer): Fault =>
    ({ url, headers }, response) => {
      if (!isWeights(url)) return false;
      sendFile(response, bytes, headers.range);
      return true;
    };

  it("is refused for its size before a byte is written", async () => {
    for (const bytes of [weights.subarray(1), Buffer.concat([weights, weights])]) {
      const at = await setting([model()], sends(bytes));
      assert.equal((await failure(at.options)).code, "hub/size");
      assert.ok(!existsSync(at.blob("model.safetensors")));
    }
  });

  it("is refused for its size when the server does not send it", async () => {
    const fault: Fault = ({ url }, response) => {
      if (!isWeights(url)) return false;
      response.writeHead(200).end(Buffer.concat([weights, weights]));
      return true;
    };
    const at = await setting([model()], fault);
    assert.equal((await failure(at.options)).code, "hub/size");
  });

  for (const file of ["model.safetensors", "tokenizer.json"]) {
    it(`is refused for its hash: ${file}`, async () => {
      const wrong = Buffer.alloc(small[file]!.length, 1);
      const fault: Fault = ({ url, headers }, response) => {
        if (!url!.endsWith(`/${file}`)) return false;
        sendFile(response, wrong, headers.range);
        return true;
      };
      const at = await setting([model()], fault);
      assert.equal((await failure(at.options)).code, "hub/hash");
      assert.deepEqual([existsSync(at.blob(file)), leftovers(at)], [false, []]);
    });
  }

  it("because of what an earlier download left is downloaded anew", async () => {
    const at = await setting();
    mkdirSync(path.join(at.folder, "blobs"), { recursive: true });
    for (const left of [randomBytes(1000), randomBytes(weights.length), randomBytes(weights.length + 1)]) {
      writeFileSync(`${at.blob("model.safetensors")}.incomplete`, left);
      await resolveModel(id, at.options);
      assert.deepEqual(inSnapshot(at, "model.safetensors"), weights);
      rmSync(at.blob("model.safetensors"));
    }
  });

  it("may be sent in parts that do not fit: the wrong start, the wrong whole", async () => {
    for (const range of ["bytes 0-9/300000", "bytes 1000-299999/300001"]) {
      const fault: Fault = ({ url }, response) => {
        if (!isWeights(url)) return false;
        response.writeHead(206, { "content-range": range }).end(weights.subarray(0, 10));
        return true;
      };
      const at = await setting([model()], fault);
      mkdirSync(path.join(at.folder, "blobs"), { recursive: true });
      writeFileSync(`${at.blob("model.safetensors")}.incomplete`, weights.subarray(0, 1000));
      assert.equal((await failure(at.options)).code, "hub/size");
    }
  });
});
