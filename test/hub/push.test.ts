// lowrank push: what arrives at a hub, the model card, and what is refused before anything is sent.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { afterEach, test } from "node:test";
import { parse } from "yaml";
import { parseAdapterConfig } from "../../src/adapters/config.ts";
import { filesToPush } from "../../src/commands/push/push.ts";
import { pushToHub } from "../../src/hub/push.ts";
import { mergeAdapter } from "../../src/index.ts";
import { embeddingFiles } from "../../src/models/heads/sentence-transformers.ts";
import { modelConfig } from "../../src/models/registry.ts";
import { nodePlatform } from "../../src/node.ts";
import { refused } from "../helpers/assert.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { type PushHub, pushHub, TOKEN } from "./push-server.ts";

const root = temporaryFolder();
const golden = `${fixtures}/cases/llama-gqa-tied`;
const adapter = `${root}/adapter`;
cpSync(`${golden}/adapter`, adapter, { recursive: true });
const config = JSON.parse(readFileSync(`${adapter}/adapter_config.json`, "utf8"));
writeFileSync(`${adapter}/adapter_config.json`, JSON.stringify({ ...config, base_model_name_or_path: "/home/me/base" }));
// What a run leaves beside an adapter stays at home.
writeFileSync(`${adapter}/run.json`, JSON.stringify({ data: "/home/me/private.jsonl" }));
writeFileSync(`${adapter}/report.html`, "private");
const metrics = [
  {
    ...{ type: "run", time: "2026-01-01T00:00:00.000Z", lowrank: "0.1.0" },
    options: { data: "/home/me/private.jsonl", learningRate: 0.001, batchSize: 4, seed: 7 },
    prepared: {
      ...{ modules: 14, trainable: 100, parameters: 1000 },
      train: { count: 1200, tokens: 34567, targets: 3000 },
      eval: { count: 50, tokens: 700, targets: 300 },
    },
  },
  { type: "start", time: "t", step: 0, steps: 60 },
  { type: "eval", time: "t", step: 30, loss: 1.5 },
  { type: "eval", time: "t", step: 60, loss: 1.25, perplexity: 3.49 },
  { type: "done", time: "t", step: 60, stopped: false, early: false, result: 60, best: { step: 60, loss: 1.25 }, seconds: 9 },
];
writeFileSync(`${adapter}/metrics.jsonl`, metrics.map((row) => `${JSON.stringify(row)}\n`).join(""));

const hubs: PushHub[] = [];
afterEach(() => {
  for (const hub of hubs.splice(0)) hub.close();
  for (const name of ["HF_ENDPOINT", "HF_TOKEN"]) delete process.env[name];
});
const newHub = async (options?: Parameters<typeof pushHub>[0]): Promise<PushHub> => {
  hubs.push(await pushHub(options));
  return hubs.at(-1)!;
};
const withHub = (hub: PushHub) => {
  process.env["HF_ENDPOINT"] = hub.endpoint;
  process.env["HF_TOKEN"] = TOKEN;
};
const push = (...args: string[]) => printed("push", adapter, "--base-model", "owner/base-1b", ...args);

test("an adapter arrives with the base's name on the hub and a card, and nothing private", async () => {
  const hub = await newHub();
  withHub(hub);
  const { status, stdout, stderr } = await push("--to", "me/shop-adapter", "--license", "apache-2.0", "--language", "en,de");
  assert.equal(status, 0, stderr);
  const { files, commits, isPrivate } = hub.repositories.get("me/shop-adapter")!;
  assert.equal(stdout, `pushed 3 files to me/shop-adapter@${commits[0]}\n`);
  assert.ok(isPrivate && commits.length === 1);
  assert.deepEqual([...files.keys()].sort(), ["README.md", "adapter_config.json", "adapter_model.safetensors"]);
  assert.deepEqual(files.get("adapter_model.safetensors"), readFileSync(`${adapter}/adapter_model.safetensors`));
  const pushed = parseAdapterConfig(files.get("adapter_config.json")!.toString(), "pushed");
  assert.equal(pushed.baseModelNameOrPath, "owner/base-1b");
  const card = files.get("README.md")!.toString();
  assert.doesNotMatch([...files.values()].map(String).join(), /home\/me/);
  const [, front] = /^---\n(.*?)\n---\n/s.exec(card)!;
  const metadata = parse(front!);
  assert.deepEqual(
    [metadata.base_model, metadata.base_model_relation, metadata.library_name, metadata.pipeline_tag, metadata.license],
    ["owner/base-1b", "adapter", "peft", "text-generation", "apache-2.0"],
  );
  assert.deepEqual(
    [metadata.language, metadata.tags],
    [
      ["en", "de"],
      ["lora", "lowrank", "base_model:adapter:owner/base-1b"],
    ],
  );
  assert.deepEqual(metadata["model-index"][0].results[0].metrics, [
    { type: "loss", value: 1.25 },
    { type: "perplexity", value: 3.49 },
  ]);
  assert.match(card, /\| training data \| 1,200 records, 34,567 tokens \|/);
  assert.match(card, /\| learningRate \| 0\.001 \|/);
  // The token goes to the hub, not to where large files are stored.
  const storage = hub.requests.filter((request) => request.storage);
  assert.deepEqual([storage.length, storage[0]!.authorization], [1, undefined]);
});

test("a second push is a commit more, and a card that is there is kept", async () => {
  const hub = await newHub();
  withHub(hub);
  assert.equal((await push("--to", "me/two", "--public")).status, 0);
  writeFileSync(`${adapter}/README.md`, "my own card\n");
  const [done] = jsonLines((await push("--to", "me/two@main", "--json")).stdout).slice(-1);
  writeFileSync(`${adapter}/README.md`, "");
  const { files, commits, isPrivate } = hub.repositories.get("me/two")!;
  assert.deepEqual([commits.length, isPrivate, done!["commit"]], [2, false, commits[1]]);
  assert.equal(files.get("README.md")!.toString(), "my own card\n");
});

test("a merged model is pushed with its certificate", slow, async () => {
  const hub = await newHub();
  withHub(hub);
  const merged = `${root}/merged`;
  await mergeAdapter({ base: `${golden}/base`, adapter: `${golden}/adapter`, output: merged });
  const { status, stderr } = await printed("push", merged, "--to", "me/merged", "--base-model", "owner/base-1b");
  assert.equal(status, 0, stderr);
  const { files } = hub.repositories.get("me/merged")!;
  assert.ok(["certificate.html", "certificate.json", "config.json", "model.safetensors"].every((name) => files.has(name)));
  assert.match(
    files.get("README.md")!.toString(),
    /base_model_relation: merge\n.*The certificate of the merge passed: 20 weights/s,
  );
});

test("a model and an adapter of sentence embeddings are pushed with the files of their head", async () => {
  const own = modelConfig({ model_type: "bert", hidden_size: 32, num_attention_heads: 4, num_hidden_layers: 1 });
  const head = embeddingFiles({ ...own, pooling: "cls" });
  for (const part of ["base", "adapter"]) {
    const folder = `${root}/embedding ${part}`;
    cpSync(`${fixtures}/cases/bert-embedding/${part}`, folder, { recursive: true });
    mkdirSync(`${folder}/1_Pooling`);
    for (const [name, text] of Object.entries(head)) writeFileSync(`${folder}/${name}`, text);
    const options = { folder, to: "me/embedding", baseModel: "owner/base" };
    const { files } = await filesToPush(options, nodePlatform);
    const pushed = files.map(({ path }) => path);
    assert.deepEqual(
      Object.keys(head).filter((name) => !pushed.includes(name)),
      [],
    );
  }
});

test("a dry run shows the card and sends nothing", async () => {
  const hub = await newHub();
  withHub(hub);
  const { status, stdout } = await push("--to", "me/dry", "--dry-run");
  assert.equal(status, 0);
  assert.match(stdout, /^to me\/dry: adapter_model\.safetensors, adapter_config\.json, README\.md\n/);
  assert.equal(hub.requests.length, 0);
});

test("what cannot be pushed is refused before anything is sent", async () => {
  const hub = await newHub();
  withHub(hub);
  const codeOf = async (...args: string[]) => jsonLines((await printed("push", ...args, "--json")).stderr)[0]!["error"];
  assert.equal(await codeOf(adapter, "--to", "me/x"), "push/base");
  assert.equal(await codeOf(adapter, "--to", "nowhere", "--base-model", "owner/base"), "push/option");
  assert.equal(await codeOf(root, "--to", "me/x", "--base-model", "owner/base"), "push/nothing");
  process.env["HF_TOKEN"] = "";
  assert.equal(await codeOf(adapter, "--to", "me/x", "--base-model", "owner/base"), "hub/token");
  assert.equal(hub.requests.length, 0);
});

test("a base's path that has the form of a name on the hub is not pushed as one", async () => {
  const folder = `${root}/relative`;
  cpSync(adapter, folder, { recursive: true });
  const named = (name: string) =>
    writeFileSync(`${folder}/adapter_config.json`, JSON.stringify({ ...config, base_model_name_or_path: name }));
  const there = "test/fixtures"; // in the folder that tests run in
  for (const path of [there, `./${there}`]) {
    named(path);
    await refused(filesToPush({ folder, to: "me/x" }, nodePlatform), "push/base", { got: /^(\.\/)?test\/fixtures/ });
  }
  const pushedBase = async (baseModel?: string) => {
    const { files } = await filesToPush({ folder, to: "me/x", baseModel }, nodePlatform);
    const { content } = files.find(({ path }) => path === "adapter_config.json")!;
    return JSON.parse("text" in content ? content.text : "").base_model_name_or_path;
  };
  assert.equal(await pushedBase(there), there);
  named("owner/base");
  assert.equal(await pushedBase(), "owner/base");
});

test("a token that may not write, a branch that is missing, and a hub that fails are told apart", async () => {
  for (const [refuseWith, code] of [
    [403, "hub/token"],
    [404, "hub/missing"],
    [500, "hub/refused"],
  ] as const) {
    const hub = await newHub({ refuseWith });
    const environment = { HF_ENDPOINT: hub.endpoint, HF_TOKEN: TOKEN };
    const files = [{ path: "README.md", content: { text: "x" } }];
    await refused(pushToHub({ id: "me/x", revision: "main" }, files, { environment, isPrivate: true, message: "m" }), code);
  }
  const environment = { HF_ENDPOINT: "http://127.0.0.1:1", HF_TOKEN: TOKEN };
  await refused(
    pushToHub({ id: "me/x", revision: "main" }, [], { environment, isPrivate: true, message: "m" }),
    "hub/unreachable",
  );
});
