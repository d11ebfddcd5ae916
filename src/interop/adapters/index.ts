// The table of adapter formats, in the order in which a path is asked for them. A new one is a file beside this one, and its line here
// (docs/add-a-format.md).

export { diffusers, kohya } from "./diffusion.ts";
export { ggufAdapter as gguf } from "./gguf.ts";
export { mlx } from "./mlx.ts";
export { onnxAdapter as onnx } from "./onnx.ts";
export { peft } from "./peft.ts";
