// The registry of models of other tasks: `model_type` → family. A new family is a file in this folder and a line here.
export { bert } from "./bert.ts";
export { clip } from "./clip.ts";
export { vit } from "./vit.ts";
