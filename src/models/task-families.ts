// The registry of models of other tasks: `model_type` → family. A new family is a file in this folder and a line here.
export { bert } from "./families/bert.ts";
export { clip } from "./families/clip.ts";
export { vit } from "./families/vit.ts";
