// A hub that refuses, is down, or means harm; models that cannot be used; and no hub at all.
// slow
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import { connect } from "../../src/hub/client.ts";
import { networkOf, sender } from "../../src/hub/connection.ts";
import { refusal } from "../../src/hub/failures.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import { fixtures } from "../helpers/repository.ts";
import { type Fault, json, refuse } from "./server.ts";
import { failure, id, isWeights, model, setting, small } from "./setting.ts";

const fixture = `${fixtures}/tiny-llama`;

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

  const inside: [string, string][] = [
    ["the secrets of a cloud's machine", "http://169.254.169.254/latest/meta-data/"],
    ["the same in IPv6", "http://[fe80::1]/"],
    ["a private network", "https://192.168.1.1/"],
    ["a private network in IPv6", "https://[fd00:ec2::254]/"],
    ["a carrier's network", "http://100.100.100.200/"],
    ["no address at all", "http://0.0.0.0:9/"],
    ["a group of machines", "http://224.0.0.1/"],
    ["a decimal spelling", "http://2852039166/"],
    ["an octal spelling", "http://0251.0376.0251.0376/"],
    ["a hexadecimal spelling", "http://0xa9fea9fe/"],
    ["an address mapped into IPv6", "http://[::ffff:169.254.169.254]/"],
    ["an address behind NAT64", "http://[64:ff9b::a9fe:a9fe]/"],
    ["an address behind 6to4", "http://[2002:a00:1::1]/"],
    ["a user's name", "http://user:secret@127.0.0.1:9/"],
  ];
  for (const [what, location] of inside) {
    it(`by sending to ${what}`, async () => {
      const redirect: Fault = ({ url }, response) => isWeights(url) && !!response.writeHead(302, { location }).end();
      const at = await setting([model()], redirect, { HF_HUB_DOWNLOAD_TIMEOUT: "0.2" });
      const error = await failure(at.options);
      assert.deepEqual([error.code, at.waits], ["hub/redirects", []]);
    });
  }

  it("by a next page of its listing inside a private network", async () => {
    const fault: Fault = ({ url }, response) =>
      url!.includes("/tree/") && json(response, [], { link: '<http://10.0.0.1/next>; rel="next"' });
    const at = await setting([model()], fault, { HF_HUB_DOWNLOAD_TIMEOUT: "0.2" });
    assert.equal((await failure(at.options)).code, "hub/redirects");
  });

  it("by a name that leads into a network which is not the hub's", async () => {
    const inside = await setting();
    const send = sender(new URL("https://hub.example"), {}, (url, got) => new Error(`${url.hostname} at ${got}`));
    const to = (host: string) => send(new URL(inside.hub.endpoint.replace("127.0.0.1", host)), {}, AbortSignal.timeout(2000));
    await assert.rejects(to("localhost"), /localhost at (127\.0\.0\.1|::1) \(loopback\)/);
    await assert.rejects(to("127.0.0.1"), /127\.0\.0\.1 at 127\.0\.0\.1 \(loopback\)/);
    assert.equal(inside.hub.requests.length, 0);
  });

  it("may lead to other names in its own network, and to the internet", async () => {
    const at = await setting([model()], ({ url, headers }, response) => {
      if (!isWeights(url) || headers.host!.startsWith("localhost")) return false;
      response.writeHead(302, { location: `http://localhost:${headers.host!.split(":")[1]}${url}` }).end();
      return true;
    });
    await resolveModel(id, at.options);
    assert.equal(at.hub.downloads().filter((name) => name === "model.safetensors").length, 2);
    const open = [
      "8.8.8.8",
      "172.32.0.1",
      "100.128.0.1",
      "2606:4700::1",
      "64:ff9b::808:808",
      "::ffff:8.8.8.8",
      "2002:808:808::1",
    ];
    assert.deepEqual(
      open.map(networkOf),
      open.map(() => null),
    );
  });
});

describe("a hub without encryption", () => {
  it("gets a token on this machine alone, and that is reported once", async () => {
    const at = await setting([model()], undefined, { HF_TOKEN: "hf_secret" });
    await resolveModel(id, at.options);
    assert.deepEqual(
      at.events.filter(({ type }) => type === "plain-token"),
      [{ type: "plain-token", endpoint: at.hub.endpoint, sent: true }],
    );
    assert.equal(at.events[0]!.type, "plain-token");
  });

  it("elsewhere gets none, and a refusal says why", async () => {
    const asked = { name: { id, revision: "main" }, wait: async () => {} };
    const to = (HF_ENDPOINT: string) => connect({ HF_ENDPOINT, HF_TOKEN: "hf_secret" }, asked);
    for (const endpoint of ["http://hub.example", "http://192.168.1.2:8080", "http://localhost.example"]) {
      assert.deepEqual([to(endpoint).token, to(endpoint).plainToken], [null, "withheld"], endpoint);
      assert.match(refusal(to(endpoint), { status: 401, code: "GatedRepo", said: "" }).next!, /over http the token is not sent/);
    }
    for (const endpoint of ["http://localhost:80", "http://127.9.9.9", "http://[::1]"])
      assert.deepEqual([to(endpoint).token, to(endpoint).plainToken], ["hf_secret", "sent"], endpoint);
    assert.deepEqual([to("https://hub.example").token, to("https://hub.example").plainToken], ["hf_secret", null]);
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
    ["an endpoint with a user's name", { HF_ENDPOINT: "http://hf_a:b@127.0.0.1" }, "hub/endpoint"],
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
