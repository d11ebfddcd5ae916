// The table of adapter methods: PEFT's LoRA and its variants, those that are built and those that are refused by name. A new one is a
// file beside this one, and its line here (docs/add-a-method.md).
import { unbuilt } from "../method.ts";

export { alora } from "./alora.ts";
export const bdlora = unbuilt("use_bdlora", null, "block-diagonal factors are not computed");
export { dora } from "./dora.ts";
export const kasa = unbuilt("kasa_config", null, "KaSA's singular values are not applied");
export { lora } from "./lora.ts";
export { loraBias } from "./lora-bias.ts";
export const monteclora = unbuilt("monteclora_config", null, "MonteCLoRA's sampling is not done");
export const qalora = unbuilt("use_qalora", false, "QALoRA's grouped inputs are not computed");
