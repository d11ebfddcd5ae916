// Downloads from a server that speaks the hub's protocol: what is asked for, what lies in the cache, resuming, and every fault.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, afterEach, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { LowrankError } from "../../src/errors.ts";
import type { HubEvent, HubOptions } from "../../src/hub/hub.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import { blobOf, cut, type FakeHub, type Fault, type Files, fakeHub, json, type Model, refuse, sendFile } from "./server.ts";

const root = mkdtempSync(path.join(tmpdir(), "lowrank-hub-"));
const fixture = fileURLToPath(new URL("../fixtures/tiny-llama", import.meta.url));
const commit = "1".repeat(40);
const id = "owner/tiny";
const weights = randomBytes(300_000);
const small: Files = {
  "config.json": Buffer.from('{"model_type": "llama"}'),
  "tokenizer.json": Buffer.from("{}"),
  "tokenizer_config.json": Buffer.from('{"a": 1}'),
  "model.safetensors": weights,
};
const model = (files: Files = small, entries?: unknown[]): Model => ({ id, commit, files, entries });

const hubs: FakeHub[] = [];
afterEach(() => {
  for (const hub of hubs.splice(0)) hub.close();
});
after(() => rmSync(root, { recursive: true }));

let homes = 0;
const newHome = (): string => path.join(root, `home-${homes++}`);

interface Setting {
  hub: FakeHub;
  home: string;
  events: HubEvent[];
  waits: number[];
  options: HubOptions;
  /** The model's folder in the cache. */
  folder: string;
  blob(file: string): string;
}

/** A hub and an empty cache. Waits take no time. */
async function setting(models: Model[] = [model()], fault?: Fault, more: Record<string, string> = {}): Promise<Setting> {
  const hub = await fakeHub(models, fault);
  hubs.push(hub);
  const home = newHome();
  const [events, waits]: [HubEvent[], number[]] = [[], []];
  const environment = { HF_HOME: home, HF_ENDPOINT: hub.endpoint, ...more };
  const wait = async (seconds: number) => void waits.push(seconds);
  const folder = path.join(home, "hub", "models--owner--tiny");
  const blob = (file: string) => path.join(folder, "blobs", blobOf(file, models.at(-1)!.files[file]!));
  return { hub, home, events, waits, folder, blob, options: { environment, wait, onEvent: (event) => events.push(event) } };
}

async function failure(options: HubOptions, reference = id): Promise<LowrankError> {
  try {
    await resolveModel(reference, options);
  } catch (error) {
    assert.ok(error instanceof LowrankError, error instanceof Error ? error.stack : String(error));
    assert.ok(error.next && error.subject?.includes("owner/"), error.describe());
    return error;
  }
  return assert.fail("no error");
}

/** Bytes of what a snapshot has under a name. */
const inSnapshot = ({ folder }: Setting, file: string, of = commit) => readFileSync(path.join(folder, "snapshots", of, file));
const leftovers = ({ folder }: Setting): string[] => readdirSync(path.join(folder, "blobs")).filter((name) => name.includes("."));

describe("a model that is not in the cache", () => {
  it("is downloaded in the layout that Python reads, and told of first", async () => {
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

  it("may be in shards, of which those are taken that the index names", async () => {
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

const isWeights = (url = "") => url.endsWith("/model.safetensors");

describe("a connection that is cut", () => {
  it("goes on where it was", async () => {
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

  it("is refused for its size when the server does not tell it", async () => {
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

describe("a hub that refuses", () => {
  const always =
    (status: number, code = "", headers: Record<string, string> = {}): Fault =>
    (_, response) =>
      refuse(response, status, code, headers);
  const onFiles =
    (status: number, code: string): Fault =>
    ({ url }, response) =>
      isWeights(url) && refuse(response, status, code);

  const cases: [string, Fault, Record<string, string>, string, RegExp][] = [
    ["an unknown model", always(404, "RepoNotFound"), {}, "hub/missing", /HF_TOKEN/],
    ["an unknown or private model without a token", always(401, "RepoNotFound"), {}, "hub/missing", /HF_TOKEN/],
    ["a token", always(401), { HF_TOKEN: "hf_x" }, "hub/token", /settings\/tokens/],
    [
      "who has not accepted the licence",
      always(403, "GatedRepo"),
      { HF_TOKEN: "hf_x" },
      "hub/gated",
      /Accept it at http.*owner\/tiny/,
    ],
    ["the files of a gated model", onFiles(401, "GatedRepo"), {}, "hub/gated", /Accept it/],
    ["another way", always(418), {}, "hub/refused", /owner\/tiny/],
  ];
  for (const [what, fault, more, code, next] of cases) {
    it(`refuses ${what}`, async () => {
      const at = await setting([model()], fault, more);
      const error = await failure(at.options);
      assert.deepEqual([error.code, at.waits], [code, []]);
      assert.match(error.next!, next);
      assert.ok(!error.describe().includes("hf_x"), "the token is told");
    });
  }

  it("for too many requests is asked again when it says, and not for ever", async () => {
    const once: Fault = ({ url }, response, count) =>
      isWeights(url) && count === 1 && refuse(response, 429, "", { "retry-after": "7" });
    const at = await setting([model()], once);
    await resolveModel(id, at.options);
    assert.deepEqual(at.waits, [7]);
    const endless = await setting([model()], always(429, "", { "retry-after": "999999" }));
    assert.equal((await failure(endless.options)).code, "hub/rate-limited");
    assert.deepEqual(endless.waits, [60, 60, 60, 60]);
  });

  it("because it is down is asked again, and not for ever", async () => {
    const twice: Fault = (_, response, count) => count <= 2 && refuse(response, 503);
    const at = await setting([model()], twice);
    await resolveModel(id, at.options);
    assert.ok(at.events.some((event) => event.type === "waiting"));
    const down = await setting([model()], always(500));
    assert.equal((await failure(down.options)).code, "hub/server");
    assert.equal(down.hub.requests.length, 5);
  });

  it("by not being there", async () => {
    const at = await setting();
    at.hub.close();
    const error = await failure(at.options);
    assert.equal(error.code, "hub/unreachable");
    assert.match(error.next!, /--offline/);
  });

  it("by sending from address to address", async () => {
    const loop: Fault = ({ url }, response) => {
      response.writeHead(302, { location: `${url}x` }).end();
      return true;
    };
    const at = await setting([model()], loop);
    assert.equal((await failure(at.options)).code, "hub/redirects");
    assert.ok(at.hub.requests.length < 10);
    const file: Fault = (_, response) => {
      response.writeHead(302, { location: "file:///etc/passwd" }).end();
      return true;
    };
    assert.equal((await failure((await setting([model()], file)).options)).code, "hub/redirects");
  });
});

describe("a listing that is hostile", () => {
  const paths: [string, unknown][] = [
    ["leads up", "../../../escape.json"],
    ["leads up in the middle", "a/../../escape.json"],
    ["starts at the root", "/etc/escape.json"],
    ["starts at a drive", "C:/escape.json"],
    ["has a backslash", "..\\escape.json"],
    ["has a NUL", "config.json\0.x"],
    ["is deep", `${"a/".repeat(5000)}x`],
    ["is long", "x".repeat(2000)],
    ["has an empty part", "a//b"],
  ];
  for (const [what, name] of paths) {
    it(`with a path that ${what} is refused, and nothing is written`, async () => {
      const at = await setting([model(small, [{ type: "file", path: name, size: 1, oid: "0".repeat(40) }])]);
      assert.equal((await failure(at.options)).code, "hub/path");
      assert.ok(!existsSync(at.home), "something was written");
      assert.deepEqual(at.hub.downloads(), []);
    });
  }

  const entries: [string, unknown][] = [
    ["without a path", { type: "file", size: 1 }],
    ["that is null", null],
    ["with a hash that is a path", { type: "file", path: "a.json", size: 1, oid: "../../x" }],
    ["with another hash of a large file", { type: "file", path: "a.json", size: 1, lfs: { oid: "x", size: 1 } }],
    ["of negative size", { type: "file", path: "a.json", size: -1, oid: "0".repeat(40) }],
    ["without a size", { type: "file", path: "a.json", oid: "0".repeat(40) }],
  ];
  for (const [what, entry] of entries) {
    it(`with an entry ${what} is refused`, async () => {
      const at = await setting([model(small, [entry])]);
      assert.equal((await failure(at.options)).code, "hub/answer");
    });
  }

  const answers: [string, Fault][] = [
    ["no JSON", (_, response) => !!response.writeHead(200).end("<html>")],
    ["no list", ({ url }, response) => url!.includes("/tree/") && json(response, { a: 1 })],
    ["a commit that is a path", ({ url }, response) => url!.includes("/revision/") && json(response, { sha: "../../x" })],
    ["null", (_, response) => json(response, null)],
    [
      "pages without an end",
      ({ url, headers }, response) =>
        url!.includes("/tree/") &&
        json(response, Array(50_000).fill({ type: "directory", path: "a" }), {
          link: `<http://${headers.host}${url}>; rel="next"`,
        }),
    ],
    [
      "empty pages without an end",
      ({ url, headers }, response) =>
        url!.includes("/tree/") && json(response, [], { link: `<http://${headers.host}${url}>; rel="next"` }),
    ],
    [
      "bytes without an end",
      ({ url }, response) => {
        if (!url!.includes("/tree/")) return false;
        const more = () => response.write(Buffer.alloc(1 << 20, 32)) || response.once("drain", more);
        response.writeHead(200);
        for (let i = 0; i < 40; i++) response.write(Buffer.alloc(1 << 20, 32));
        response.on("drain", more);
        return true;
      },
    ],
  ];
  for (const [what, fault] of answers) {
    it(`of ${what} is refused`, async () => {
      const at = await setting([model()], fault);
      assert.equal((await failure(at.options)).code, "hub/answer");
    });
  }
});

describe("a model that cannot be used", () => {
  it("because its weights are pickles is refused before anything is downloaded", async () => {
    const { "model.safetensors": _, ...side } = small;
    const at = await setting([model({ ...side, "pytorch_model.bin": Buffer.from("x") })]);
    assert.equal((await failure(at.options)).code, "checkpoint/pytorch-weights");
    assert.deepEqual(at.hub.downloads(), []);
  });

  it("because it is larger than the disk is refused before its weights are downloaded", async () => {
    const entry = {
      type: "file",
      path: "adapter_model.safetensors",
      size: 1,
      oid: "0".repeat(40),
      lfs: { oid: "a".repeat(64), size: 2 ** 52 },
    };
    const at = await setting([model(small, [entry])]);
    const error = await failure(at.options);
    assert.equal(error.code, "hub/disk");
    assert.deepEqual(at.hub.downloads(), []);
  });

  it("because a file beside the weights is too large", async () => {
    const at = await setting([model(small, [{ type: "file", path: "vocab.json", size: 2 ** 40, oid: "0".repeat(40) }])]);
    assert.equal((await failure(at.options)).code, "hub/too-large");
  });

  it("because the cache cannot be written", async () => {
    const at = await setting();
    writeFileSync(at.home, "a file");
    await assert.rejects(resolveModel(id, at.options), { code: "file/not-folder" });
  });
});

describe("offline", () => {
  it("a model that is not in the cache is an error, without a request", async () => {
    for (const offline of [{ HF_HUB_OFFLINE: "1" }, { HF_HUB_OFFLINE: "TRUE" }]) {
      const at = await setting([model()], undefined, offline);
      assert.equal((await failure(at.options)).code, "hub/offline");
      assert.equal(at.hub.requests.length, 0);
    }
  });

  it("a mistyped path gets the folders that are most like it", async () => {
    const at = await setting();
    const here = process.cwd();
    process.chdir(path.dirname(path.dirname(fixture)));
    try {
      const error = await failure({ ...at.options, offline: true }, "fixtures/tiny-lama").catch((each) => each);
      assert.match(String(error.next ?? error), /tiny-llama/);
    } finally {
      process.chdir(here);
    }
  });
});

describe("environment variables that cannot be used", () => {
  const wrong: [string, Record<string, string>, string][] = [
    ["an endpoint that is no address", { HF_ENDPOINT: "hub" }, "hub/endpoint"],
    ["an endpoint that is a file", { HF_ENDPOINT: "file:///x" }, "hub/endpoint"],
    ["a token of two lines", { HF_TOKEN: "hf_a\nb" }, "hub/token"],
  ];
  for (const [what, more, code] of wrong) {
    it(`${what} is refused`, async () => {
      const at = await setting([model()], undefined, more);
      await assert.rejects(
        resolveModel(id, at.options),
        (error: LowrankError) => error.code === code && !error.describe().includes("hf_a"),
      );
      assert.equal(at.hub.requests.length, 0);
    });
  }
});
