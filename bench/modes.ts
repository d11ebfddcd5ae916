// What is compared: the modes of each side as arguments, and the sizes of a step. A new mode of ours is a row here.
export interface Mode {
  name: string;
  /** Added to the command line of bench/step.ts, or of peer/peft_step.py. */
  args: readonly string[];
}

export const ours: readonly Mode[] = [
  { name: "float32", args: ["--base-dtype", "float32"] },
  { name: "float32, recompute", args: ["--base-dtype", "float32", "--memory", "recompute"] },
  { name: "bfloat16", args: ["--base-dtype", "bfloat16"] },
  { name: "bfloat16, recompute", args: ["--base-dtype", "bfloat16", "--memory", "recompute"] },
  { name: "int8", args: ["--base-dtype", "int8"] },
  { name: "int8, products", args: ["--base-dtype", "int8", "--memory", "products"] },
  { name: "int8, recompute", args: ["--base-dtype", "int8", "--memory", "recompute"] },
];

/** Of generation. */
export const ourDecodeModes: readonly Mode[] = ["float32", "bfloat16", "int8", "int4"].map((name) => ({
  name,
  args: ["--base-dtype", name],
}));

export const peers: readonly Mode[] = [
  { name: "float32", args: ["--dtype", "float32"] },
  { name: "bfloat16", args: ["--dtype", "bfloat16"] },
  { name: "float32, checkpointing", args: ["--dtype", "float32", "--checkpointing"] },
  { name: "bfloat16, checkpointing", args: ["--dtype", "bfloat16", "--checkpointing"] },
];

/** With --compile also these. */
export const compiledPeers: readonly Mode[] = ["float32", "bfloat16"].map((dtype) => ({
  name: `${dtype}, compiled`,
  args: ["--dtype", dtype, "--compile"],
}));

export interface Size {
  batch: number;
  tokens: number;
}

/** "4x512" → 4 rows of 512 tokens; "512" is one row. */
export function sizeOf(text: string): Size {
  const [, batch = "1", tokens] = /^(?:(\d+)x)?(\d+)$/.exec(text) ?? [];
  if (tokens === undefined) throw new Error(`${text} is no size: write 512, or 4x512 for four rows`);
  return { batch: Number(batch), tokens: Number(tokens) };
}

export const usualSizes = ["128", "256", "512", "1024", "2048", "4096", "8192", "2x512", "4x512", "8x512"];
export const quickSizes = ["256", "512"];
