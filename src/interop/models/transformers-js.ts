// A model as transformers.js reads it: a folder with config.json, the tokenizer's files, and ONNX models with a cache in onnx/.
import { writeFilledFolder } from "../../adapters/adapter-folder.ts";
import type { Files } from "../../files.ts";
import { readJsonObject } from "../../formats/json.ts";
import { copySideFiles, isSideFile } from "../../formats/side-files.ts";
import type { AnyBase } from "../../models/base.ts";
import type { HeadName } from "../../models/heads/head.ts";
import { writeHead } from "../../models/heads/index.ts";
import { writeModelFile } from "../../onnx/model-file.ts";
import { exportOf, unsayable, withOwnHead } from "../onnx/graphs.ts";
import { type WeightForm, weightForms, withWeights } from "../onnx/weights.ts";
import type { ModelFormat, ModelOptions } from "./format.ts";

/** How files are called, and what transformers.js calls their dtype. */
const dtypes: Record<WeightForm, { file: string; name: string }> = {
  f32: { file: "model.onnx", name: "fp32" },
  f16: { file: "model_fp16.onnx", name: "fp16" },
  q8: { file: "model_quantized.onnx", name: "q8" },
  q4: { file: "model_q4.onnx", name: "q4" },
};

/** The models that transformers.js 4.3 has a class for, by head. */
const classes: Partial<Record<HeadName, readonly string[]>> = {
  lm: [
    "bloom",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "gpt2",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "smollm3",
  ],
  "sequence-classifier": ["bert"],
  "token-classifier": ["bert"],
  embedding: ["bert"],
  "image-classifier": ["vit"],
};

export const transformersJs: ModelFormat = {
  title: "transformers.js folder",
  dtypes: { names: Object.keys(weightForms), usual: ["f32"] },
  outputs: (path) => [path],
  write: writeTransformersJs,
};

async function writeTransformersJs(files: Files, path: string, given: AnyBase, options: ModelOptions): Promise<void> {
  const base = withOwnHead(given);
  const { config, checkpoint } = base;
  const { head, modelType } = config;
  if (!classes[head]?.includes(modelType)) {
    const all = Object.entries(classes).map(([name, types]) => `${name}: ${types.join(", ")}`);
    throw unsayable(base, "transformers.js has no class for this model", all.join("; "), `${modelType} with the head ${head}`);
  }
  const { graph, inputs } = exportOf(base, { keepsLogits: true });
  const { openSession, onProgress, maxFileBytes: maxBytes, host = {} } = options;
  const chosen = options.dtypes as WeightForm[];
  const fill = async (to: Files, folder: string) => {
    await copySideFiles(files, checkpoint.folder, folder, isCopied);
    await to.makeFolder(`${folder}/onnx`);
    const external: Record<string, number> = {};
    for (const form of chosen) {
      const { file } = dtypes[form];
      const written = withWeights(graph, form, { files, checkpoint, openSession, onProgress });
      try {
        const dataFiles = await writeModelFile(to, `${folder}/onnx/${file}`, written.graph, written.values, { inputs, maxBytes });
        if (dataFiles > 0) external[file] = dataFiles;
      } finally {
        await written.close();
      }
    }
    await writeJson(to, `${folder}/tokenizer_config.json`, await tokenizerConfig(files, base));
    await writeHead(to, folder, config);
    await writeJson(to, `${folder}/config.json`, {
      ...checkpoint.config,
      "transformers.js_config": {
        ...(chosen.length === 1 && { dtype: dtypes[chosen[0]!].name }),
        ...(Object.keys(external).length > 0 && { use_external_data_format: external }),
      },
    });
  };
  await writeFilledFolder(files, path, fill, host);
}

/** Configs are written, and no code of the model's is run by JavaScript. */
const isCopied = (name: string): boolean => isSideFile(name) && !/^(config|tokenizer_config)\.json$|\.py$/.test(name);

const writeJson = async (files: Files, path: string, value: object | null): Promise<void> => {
  if (value) await files.write(path, new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`));
};

/** tokenizer_config.json with the chat template in it, which transformers.js looks for nowhere else; null without a tokenizer. */
async function tokenizerConfig(files: Files, { checkpoint: { folder }, tokenizer }: AnyBase): Promise<object | null> {
  if (!(await files.exists(`${folder}/tokenizer.json`))) return null;
  const path = `${folder}/tokenizer_config.json`;
  const own = (await files.exists(path)) ? await readJsonObject(files, path) : { tokenizer_class: "PreTrainedTokenizer" };
  const { template } = await tokenizer();
  return template && own["chat_template"] === undefined ? { ...own, chat_template: template.source } : own;
}
