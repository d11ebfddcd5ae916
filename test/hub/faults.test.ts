// A hub that refuses, is down, or means harm; models that cannot be used; and no hub at all.
// slow
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import type { LowrankError } from "../../src/errors.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import { type Fault, json, refuse } from "./server.ts";
import { failure, id, isWeights, model, setting, small } from "./setting.ts";

const fixture = fileURLToPath(new URL("../fixtures/tiny-llama", import.meta.url));

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
      assert.ok(!error.describe().includes("hf_x"), "the token is shown");
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
