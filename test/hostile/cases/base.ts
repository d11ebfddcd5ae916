// Hostile and odd bases: weights, config.json, tokenizers, chat templates.
import { readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { MAX_TEXT_BYTES } from "../../../src/files.ts";
import { openCheckpoint, readWeights } from "../../../src/formats/checkpoint.ts";
import { bytesOf } from "../../../src/formats/dtypes.ts";
import { writeSafetensors } from "../../../src/formats/safetensors.ts";
import { nodeFiles } from "../../../src/platform/node/files.ts";
import { type Case, filesWith, goodBase, type Place } from "../../helpers/hostile.ts";

type Json = Record<string, unknown>;

const weights = "model.safetensors";
const goodWeights = new Uint8Array(readFileSync(`${goodBase}/${weights}`));
const headerBytes = 8 + Number(new DataView(goodWeights.buffer).getBigUint64(0, true));
const inFull = (change: (json: Json) => void) => (json: Json) => {
  change(json);
  return json;
};

/** A base with a file of this content, or changed. */
const changed =
  (name: string, change: Parameters<Place["base"]>[0] extends infer T ? NonNullable<T>[keyof NonNullable<T>] : never) =>
  (place: Place) =>
    place.train({ base: place.base({ [name]: change }) });
const config = (change: Json) => changed("config.json", (json) => ({ ...json, ...change }));
/** config.json as text, with `members` put behind its own. */
const configText = (members: string) =>
  changed("config.json", readFileSync(`${goodBase}/config.json`, "utf8").replace(/\}\s*$/, `,${members}}`));
const tokenizer = (change: Json) => changed("tokenizer.json", (json) => ({ ...json, ...change }));
const named = (change: Json) => changed("tokenizer_config.json", (json) => ({ ...json, ...change }));

const header = (length: bigint) => {
  const bytes = goodWeights.slice();
  new DataView(bytes.buffer).setBigUint64(0, length, true);
  return bytes;
};

/** The weights' header as JSON, changed, before the payload. */
const headerWith = (change: (json: Record<string, { dtype: string; shape: number[]; data_offsets: number[] }>) => void) => {
  const json = JSON.parse(new TextDecoder().decode(goodWeights.subarray(8, headerBytes)));
  change(json);
  const text = new TextEncoder().encode(JSON.stringify(json));
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
  return new Uint8Array(Buffer.concat([length, text, goodWeights.subarray(headerBytes)]));
};

const norm = "model.norm.weight";
const index = (file: string) => (place: Place) => {
  const base = place.base({ "model.safetensors.index.json": JSON.stringify({ weight_map: { [norm]: file } }) });
  rmSync(`${base}/${weights}`);
  return place.train({ base });
};

/** The base with a weight replaced by NaN, trained by the command line. */
async function brokenWeights(place: Place): Promise<void> {
  const base = place.base();
  const checkpoint = await openCheckpoint(nodeFiles, goodBase);
  const sources = await Promise.all(
    [...checkpoint.tensors].map(async ([name, { shape }]) => {
      const { data } = await readWeights(nodeFiles, checkpoint, name);
      const values = Float32Array.from(data as Float32Array);
      if (name === norm) values[3] = Number.NaN;
      return { name, dtype: "float32" as const, shape, data: () => bytesOf(values) };
    }),
  );
  await writeSafetensors(nodeFiles, `${base}/${weights}`, sources, { format: "pt" });
  await place.lowrank(
    "train",
    "--base",
    base,
    "--data",
    place.file("d.jsonl", '{"text":"a b c"}\n'),
    "--output",
    place.at("o"),
    "--steps",
    "1",
  );
}

const chat = `${JSON.stringify({
  messages: [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
  ],
})}\n`;
const template = (source: string) => (place: Place) =>
  place.train({
    base: place.base({ "tokenizer_config.json": (json) => ({ ...json, chat_template: source }) }),
    data: place.file("chat.jsonl", chat),
  });
const loops = (depth: number) => `${"{% for i in range(9999) %}".repeat(depth)}x${"{% endfor %}".repeat(depth)}`;

export const baseCases: Case[] = [
  { name: "a base that is not there", ends: "file/missing", work: (place) => place.train({ base: place.at("none") }) },
  { name: "a base that is a file", ends: "file/not-folder", work: (place) => place.train({ base: place.file("file", "x") }) },
  {
    name: "an empty folder for a base",
    ends: "checkpoint/no-config",
    work: (place) => place.train({ base: place.file("empty/x", "").replace(/\/x$/, "") }),
  },
  { name: "a header length of 2^63", ends: "safetensors/header-too-large", work: changed(weights, header(2n ** 63n)) },
  {
    name: "a header length behind the end of the file",
    ends: "safetensors/header-past-end",
    work: changed(weights, header(99_999_999n)),
  },
  { name: "a header length cut short", ends: "safetensors/json-truncated", work: changed(weights, header(100n)) },
  { name: "weights of no bytes", ends: "safetensors/too-small", work: changed(weights, "") },
  {
    name: "weights cut off, as by a broken download",
    ends: "safetensors/missing-bytes",
    work: changed(weights, goodWeights.slice(0, -1000)),
  },
  {
    name: "tensors that overlap",
    ends: "safetensors/overlap",
    work: changed(
      weights,
      headerWith((json) => {
        json[norm]!.data_offsets = [0, 128];
      }),
    ),
  },
  {
    name: "a tensor of 2^60 elements",
    ends: "safetensors/overflow",
    work: changed(
      weights,
      headerWith((json) => {
        json[norm]!.shape = [2 ** 30, 2 ** 30];
      }),
    ),
  },
  {
    name: "a tensor of another shape than config.json says",
    ends: "checkpoint/shape",
    message: /model\.norm\.weight/,
    work: changed(
      weights,
      headerWith((json) => {
        json[norm]!.shape = [32, 2];
      }),
    ),
  },
  {
    name: "a tensor of another name",
    ends: "checkpoint/missing-tensor",
    message: /model\.norm\.weight/,
    work: changed(
      weights,
      headerWith((json) => {
        json["norm"] = json[norm]!;
        delete json[norm];
      }),
    ),
  },
  {
    name: "a tensor of a kind that can't be trained from",
    ends: "checkpoint/dtype",
    work: changed(
      weights,
      headerWith((json) => {
        json[norm]!.dtype = "I16";
      }),
    ),
  },
  { name: "NaN among the weights", ends: "checkpoint/not-finite", message: /model\.norm\.weight/, work: brokenWeights },
  {
    name: "an index that points outside of the folder",
    ends: "index/shard-outside",
    message: /\.\./,
    work: index("../../secret.safetensors"),
  },
  { name: "an index that points to the root", ends: "index/shard-outside", work: index("/etc/model.safetensors") },
  { name: "an index with a NUL in a name", ends: "index/shard-name", work: index("a\0.safetensors") },
  { name: "an index whose shard is missing", ends: "checkpoint/missing-shard", work: index("model-00001-of-00002.safetensors") },
  {
    name: "a loop of links in place of the weights",
    ends: "file/link-loop",
    work: (place) => {
      const base = place.base();
      rmSync(`${base}/${weights}`);
      symlinkSync(`${base}/${weights}`, `${base}/${weights}`);
      return place.train({ base });
    },
  },
  {
    name: "a named pipe in place of the weights",
    ends: "file/not-regular",
    work: (place) => {
      const base = place.base();
      rmSync(`${base}/${weights}`);
      renameSync(place.pipe("pipe"), `${base}/${weights}`);
      return place.train({ base });
    },
  },
  {
    name: "pickled weights alone, which are never opened",
    ends: "checkpoint/pytorch-weights",
    message: /save_pretrained/,
    work: (place) => {
      const base = place.base();
      renameSync(`${base}/${weights}`, `${base}/pytorch_model.bin`);
      return place.train({ base });
    },
  },
  {
    name: "config.json that is no JSON",
    ends: "json/syntax",
    message: /config\.json/,
    work: changed("config.json", "{'model_type': 'llama'}"),
  },
  { name: "config.json of no bytes", ends: "json/syntax", work: changed("config.json", "") },
  { name: "config.json that is a list", ends: "json/not-object", work: changed("config.json", "[]") },
  {
    name: "config.json in Latin-1",
    ends: "text/utf8",
    work: changed("config.json", Uint8Array.of(0x7b, 0x22, 0xe9, 0x22, 0x7d)),
  },
  {
    name: "config.json with a byte order mark",
    ends: "accepted",
    work: changed("config.json", `\uFEFF${readFileSync(`${goodBase}/config.json`, "utf8")}`),
  },
  {
    name: "config.json of a billion layers",
    ends: "model/config",
    message: /num_hidden_layers[\s\S]*1024/,
    work: config({ num_hidden_layers: 1e9 }),
  },
  {
    name: "config.json with an integer beyond all bounds",
    ends: "model/config",
    message: /hidden_size/,
    work: configText('"hidden_size":1e400'),
  },
  {
    name: "config.json with a size nested without end",
    ends: "model/config",
    work: configText(`"hidden_size":${"[".repeat(100_000)}${"]".repeat(100_000)}`),
  },
  { name: "config.json with a negative size", ends: "model/config", work: config({ vocab_size: -1 }) },
  { name: "config.json with no heads", ends: "model/config", work: config({ num_attention_heads: 0 }) },
  { name: "config.json with a number in a string", ends: "model/config", work: config({ hidden_size: "64" }) },
  {
    name: "config.json with __proto__",
    ends: "accepted",
    work: configText('"__proto__":{"polluted":1,"model_type":"x"},"constructor":{"prototype":{"polluted":1}}'),
  },
  {
    name: "config.json nested without end",
    ends: "accepted",
    work: configText(`"x":${"[".repeat(100_000)}${"]".repeat(100_000)}`),
  },
  {
    name: "config.json with a key twice, of which the last counts",
    ends: "accepted",
    work: configText('"hidden_size":7,"hidden_size":64'),
  },
  {
    name: "config.json of more layers than there are weights",
    ends: "checkpoint/missing-tensor",
    message: /layers\.2/,
    work: config({ num_hidden_layers: 3 }),
  },
  {
    name: "config.json with another vocabulary than the weights",
    ends: "checkpoint/shape",
    message: /embed_tokens/,
    work: config({ vocab_size: 1024 }),
  },
  { name: "a model type that is not known", ends: "model/unsupported", message: /llama/, work: config({ model_type: "lama" }) },
  { name: "a model type of Object.prototype", ends: "model/unsupported", work: config({ model_type: "constructor" }) },
  {
    name: "no tokenizer.json",
    ends: "tokenizer/missing",
    work: (place) => {
      const base = place.base();
      rmSync(`${base}/tokenizer.json`);
      return place.train({ base });
    },
  },
  { name: "tokenizer.json that is a list", ends: "json/not-object", work: changed("tokenizer.json", "[]") },
  {
    name: "tokenizer.json of gigabytes, which is not read",
    ends: "text/too-large",
    message: new RegExp(String(MAX_TEXT_BYTES)),
    work: (place) =>
      place.train(
        {},
        { files: filesWith("size", (size) => async (file) => (file.endsWith("tokenizer.json") ? 4e9 : size(file))) },
      ),
  },
  {
    name: "a tokenizer with an expression that never ends",
    ends: "tokenizer/slow",
    message: /\(a\+\)\+\$/,
    work: (place) =>
      place.train({
        base: place.base({
          "tokenizer.json": inFull((json) =>
            Object.assign(json, {
              pre_tokenizer: { type: "Split", pattern: { Regex: "^(a+)+$" }, behavior: "Isolated", invert: false },
            }),
          ),
        }),
        data: place.file("d.jsonl", `{"text":"${"a".repeat(60)}!"}\n`),
      }),
  },
  {
    name: "a tokenizer that makes a text without end",
    ends: "tokenizer/limit",
    work: tokenizer({
      normalizer: {
        type: "Sequence",
        normalizers: Array.from({ length: 60 }, () => ({ type: "Replace", pattern: { String: "a" }, content: "aa" })),
      },
    }),
  },
  {
    name: "a tokenizer with __proto__ in its vocabulary",
    ends: "accepted",
    work: changed(
      "tokenizer.json",
      readFileSync(`${goodBase}/tokenizer.json`, "utf8").replace(/"vocab"\s*:\s*\{/, '"vocab":{"__proto__":511,'),
    ),
  },
  {
    name: "a tokenizer with a token id of 4 billion",
    ends: "tokenizer/malformed",
    work: tokenizer({ added_tokens: [{ id: 4294967294, content: "<x>", special: true }] }),
  },
  {
    name: "a tokenizer larger than the embedding",
    ends: "train/vocabulary",
    message: /512/,
    work: tokenizer({ added_tokens: [{ id: 512, content: "<|new|>", special: true }] }),
  },
  {
    name: "an end of text that is no token",
    ends: "tokenizer/malformed",
    message: /eos_token/,
    work: named({ eos_token: "</s>" }),
  },
  {
    name: "an end-of-text id behind the embedding",
    ends: "train/vocabulary",
    message: /eos_token_id/,
    work: changed("generation_config.json", () => ({ eos_token_id: 99_999 })),
  },
  {
    name: "no end of text at all",
    ends: "accepted",
    work: (place) =>
      place.train({
        base: place.base({
          "tokenizer_config.json": () => ({}),
          "generation_config.json": () => ({}),
          "config.json": (json) => ({ ...json, eos_token_id: null }),
        }),
      }),
  },
  { name: "a template that loops", ends: "template/slow", work: template(loops(4)) },
  { name: "a template that does not end", ends: "template/syntax", work: template("{% for m in messages %}{{ m.content }}") },
  {
    name: "a template that refuses the conversation",
    ends: "template/refused",
    message: /no users here/,
    work: template("{{ raise_exception('no users here') }}"),
  },
  {
    name: "a template with markers that the tokenizer does not have",
    ends: "train/template-tokens",
    message: /<\|turn\|>/,
    work: template("{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}\n{% endfor %}"),
  },
  {
    name: "a template that reaches for what is behind its values",
    ends: "template/failed",
    work: template("{{ messages.constructor.constructor('return process')().exit() }}"),
  },
  { name: "a template of megabytes", ends: "template/limit", work: template("x".repeat(1 << 20)) },
  {
    name: "a good base in a folder with a name of every script",
    ends: "accepted",
    work: (place) => {
      const base = place.base();
      renameSync(base, place.at("модель 模型 👩‍👩‍👧"));
      return place.train({ base: place.at("модель 模型 👩‍👩‍👧") });
    },
  },
];
