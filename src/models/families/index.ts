// The registry of language models: `model_type` → family. A new family is a file in this folder and a line here.
export { bloom } from "./bloom.ts";
export { gemma } from "./gemma.ts";
export { gemma2 } from "./gemma2.ts";
export { gemma3 as gemma3_text } from "./gemma3.ts";
export { gptNeox as gpt_neox } from "./gpt-neox.ts";
export { gpt2 } from "./gpt2.ts";
export { idefics } from "./idefics.ts";
export { idefics3, idefics3 as smolvlm } from "./idefics3.ts";
export { llama } from "./llama.ts";
export { llava } from "./llava.ts";
export { mistral } from "./mistral.ts";
export { mixtral } from "./mixtral.ts";
export { olmo2 } from "./olmo2.ts";
export { phi3 } from "./phi3.ts";
export { qwen2 } from "./qwen2.ts";
export { qwen2Moe as qwen2_moe } from "./qwen2-moe.ts";
export { qwen3 } from "./qwen3.ts";
export { smollm3 } from "./smollm3.ts";
