// A model as one ONNX file with inputs for LoRA adapters, which ONNX Runtime's adapters feed: without one it is the base.
import { checkOutputFile, type Files } from "../../files.ts";
import type { AnyBase } from "../../models/base.ts";
import { writeModelFile } from "../../onnx/model-file.ts";
import { exportOf, withOwnHead } from "../onnx/graphs.ts";
import { withFactorInputs } from "../onnx/slots.ts";
import { type WeightForm, weightForms, withWeights } from "../onnx/weights.ts";
import type { ModelFormat, ModelOptions } from "./format.ts";

export const onnxModel: ModelFormat = {
  title: "ONNX model",
  ending: ".onnx",
  dtypes: { names: Object.keys(weightForms), usual: ["f32"], most: 1 },
  outputs: (path) => [path],
  write: writeOnnx,
};

async function writeOnnx(files: Files, path: string, base: AnyBase, options: ModelOptions): Promise<void> {
  const { openSession, onProgress, maxFileBytes: maxBytes, dtypes } = options;
  const { graph, inputs, optional } = withFactorInputs(exportOf(withOwnHead(base)));
  await checkOutputFile(files, `${path}_data`, { inputs: [base.checkpoint.folder] });
  const sources = { files, checkpoint: base.checkpoint, openSession, onProgress };
  const written = withWeights(graph, dtypes[0] as WeightForm, sources);
  try {
    await writeModelFile(files, path, written.graph, written.values, { inputs, maxBytes, optional });
  } finally {
    await written.close();
  }
}
