// A decoder whose weights are large enough to stream, and two steps of training it.
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { thetaOf } from "../../src/adapters/layout.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { makeBatch } from "../../src/data/batch.ts";
import type { Files } from "../../src/files.ts";
import { entryOf } from "../../src/formats/checkpoint.ts";
import { withGguf } from "../../src/formats/gguf/files.ts";
import { loadBase } from "../../src/models/base.ts";
import { nodeMachine } from "../../src/platform/node/engine/machine.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { Machine } from "../../src/runtime/machine.ts";
import type { PartCache } from "../../src/runtime/part-cache.ts";
import { runProgram } from "../../src/runtime/program-session.ts";
import type { SessionOptions } from "../../src/runtime/session.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { type Execution, formsOf, type MemoryMode, memoryModes } from "../../src/train/execution.ts";
import { loraObjective } from "../../src/train/objective.ts";

export const largeConfig = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 256,
  intermediate_size: 8192,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 9000,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  hidden_act: "silu",
  initializer_range: 0.08,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 0,
  dtype: "bfloat16",
};

export interface StepOptions {
  baseDtype: Execution["baseDtype"];
  integers?: boolean;
  memory?: MemoryMode;
  cache?: PartCache;
  files?: Files;
  onConverted?: SessionOptions["onConverted"];
  onWaited?: SessionOptions["onWaited"];
  machine?: Machine;
}

/** Losses and gradients of two batches at one θ, then an evaluation's loss. */
export async function twoSteps(
  folder: string,
  { baseDtype, integers, memory = "stream", cache, files = nodeFiles, onConverted, onWaited, machine = nodeMachine }: StepOptions,
) {
  const base = await loadBase(withGguf(nodeFiles), folder);
  const config = loraConfig({ rank: 2, alpha: 4, targetModules: "all-linear" });
  const modules = matchModules(base.modules, config, base.config.modelType);
  const dtypeOf = (name: string) => entryOf(base.checkpoint, name)?.dtype;
  const batches = [1, 7].map((salt) => {
    const ids = Int32Array.from({ length: 20 }, (_, i) => (salt * i * i * 131 + (i % 3)) % largeConfig.vocab_size);
    const short = ids.slice(0, 9);
    return makeBatch([[{ ids, labels: ids }], [{ ids: short, labels: short }]], { padId: 0 });
  });
  const objective = await loraObjective({
    stages: { ...memoryModes[memory], form: formsOf(baseDtype, { dtypeOf, integers }) },
    checkpoint: base.checkpoint,
    loss: lossGraph(base.config, { maxTargets: 40, maxLength: 20 }),
    config,
    modules,
    dropout: 0,
    openSession: (program, options) => runProgram(program, { ...options, machine, files, cache }),
    threads: 1,
    first: async () => batches[0]!,
    onConverted,
    onWaited,
  });
  try {
    // B is zero in a new adapter, and so would be A's gradient.
    const theta = thetaOf({ config, modules, tensors: initAdapter(modules, config, 0) }).map((x, i) => x + 0.01 * Math.sin(i));
    const [losses, gradients]: [number[], number[][]] = [[], []];
    const key = { seed: 0, step: 0, micro: 0 };
    for (const batch of batches) {
      const { loss, gradient } = await objective.lossAndGradient(batch, theta, batch.targets, key);
      losses.push(loss);
      gradients.push([...gradient]);
      losses.push(Number((await objective.evaluate(batch, theta))["loss"]!.data[0]));
    }
    return { losses, gradients };
  } finally {
    await objective.close();
  }
}
