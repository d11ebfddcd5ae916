// Activations by Transformers' names (ACT2FN), as graph functions.
import type { Value } from "../../graph/graph.ts";
import { gelu, less, mul, sigmoid, silu, where } from "../../graph/ops/elementwise.ts";
import { scalar } from "../../graph/ops/leaves.ts";

export const activations = {
  silu,
  gelu: (x: Value) => gelu(x, "none"),
  geluTanh: (x: Value) => gelu(x, "tanh"),
  /** x·σ(1.702 x), a cheap GELU that OpenAI's CLIP was trained with. */
  quickGelu: (x: Value) => mul(x, sigmoid(mul(x, scalar(1.702, x)))),
  relu: (x: Value) => where(less(scalar(0, x), x), x, scalar(0, x)),
} satisfies Record<string, (x: Value) => Value>;

export type ActivationName = keyof typeof activations;

/** Names in config files. `gelu_fast` is the tanh form with its constants rounded. */
export const activationNames: Record<string, ActivationName> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_python: "gelu",
  gelu_new: "geluTanh",
  gelu_fast: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
  gelu_python_tanh: "geluTanh",
  quick_gelu: "quickGelu",
  relu: "relu",
};
