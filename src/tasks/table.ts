// The table of tasks, by the names that --task accepts. A new task is a folder beside this file and a line here (docs/add-a-task.md).
export { causalLm as "causal-lm" } from "./causal-lm/index.ts";
export { contrastive } from "./contrastive/index.ts";
export { imageClassification as "image-classification" } from "./image-classification/index.ts";
export { multiLabelClassification as "multi-label-classification" } from "./multi-label-classification/index.ts";
export { preference } from "./preference/index.ts";
export { regression } from "./regression/index.ts";
export { sentenceEmbedding as "sentence-embedding" } from "./sentence-embedding/index.ts";
export { sequenceClassification as "sequence-classification" } from "./sequence-classification/index.ts";
export { tokenClassification as "token-classification" } from "./token-classification/index.ts";
