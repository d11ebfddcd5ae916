// The default learning rate: LoRA takes larger steps than full fine-tuning, and small models larger ones still.
import { optimizerDefaults } from "./trainer.ts";

/** By the parameters of the base; what docs/choosing.md measures is in the middle of what works there. */
const RATES = [
  { upTo: 30e6, learningRate: 3e-3 },
  { upTo: 300e6, learningRate: 1e-3 },
  { upTo: Number.POSITIVE_INFINITY, learningRate: optimizerDefaults.learningRate },
];

/** A learning rate to begin with, for a base of so many parameters. */
export const usualLearningRate = (method: "lora" | "full", parameters: number): number =>
  method === "full" ? optimizerDefaults.learningRate : RATES.find(({ upTo }) => parameters <= upTo)!.learningRate;
