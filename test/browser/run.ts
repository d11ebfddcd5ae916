// What is compared between Node and a browser: a short training of the embedded model, and greedy text after it.
import { type Lowrank, LowrankError } from "../../src/core.ts";

export interface Outcome {
  /** Of each step: the loss of its batch, and the 2-norm of the gradient. */
  losses: number[];
  gradientNorms: number[];
  /** Continuations of each prompt, by the base alone and with the adapter. */
  before: string[];
  after: string[];
  trainSeconds: number;
  generateSeconds: number;
}

/** What the page sends: files by path, each fetched from the server at that path. */
export interface Task {
  engine: "wasm" | "webgpu";
  files: string[];
  prompts: string[];
  images: string[];
}

/** How far it is, and in the end what came out. */
export type Answer = Result | { progress: string };
export type Result = { outcome: Outcome; images: Record<string, Decoded> } | { failure: string };

/** An image upright, in RGB. */
export interface Decoded {
  width: number;
  height: number;
  channels: number;
  data: number[];
}

export interface Places {
  base: string;
  data: string;
  /** Folder for the adapter; it is made. */
  output: string;
}

export const STEPS = 20;
const MAX_NEW_TOKENS = 40;

/** Trains and generates on any platform. `prompts` are texts of users. */
export async function trainAndGenerate(
  lowrank: Lowrank,
  places: Places,
  prompts: readonly string[],
  onStep: (step: number, loss: number) => void = () => {},
): Promise<Outcome> {
  const [losses, gradientNorms]: [number[], number[]] = [[], []];
  const began = performance.now();
  const options = { rank: 16, alpha: 32, batchSize: 1, learningRate: 2e-3, steps: STEPS, dropout: 0.05, seed: 3 };
  for await (const event of lowrank.finetune({ ...options, ...places })) {
    if (event.type !== "step") continue;
    losses.push(event.loss);
    gradientNorms.push(event.gradNorm);
    onStep(event.step, event.loss);
  }
  const trained = performance.now();
  const before = await continuations(lowrank, places.base, null, prompts);
  const after = await continuations(lowrank, places.base, places.output, prompts);
  const seconds = { trainSeconds: (trained - began) / 1000, generateSeconds: (performance.now() - trained) / 1000 };
  return { losses, gradientNorms, before, after, ...seconds };
}

async function continuations(lowrank: Lowrank, base: string, adapter: string | null, prompts: readonly string[]) {
  const generator = await lowrank.openGenerator(base, { adapter });
  const texts: string[] = [];
  const messages = prompts.map((content) => [{ role: "user", content }]);
  for await (const event of generator.generate(messages, { temperature: 0, maxNewTokens: MAX_NEW_TOKENS }))
    if (event.type === "done") texts[event.row] = event.text;
  await generator.close();
  return texts;
}

/** A failure as text that crosses to another thread or process. */
export const failureText = (error: unknown): string =>
  error instanceof LowrankError ? error.describe() : String((error as Error)?.stack ?? error);
