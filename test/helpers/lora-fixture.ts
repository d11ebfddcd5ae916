// The adapter of test/fixtures/lora/written: made from a seed, for the base of the case lora-rslora.
// `node scripts/run.mjs test/helpers/lora-fixture.ts FOLDER` writes it; scripts/reference/peft_lora.py then loads it with PEFT.
import { isProgram } from "../../scripts/compile.mjs";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { matchModules, resolveConfig } from "../../src/adapters/match.ts";
import { type Adapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import type { ModuleInfo } from "../../src/models/module.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";

/** The linear layers of test/fixtures/cases/lora-rslora/base: 2 layers, 32 wide, 16 outputs of k_proj and v_proj. */
export const fixtureModules: ModuleInfo[] = ["model.layers.0", "model.layers.1"].flatMap((layer) =>
  (
    [
      ["self_attn.q_proj", 32, 32],
      ["self_attn.k_proj", 32, 16],
      ["self_attn.v_proj", 32, 16],
      ["self_attn.o_proj", 32, 32],
      ["mlp.gate_proj", 32, 48],
      ["mlp.up_proj", 32, 48],
      ["mlp.down_proj", 48, 32],
    ] as const
  ).map(([name, inFeatures, outFeatures]) => ({ path: `${layer}.${name}`, kind: "linear", inFeatures, outFeatures })),
);

export function fixtureAdapter(): Adapter {
  const config = loraConfig({
    rank: 4,
    alpha: 6,
    targetModules: "all-linear",
    excludeModules: ["mlp.gate_proj"],
    rankPattern: { v_proj: 2, "layers\\.1\\.mlp\\..*": 3, "mlp.*": 5 },
    alphaPattern: { "(q|k)_proj": 9 },
    useRslora: true,
    // B is random too: with B = 0 a loader that drops it would go unnoticed.
    initLoraWeights: false,
    taskType: "CAUSAL_LM",
    baseModelNameOrPath: "base",
  });
  const modules = matchModules(fixtureModules, config, "llama");
  return {
    config: resolveConfig(config, fixtureModules, modules, "llama"),
    modules,
    tensors: initAdapter(modules, config, 11),
    baseFingerprint: "0123456789abcdef",
  };
}

if (isProgram(import.meta.url)) await writeAdapter(nodeFiles, process.argv[2]!, fixtureAdapter());
