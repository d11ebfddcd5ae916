// One step of training, of one process or several: the gradient of a process's share, and the sum over all of them.
import { type Batch, type RunIdentity, total } from "../data/types.ts";
import type { Communicator } from "../distributed/communicator.ts";
import { tell } from "../distributed/exchange.ts";
import { LowrankError } from "../errors.ts";
import { bytesOf } from "../formats/dtypes.ts";
import type { TrainState } from "./checkpoint.ts";
import type { Objective } from "./objective.ts";

const noTargets = (step: number): LowrankError =>
  new LowrankError("train/no-targets", `no token of step ${step + 1} is a target`, {
    expected: "at least one label that is not masked",
    next: "Leave out examples without targets, or make batches larger.",
  });

/**
 * Mean loss over all targets of the micro-batches together, and its gradient: what one big batch of them gives. Of a part of a step
 * it is the sum: what the mean is over, no process knows yet.
 */
export async function lossAndGradient(
  objective: Objective,
  theta: Float32Array,
  batches: readonly Batch[],
  key: { seed: number; step: number },
  isPart: boolean,
): Promise<{ loss: number; gradient: Float32Array | undefined }> {
  const targets = total(batches, "targets");
  if (targets === 0 && !isPart) throw noTargets(key.step);
  let loss = 0;
  let gradient: Float32Array | undefined;
  for (const [micro, batch] of batches.entries()) {
    if (batch.targets === 0 && !objective.meets) continue;
    const part = await objective.lossAndGradient(batch, theta, isPart ? 1 : targets, { ...key, micro });
    if (batch.targets === 0) continue;
    loss += part.loss;
    if (!gradient) gradient = batches.length > 1 ? part.gradient.slice() : part.gradient;
    else for (let i = 0; i < gradient.length; i++) gradient[i]! += part.gradient[i]!;
  }
  return { loss, gradient };
}

/** The state of the first process in all of them, which have to train the same thing. Returns the checkpoint that it is from. */
export async function sameStart(
  team: Communicator,
  state: TrainState,
  facts: RunIdentity,
  resumedFrom: string | null,
): Promise<string | null> {
  if (team.size === 1) return resumedFrom;
  const { step, evals, ...first } = await tell(team, 0, "the run's state", () => ({
    ...state,
    theta: 0,
    m: 0,
    v: 0,
    facts,
    resumedFrom,
  }));
  // θ itself is told: its last bits may be the processor's.
  const differing = Object.keys(first.facts).find((name) => name !== "initialValues" && first.facts[name] !== facts[name]);
  if (differing !== undefined) {
    throw new LowrankError("distributed/different", `process ${team.rank} would train something else: ${differing} differs`, {
      subject: differing,
      expected: `${JSON.stringify(first.facts[differing])}, as process 0 has`,
      got: JSON.stringify(facts[differing]),
      next: "Give every process the same options, base and data; copy the files again where machines have their own.",
    });
  }
  const { theta, m, v } = state;
  for (const [name, data] of Object.entries({ θ: theta, "the first moments": m, "the second moments": v }))
    await team.broadcast(bytesOf(data), 0, name);
  Object.assign(state, { step, evals });
  return first.resumedFrom;
}

/** What one process knows of a step, and what it asks of all. */
interface OwnShare {
  /** Of its share, not yet divided by the targets of the step; no gradient where it has no row. */
  loss: number;
  gradient: Float32Array | undefined;
  batches: readonly Batch[];
  /** Only the first process knows when a checkpoint is due. */
  asked: { stop: boolean; save: boolean };
}

interface WholeStep {
  loss: number;
  gradient: Float32Array;
  targets: number;
  tokens: number;
  asked: OwnShare["asked"];
}

/** A step of all processes together: the mean loss over all targets, and its gradient. */
export async function wholeStep(
  team: Communicator,
  step: number,
  { loss, gradient, batches, asked }: OwnShare,
  parameters: number,
): Promise<WholeStep> {
  const own = [total(batches, "targets"), total(batches, "tokens"), loss, Number(asked.stop), Number(asked.save)];
  if (team.size === 1) return { loss, gradient: gradient!, targets: own[0]!, tokens: own[1]!, asked };
  const sums = Float64Array.from(own);
  await team.allReduce(sums, `totals of step ${step + 1}`);
  const [targets, tokens, losses, stop, save] = sums as unknown as [number, number, number, number, number];
  if (targets === 0) throw noTargets(step);
  const whole = gradient ?? new Float32Array(parameters);
  await team.allReduce(whole, `gradient of step ${step + 1}`);
  for (let i = 0; i < whole.length; i++) whole[i]! /= targets;
  return { loss: losses / targets, gradient: whole, targets, tokens, asked: { stop: stop > 0, save: save > 0 } };
}
