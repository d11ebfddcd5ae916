// Whether two runs trained the same: their curves, and the weights that they wrote.
import assert from "node:assert/strict";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import type { FinetuneEvent } from "../../src/commands/train/finetune.ts";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { near, only } from "./assert.ts";

export interface Ran {
  events: readonly FinetuneEvent[];
  output: string;
}

/** θ as files have it: each tensor by its name. */
export async function weightsOf(folder: string): Promise<Map<string, ArrayLike<number>>> {
  const found = new Map<string, ArrayLike<number>>();
  if (await nodeFiles.exists(`${folder}/adapter_model.safetensors`)) {
    const { tensors, saved } = await readAdapter(nodeFiles, folder);
    for (const [path, factors] of tensors)
      for (const [name, values] of Object.entries(factors)) if (values) found.set(`${path} ${name}`, values as Float32Array);
    for (const [name, { data }] of saved ?? []) found.set(name, data);
    return found;
  }
  const checkpoint = await openCheckpoint(nodeFiles, folder);
  for (const name of checkpoint.tensors.keys())
    found.set(name, (await readWeights(nodeFiles, checkpoint, name)).data as Float32Array);
  return found;
}

export const curve = (events: readonly FinetuneEvent[]) => ({
  losses: only(events, "step").map(({ loss }) => loss),
  norms: only(events, "step").map(({ gradNorm }) => gradNorm),
  tokens: only(events, "step").map(({ tokens }) => tokens),
  evals: only(events, "eval").map(({ loss }) => loss),
  figures: only(events, "eval").map(({ type, step, loss, ...figures }) => figures),
});

/** Fails unless two runs are the same to within `bound` times the size of what is compared. */
export async function same(one: Ran, other: Ran, bound = 1e-6): Promise<void> {
  const [a, b] = [curve(one.events), curve(other.events)];
  assert.deepEqual(b.tokens, a.tokens);
  near(b.losses, a.losses, { rtol: bound, atol: bound });
  near(b.norms, a.norms, { rtol: bound, atol: bound });
  near(b.evals, a.evals, { rtol: bound, atol: bound });
  for (const [i, figures] of a.figures.entries())
    for (const [name, value] of Object.entries(figures))
      near(Number(b.figures[i]![name]), Number(value), { rtol: 1e-5, atol: 1e-5 }, name);
  const [was, is] = [await weightsOf(one.output), await weightsOf(other.output)];
  assert.deepEqual([...is.keys()], [...was.keys()]);
  // Adam divides elements of the gradient that nearly cancel by their size, and so their last bits: single numbers of θ can differ by more.
  let [apart, size] = [0, 0];
  for (const [name, values] of was) {
    near(is.get(name)!, values, 1e-4, name);
    for (let i = 0; i < values.length; i++) {
      apart += (is.get(name)![i]! - values[i]!) ** 2;
      size += values[i]! ** 2;
    }
  }
  assert.ok(apart <= (5 * bound) ** 2 * size, `θ differs by ${Math.sqrt(apart / size)} of its norm`);
}
