// Untrained encoders of each kind that transformers.js has a class for, and our own numbers for what it fed them.
import { cpSync, readFileSync } from "node:fs";
import { onBase, openBase } from "../../src/models/base.ts";
import { initModel } from "../../src/models/init.ts";
import { modelOutputs } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openGraph } from "../../src/runtime/open-graph.ts";
import { float32, int32 } from "../../src/tensor.ts";
import { files } from "./cases.ts";

/** What transformers.js was fed, and what it gave. */
export interface Encoded {
  version: string;
  feeds: Record<string, { dims: number[]; data: number[] }>;
  output: { dims: number[]; data: number[] };
}

interface Encoder {
  name: string;
  folder: string;
  /** transformers.js' class, and the names of its output there and here. */
  className: string;
  output: string;
  own: string;
}

const size = { hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, initializer_range: 0.12 };
const labels = { id2label: { 0: "a", 1: "b", 2: "c" }, label2id: { a: 0, b: 1, c: 2 } };
const bert = { model_type: "bert", ...size, ...labels, max_position_embeddings: 64, pad_token_id: 0 };
const kinds: Record<string, { config: Record<string, unknown>; className: string; output: string; own: string }> = {
  "BERT, features": {
    config: { ...bert, architectures: ["BertModel"] },
    ...{ className: "AutoModel", output: "last_hidden_state", own: "hidden" },
  },
  "BERT, classes of texts": {
    config: { ...bert, architectures: ["BertForSequenceClassification"] },
    ...{ className: "AutoModelForSequenceClassification", output: "logits", own: "logits" },
  },
  "BERT, classes of tokens": {
    config: { ...bert, architectures: ["BertForTokenClassification"] },
    ...{ className: "AutoModelForTokenClassification", output: "logits", own: "logits" },
  },
  "ViT, classes": {
    config: {
      model_type: "vit",
      ...size,
      ...labels,
      image_size: 16,
      patch_size: 8,
      architectures: ["ViTForImageClassification"],
    },
    ...{ className: "AutoModelForImageClassification", output: "logits", own: "logits" },
  },
};

/** Writes them into `folder`. */
export async function makeEncoders(folder: string): Promise<Encoder[]> {
  const { vocab_size } = JSON.parse(readFileSync("models/embedded/config.json", "utf8"));
  const made: Encoder[] = [];
  for (const [name, { config, ...kind }] of Object.entries(kinds)) {
    const place = `${folder}/${name.replace(/\W+/g, "-")}`;
    const isText = config["model_type"] === "bert";
    await initModel(files, { ...config, ...(isText && { vocab_size }) }, place);
    if (isText)
      for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(`models/embedded/${file}`, `${place}/${file}`);
    made.push({ name: `untrained ${name}`, folder: place, ...kind });
  }
  return made;
}

/** The largest difference of our numbers to those. */
export async function encoderDifference({ folder, own }: Encoder, { feeds, output }: Encoded): Promise<number> {
  const opened = await openBase(files, folder);
  const base = own === "hidden" ? onBase(opened, { head: "embedding" }) : opened;
  const graph = { outputs: { own: modelOutputs(base.config)[own]! } };
  const session = await openGraph(graph, weightFiles(base.checkpoint), { openSession: openNodeSession });
  const named = Object.entries(feeds).map(([name, { dims, data }]) => {
    const key = name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
    return [key, key === "pixelValues" ? float32(dims, Float32Array.from(data)) : int32(dims, data)];
  });
  const { own: ours } = await session.run(Object.fromEntries(named));
  await session.close();
  const values = ours!.data as Float32Array;
  if (values.length !== output.data.length) throw new Error(`[${output.dims}] has not the size of [${ours!.shape}]`);
  return values.reduce((most, value, i) => Math.max(most, Math.abs(value - output.data[i]!)), 0);
}
