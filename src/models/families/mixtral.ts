// Mixtral (Jiang et al. 2024): Mistral's layer with a mixture of experts in place of the MLP.
import { z } from "zod";
import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import { count, readJson } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { expertCounts, MAX_EXPERTS, mixtureOfExperts, stackedExpert } from "../layers/experts.ts";
import { llamaForward } from "./llama.ts";

interface MixtralConfig extends LlamaConfig {
  experts: number;
  expertsPerToken: number;
}

const moeKeys = z.object({
  num_local_experts: count(MAX_EXPERTS).default(8),
  num_experts_per_tok: count(MAX_EXPERTS).default(2),
});

export const mixtral: Family<MixtralConfig> = {
  config(json, file) {
    const keys = readJson(moeKeys, json, file);
    const config = llamaConfig(json, file, "mixtral", {
      vocabSize: 32000,
      intermediateSize: 14336,
      kvHeads: 8,
      rmsNormEps: 1e-5,
      maxPositions: 131072,
      theta: 1_000_000,
      bosId: 1,
      eosId: 2,
      window: "every",
      slidingWindow: null,
    });
    return { ...config, ...expertCounts(keys.num_local_experts, keys.num_experts_per_tok, file) };
  },
  forward: (c, inputs) =>
    llamaForward(c, inputs, {
      mlp: (x, at) =>
        mixtureOfExperts(
          x,
          `${at}.mlp`,
          {
            parts: { gate: "w1", up: "w3", down: "w2" },
            count: c.experts,
            perToken: c.expertsPerToken,
            normalise: true,
            width: c.intermediateSize,
            activation: c.hiddenAct,
          },
          `${at}.block_sparse_moe`,
        ),
    }),
  // The hub has the first release's names. What Transformers 5 holds in memory, and can write, has others.
  olderNames: [(name) => name.replace(".block_sparse_moe.", ".mlp.")],
  storedIn: stackedExpert,
};
