// A model's first weights, to train it from nothing: the values that Transformers starts with, as a checkpoint folder.
import { z } from "zod";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { WEIGHTS_NAME } from "../formats/checkpoint.ts";
import { bytesOf } from "../formats/dtypes.ts";
import { fromFloat32 } from "../formats/float.ts";
import { encodeJson, type Json } from "../formats/json.ts";
import { type TensorSource, writeSafetensors } from "../formats/safetensors.ts";
import { type Graph, nodesOf, usersOf } from "../graph/graph.ts";
import { normal, purpose } from "../random.ts";
import { sizeOf } from "../tensor.ts";
import { readJson } from "./config/schema.ts";
import { forwardGraph, modelConfig } from "./registry.ts";

const deviation = z.number().min(0).max(1);
const keysOfPart = z.object({ initializer_range: deviation.optional() }).nullish();

/** Of a config.json, what initial values depend on. */
const keysOfInit = z.object({
  /** Deviation of matrices, tables and kernels. */
  initializer_range: deviation.optional(),
  /** The parts of a model of several. */
  text_config: keysOfPart,
  vision_config: keysOfPart,
  /** CLIP's first temperature, as a logarithm. */
  logit_scale_init_value: z.number().default(2.6592),
});

type Init = "normal" | number;

/** Which weights are those of a part with a config of its own, by their module path. */
const PARTS = { text_config: /(^|\.)(language|text)_model\./, vision_config: /(^|\.)vision_(tower|model)\./ };

/** The deviation of a weight: its part's, or that of the whole; what is of no part takes the language model's, as in Transformers. */
function deviationOf(name: string, keys: z.output<typeof keysOfInit>): number {
  const part = (["text_config", "vision_config"] as const).find((key) => PARTS[key].test(name));
  const own = part && keys[part]?.initializer_range;
  return own ?? keys.initializer_range ?? keys.text_config?.initializer_range ?? 0.02;
}

/** Keys that Transformers 5 takes as floats alone: it refuses a 1 there, which JavaScript makes of 1.0. */
const FLOAT_KEY = /(initializer_(range|factor)|_eps|_epsilon|_softcapping|_jitter_noise|_loss_coef)$/;

/** A plain value as JSON that Python reads with the same types. */
function jsonOf(value: unknown, key = ""): Json {
  if (typeof value === "number") {
    const literal = Number.isInteger(value) && FLOAT_KEY.test(key) ? value.toFixed(1) : JSON.stringify(value);
    return { literal };
  }
  if (Array.isArray(value)) return value.map((item) => jsonOf(item));
  if (typeof value !== "object" || value === null) return (value ?? null) as Json;
  return new Map(Object.entries(value).map(([name, item]) => [name, jsonOf(item, name)]));
}

/** Weights that are no layer's and no norm's, by the end of their name. */
const byName = (keys: z.output<typeof keysOfInit>): [RegExp, Init][] => [
  [/(^|\.)logit_scale$/, keys.logit_scale_init_value],
  [/\.class_embedding$/, "normal"],
  [/\.alpha_\w+$/, 0], // IDEFICS' gates: closed
  [/\.bias$/, 0],
];

/** How each weight of the graph starts, by name. A vector scales (1), or is added, as a bias and Gemma's norms are (0). */
function initialValues(graph: Graph, keys: z.output<typeof keysOfInit>): { name: string; shape: number[]; init: Init }[] {
  const nodes = nodesOf(graph);
  const users = usersOf(nodes);
  const named = byName(keys);
  return nodes
    .filter(({ op }) => op === "weight")
    .map(({ attributes, outputs }) => {
      const [name, shape] = [String(attributes["name"]), attributes["shape"] as number[]];
      const isAdded = users.get(outputs[0]!)?.some(({ op }) => op === "add");
      const usual = shape.length > 1 ? "normal" : isAdded ? 0 : 1;
      return { name, shape, init: named.find(([pattern]) => pattern.test(name))?.[1] ?? usual };
    });
}

/**
 * Writes a model with random weights into `folder`, which is made if it is missing: `config`, the content of a config.json of any
 * supported model type, and model.safetensors in the config's `dtype` (float32 if it has none). Matrices, embeddings and kernels
 * are normal with the config's `initializer_range` (0.02), those of a part with the one in `text_config` or `vision_config` if it is
 * there, norms 1, biases 0. A classifier's head is there if `architectures` names the class that has one. The values depend on `seed`
 * alone. A tokenizer is not made. Throws `model/exists` if the folder has weights, and the errors of `modelConfig`.
 */
export async function initModel(
  files: Files,
  config: Readonly<Record<string, unknown>>,
  folder: string,
  { seed = 0 }: { seed?: number } = {},
): Promise<void> {
  const file = `${folder}/config.json`;
  const read = modelConfig(config, file);
  const keys = readJson(keysOfInit, config, file);
  const path = `${folder}/${WEIGHTS_NAME}`;
  if (await files.exists(path)) {
    throw new LowrankError("model/exists", "the folder has the weights of a model", {
      subject: path,
      expected: "a folder without weights",
      next: "Give another folder, or remove this one.",
    });
  }
  const head = read.uninitializedHead === null ? null : `${read.uninitializedHead}.`;
  const dtype = read.dtype ?? "float32";
  const weights = initialValues(forwardGraph(read), keys).filter(({ name }) => head === null || !name.startsWith(head));
  const tensors = weights.map(({ name, shape, init }, index): TensorSource => {
    const values = () => {
      if (init !== "normal") return new Float32Array(sizeOf(shape)).fill(init);
      const range = deviationOf(name, keys);
      return normal(seed, [purpose.weights, index], sizeOf(shape)).map((value) => value * range);
    };
    return { name, dtype, shape, data: () => bytesOf(fromFloat32(values(), dtype)) };
  });
  await files.makeFolder(folder);
  await files.write(file, new TextEncoder().encode(`${encodeJson(jsonOf(config))}\n`));
  await writeSafetensors(files, path, tensors, { format: "pt" });
}
