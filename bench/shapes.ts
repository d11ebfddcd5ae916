// Shapes of known models, as config.json has them: what write-model.ts can write.
const llama = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  max_position_embeddings: 8192,
  rope_theta: 500000,
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 0,
};

/** The sizes in the order in which model cards give them. */
const sizes = (hidden: number, mlp: number, layers: number, heads: number, kvHeads: number, vocab: number) => ({
  hidden_size: hidden,
  intermediate_size: mlp,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: kvHeads,
  vocab_size: vocab,
});

export const shapes = {
  /** For tests. */
  tiny: { ...llama, ...sizes(64, 176, 2, 4, 2, 2048) },
  /** SmolLM2-135M. */
  "135m": { ...llama, ...sizes(576, 1536, 30, 9, 3, 49152) },
  /** Qwen2.5-0.5B. */
  "0.5b": {
    ...llama,
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    ...sizes(896, 4864, 24, 14, 2, 151936),
  },
  /** Llama-3.2-1B. */
  "1b": { ...llama, ...sizes(2048, 8192, 16, 32, 8, 128256) },
  /** Llama-3.2-3B. */
  "3b": { ...llama, ...sizes(3072, 8192, 28, 24, 8, 128256) },
  /** Llama-2-7B. */
  "7b": { ...llama, tie_word_embeddings: false, rope_theta: 10000, ...sizes(4096, 11008, 32, 32, 32, 32000) },
  /** SOLAR-10.7B. */
  "10b": { ...llama, tie_word_embeddings: false, rope_theta: 10000, ...sizes(4096, 14336, 48, 32, 8, 32000) },
} as const;

export type ShapeName = keyof typeof shapes;

export const isShape = (name: string): name is ShapeName => Object.hasOwn(shapes, name);
