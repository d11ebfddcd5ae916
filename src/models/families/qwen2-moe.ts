// Qwen2-MoE (Qwen team 2024): Qwen2's layer with routed experts and one that every token shares, behind a gate of its own.
import { z } from "zod";
import { add, mul, sigmoid } from "../../graph/ops/elementwise.ts";
import { type LlamaConfig, llamaConfig } from "../config/llama-config.ts";
import { count, MAX_LAYERS, readJson, sizes } from "../config/schema.ts";
import type { Family } from "../family.ts";
import { gatedMlp, projection } from "../layers/blocks.ts";
import { expertCounts, MAX_EXPERTS, mixtureOfExperts, stackedExpert } from "../layers/experts.ts";
import { llamaForward } from "./llama.ts";

interface Qwen2MoeConfig extends LlamaConfig {
  experts: number;
  expertsPerToken: number;
  /** Whether the weights of a token's experts are scaled to sum 1. */
  normalise: boolean;
  expertWidth: number;
  sharedWidth: number;
  /** Which layers have experts, one per layer; the others have an MLP. */
  sparse: boolean[];
}

const moeKeys = z.object({
  num_experts: count(MAX_EXPERTS).default(60),
  num_experts_per_tok: count(MAX_EXPERTS).default(4),
  norm_topk_prob: z.boolean().default(false),
  moe_intermediate_size: sizes.intermediate.default(1408),
  shared_expert_intermediate_size: sizes.intermediate.default(5632),
  decoder_sparse_step: sizes.layers.default(1),
  mlp_only_layers: z.array(z.int().min(0).max(MAX_LAYERS)).max(MAX_LAYERS).nullish(),
  qkv_bias: z.boolean().default(true),
});

export const qwen2Moe: Family<Qwen2MoeConfig> = {
  config(json, file) {
    const keys = readJson(moeKeys, json, file);
    const config = llamaConfig(json, file, "qwen2_moe", {
      vocabSize: 151936,
      hiddenSize: 2048,
      intermediateSize: 5632,
      layers: 24,
      heads: 16,
      kvHeads: 16,
      maxPositions: 32768,
      attentionBias: keys.qkv_bias ? "qkv" : undefined,
      window: "below",
    });
    const withoutExperts = new Set(keys.mlp_only_layers ?? []);
    const sparse = Array.from(
      { length: config.layers },
      (_, i) => !withoutExperts.has(i) && (i + 1) % keys.decoder_sparse_step === 0,
    );
    return {
      ...config,
      ...expertCounts(keys.num_experts, keys.num_experts_per_tok, file),
      normalise: keys.norm_topk_prob,
      expertWidth: keys.moe_intermediate_size,
      sharedWidth: keys.shared_expert_intermediate_size,
      sparse,
    };
  },
  forward: (c, inputs) =>
    llamaForward(c, inputs, {
      mlp(x, layer, index) {
        const at = `${layer}.mlp`;
        if (!c.sparse[index]) return gatedMlp(c, x, at);
        const routed = mixtureOfExperts(x, at, {
          parts: { gate: "gate_proj", up: "up_proj", down: "down_proj" },
          count: c.experts,
          perToken: c.expertsPerToken,
          normalise: c.normalise,
          width: c.expertWidth,
          activation: c.hiddenAct,
        });
        const gate = sigmoid(projection(x, `${at}.shared_expert_gate`, 1)); // [tokens, 1]
        return add(routed, mul(gate, gatedMlp(c, x, `${at}.shared_expert`, c.sharedWidth)));
      },
    }),
  storedIn: stackedExpert,
};
