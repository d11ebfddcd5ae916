// The table of formats that whole models are written in. A new one is a file beside this one, and its line here (docs/add-a-format.md).
export { ggufModel as gguf } from "./gguf.ts";
export { onnxModel as onnx } from "./onnx.ts";
export { transformersJs as "transformers.js" } from "./transformers-js.ts";
