// The training loop as an async iterator of events: accumulate, clip, update, evaluate, save, stop, resume.

import { lengthOfTheta, trainedEntries } from "../adapters/layout.ts";
import { stopwatch } from "../clock.ts";
import type { RunIdentity } from "../data/types.ts";
import { alone, type Communicator } from "../distributed/communicator.ts";
import { awaited, checkSame, gathered, tell } from "../distributed/exchange.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { type MakeDigest, SUMS_NAME, summing } from "../formats/checksums.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import type { Measure } from "../tasks/task.ts";
import {
  latestCheckpoint,
  loadCheckpoint,
  loadTheta,
  pruneCheckpoints,
  removeLeftovers,
  resumable,
  type SaveWeights,
  saveCheckpoint,
  type TrainState,
} from "./checkpoint.ts";
import type { DataLoader } from "./data-loader.ts";
import {
  afterEval,
  type EarlyStop,
  type Eval,
  type EvalBatches,
  type EvalMeasures,
  evaluateTheta,
  hasStalled,
  noEvals,
} from "./evals.ts";
import type { Objective } from "./objective.ts";
import { type Adam, clipGradNorm, type Optimizer, type OptimizerName, optimizers, parameterRanges, update } from "./optimizer.ts";
import type { Sample } from "./samples.ts";
import { type ScheduleName, schedules } from "./schedule.ts";
import { lossAndGradient, sameStart, wholeStep } from "./step.ts";
import { checkOptions } from "./trainer-checks.ts";

/** What `train` reports. `loss` is in nats a target token, `step` counts finished steps, times are in seconds. */
export type TrainEvent =
  | { type: "start"; step: number; steps: number; parameters: number; resumedFrom: string | null }
  | {
      type: "step";
      step: number;
      /** Mean over the targets of the step, before its update. */
      loss: number;
      learningRate: number;
      /** 2-norm of the whole gradient before clipping. */
      gradNorm: number;
      /** Tokens of the step that are not padding. */
      tokens: number;
      tokensPerSecond: number;
      /** Of a task whose speed is counted in them: the examples of the step. */
      examples?: number;
      seconds: number;
      /** Of these, the seconds in which the engine waited for weights that stream. */
      waitedSeconds?: number;
      etaSeconds: number;
      memoryBytes: number | null;
    }
  | EvalEvent
  | { type: "samples"; step: number; samples: Sample[] }
  /** With the best evaluation so far. */
  | { type: "checkpoint"; step: number; folder: string; best: Eval | null }
  | {
      type: "done";
      step: number;
      /** The signal ended it: the run can be resumed. */
      stopped: boolean;
      /** It ended before its last step because evaluations got no better. */
      early: boolean;
      best: Eval | null;
      /** The step whose weights are the result; null if there is none yet. */
      result: number | null;
      seconds: number;
      folder: string | null;
    };

/** An evaluation: the mean loss, and the figures of the task (perplexity, accuracy, …). */
export interface EvalEvent {
  type: "eval";
  step: number;
  loss: number;
  perplexity?: number;
  accuracy?: number;
  [figure: string]: string | number | undefined;
}

export interface OptimizerOptions extends Adam {
  /** A row of the table; AdamW if absent. */
  optimizer?: OptimizerName;
  learningRate: number;
  weightDecay: number;
  schedule: ScheduleName;
  /** Steps over which the learning rate rises from 0. */
  warmupSteps: number;
  /** The gradient is scaled down to this 2-norm; left as it is if absent. */
  maxGradNorm?: number;
  /** LoRA+: how many times faster B factors learn. */
  loraPlusRatio?: number;
}

/** What a run leaves of its time for the step at work and the last checkpoint: so many of its longest steps, and seconds. */
const LAST_STEPS = 2;
const LAST_SECONDS = 30;

export const optimizerDefaults: OptimizerOptions = {
  learningRate: 2e-4,
  weightDecay: 0,
  schedule: "linear",
  warmupSteps: 0,
  maxGradNorm: 1,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
};

export interface TrainOutput {
  files: Files;
  /** Makes the checksums of checkpoints and of the result; without it there are none. */
  digest?: MakeDigest;
  /** Gets checkpoint-<step>/ folders, and the final weights at the end. */
  folder: string;
  saveWeights: SaveWeights;
  /**
   * Steps between checkpoints, and minutes after which one is due. One is written before the first step, one at the end and
   * one at every evaluation that is better than all before, in any case.
   */
  checkpointEvery?: number;
  checkpointMinutes?: number;
  /** How many of the newest checkpoints stay; 2 if absent. The one of the best evaluation stays beside them. */
  keepCheckpoints?: number;
  /** The final weights are those of the best evaluation, not the last ones. */
  loadBest?: boolean;
  /** Go on from the newest whole checkpoint of `folder`, or from the start if it has none. */
  resume?: boolean;
}

export interface TrainOptions {
  objective: Objective;
  /** The parameters at the start, updated in place: after `done` these are the trained ones, of the step `result`. */
  theta: Float32Array;
  loader: DataLoader;
  /** Length of the run: one of the two. A part of an epoch is rounded up to whole steps. */
  steps?: number;
  epochs?: number;
  /** Seeds what the objective draws (dropout). */
  seed: number;
  optimizer: OptimizerOptions;
  evaluation?: {
    batches: EvalBatches;
    every: number;
    /** What is measured, anew each time; the mean loss if absent. */
    measure?: () => Measure<EvalMeasures>;
    early?: EarlyStop;
    /** What the model writes at each evaluation. */
    sample?: (theta: Float32Array) => Promise<Sample[]>;
  };
  /** Absent: nothing is written. Of processes that train together the first has it. */
  output?: TrainOutput;
  /** The processes that train together, each with a loader of its share; this one alone if absent. */
  team?: Communicator;
  /** What the speed is counted in; tokens if absent. */
  unit?: "tokens" | "examples";
  /** What else determines the bits (base model, data, adapter), compared when a run is resumed. */
  facts?: RunIdentity;
  /** When it fires the step at work is finished and saved, and the run ends with `done {stopped: true}`. */
  signal?: AbortSignal;
  /** Seconds until the process is ended: the run ends in time for it, as by the signal. */
  secondsLeft?: () => number;
  memoryBytes?: () => number;
  /** Seconds that the engine has waited so far for weights that stream; absent if none do. */
  waitedSeconds?: () => number;
  /** Fails if what the run reads is no longer what it opened: called before every update and every save, with the newest checkpoint. */
  check?: (saved: string | null) => Promise<void>;
}

/**
 * Trains `theta` in place and reports as it goes. The same options give the same bits, whether the run is stopped, killed
 * and resumed or not. Throws `train/non-finite` when a loss, a gradient or a parameter is not a number; it names the newest
 * checkpoint that gave a finite loss. The last update is judged by the evaluation behind it, or by the loss of a batch.
 */
export async function* train(options: TrainOptions): AsyncGenerator<TrainEvent, void, void> {
  const {
    objective,
    theta,
    loader,
    seed,
    optimizer,
    evaluation,
    output,
    signal,
    memoryBytes,
    waitedSeconds,
    unit,
    team = alone,
  } = options;
  await checkOptions(options);
  const steps = options.steps ?? Math.ceil(options.epochs! * loader.stepsPerEpoch);
  const facts = factsOf(options, steps);
  const ranges = parameterRanges(objective.entries, optimizer);
  const elapsed = stopwatch();

  const minDelta = evaluation?.early?.minDelta;
  const parameters = lengthOfTheta(trainedEntries(objective.entries));
  const zeros = () => new Float32Array(parameters);
  const state: TrainState = { theta, m: zeros(), v: zeros(), step: 0, evals: noEvals };
  let resumedFrom: string | null = null;
  if (output) {
    await output.files.makeFolder(output.folder);
    resumedFrom = await resumable(output.files, output.folder, output.resume ?? false, output.digest);
    await removeLeftovers(output.files, output.folder);
    if (resumedFrom) {
      const { theta: values, ...rest } = await loadCheckpoint(
        output.files,
        resumedFrom,
        facts,
        theta.length,
        minDelta,
        parameters,
      );
      theta.set(values);
      Object.assign(state, rest);
    }
  }
  resumedFrom = await sameStart(team, state, facts, resumedFrom);
  let saved = { step: resumedFrom ? state.step : -1, folder: resumedFrom, time: elapsed() };
  let learningRate = 0;
  /** Loss and gradient of this process's share of a step; a failure is thrown where it is awaited. */
  function computed(step: number) {
    const stepTime = elapsed();
    const before = waitedSeconds?.();
    const result = (async () => {
      const batches = await loader.microBatches(step);
      const made = await lossAndGradient(objective, theta, batches, { seed, step }, team.size > 1);
      return { stepTime, batches, ...made, waited: before !== undefined && { waitedSeconds: waitedSeconds!() - before } };
    })();
    result.catch(() => undefined);
    return result;
  }
  const stalled = () => evaluation?.early !== undefined && hasStalled(state.evals, evaluation.early);
  /** The longest that a step took, with the evaluation and the checkpoint behind it. */
  let longest = 0;
  const isAsked = () =>
    (signal?.aborted ?? false) || (options.secondsLeft?.() ?? Number.POSITIVE_INFINITY) < LAST_STEPS * longest + LAST_SECONDS;
  // Several processes stop behind the same step; one may at once.
  let isStopping = (await gathered(team, Number(isAsked()), "signals at the start")).includes(1);
  const goesOn = () => state.step < steps && !isStopping && !(team.size === 1 && signal?.aborted) && !stalled();
  const startStep = state.step;
  const startTime = elapsed();
  // What is read and written before the first step is done while it is computed.
  let computing = goesOn() && !objective.meets ? computed(state.step) : undefined;
  yield { type: "start", step: state.step, steps, parameters, resumedFrom };

  const keep = output?.keepCheckpoints ?? 2;
  const prune = async (most: number): Promise<void> =>
    output && pruneCheckpoints(output.files, output.folder, state.step, most, state.evals.best?.step);

  /** Until the next loss shows that this state is good, the one before it stays too. */
  async function* save(most = Math.max(keep, 2)): AsyncGenerator<TrainEvent, void, void> {
    const { step } = state;
    if (saved.step === step || (!output && team.size === 1)) return;
    await checkTheta();
    await options.check?.(saved.folder);
    const since = saved.step < 0 ? "at the start" : `at step ${step}, as they had at step ${saved.step}`;
    await checkSame(team, "θ", since, () => fingerprint([new Uint32Array(theta.buffer, theta.byteOffset, theta.length)]));
    const written = output && saveCheckpoint(output.files, output.folder, state, facts, output.saveWeights, output.digest);
    const folder = await awaited(team, written, `checkpoint of step ${step}`);
    if (folder === undefined) {
      saved = { ...saved, step };
      return;
    }
    saved = { step, folder, time: elapsed() };
    await prune(most);
    yield { type: "checkpoint", step, folder, best: state.evals.best };
  }

  /** Stops the run on a value that θ of the finished steps gave, or its gradient: then its loss is finite. */
  async function fail(what: string, value: number, step: number, isLossFinite = false): Promise<never> {
    const next = state.step + (isLossFinite ? 1 : 0);
    const good = output && (await latestCheckpoint(output.files, output.folder, next));
    const own = saved.step === state.step ? saved.folder : null;
    throw nonFinite(what, value, step, learningRate, { own, good: good?.folder, isUntrained: state.step === 0 });
  }

  async function checkTheta(): Promise<void> {
    const broken = theta.find((value) => !Number.isFinite(value));
    if (broken !== undefined) await fail("a parameter", broken, state.step);
  }

  yield* save();
  const rule: Optimizer = optimizers[optimizer.optimizer ?? "adamw"];
  const project = rule.project?.(objective.entries, theta);
  while (goesOn()) {
    const factor = schedules[optimizer.schedule](state.step, optimizer.warmupSteps, steps);
    learningRate = optimizer.learningRate * factor;
    const { stepTime, batches, waited, ...own } = await (computing ?? computed(state.step));
    computing = undefined;
    const due = isDue(state.step + 1, output, elapsed() - saved.time);
    const asked = { stop: isAsked(), save: due };
    const { loss, gradient, ...whole } = await wholeStep(team, state.step, { ...own, batches, asked }, parameters);
    isStopping = whole.asked.stop;
    const gradNorm = clipGradNorm(gradient, optimizer.maxGradNorm);
    if (!Number.isFinite(loss + gradNorm)) {
      yield* save(Number.POSITIVE_INFINITY);
      if (!Number.isFinite(loss)) await fail("loss", loss, state.step + 1);
      await fail("gradient norm", gradNorm, state.step + 1, true);
    }
    if (keep < 2 && saved.step === state.step) await prune(keep);
    await options.check?.(saved.folder);
    project?.(gradient);
    update(theta, gradient, state, ranges, factor, optimizer, rule);
    const { step } = state;

    const now = elapsed();
    const seconds = now - stepTime;
    const etaSeconds = ((now - startTime) / (step - startStep)) * (steps - step);
    const { tokens } = whole;
    const tokensPerSecond = seconds > 0 ? tokens / seconds : 0;
    const examples = unit === "examples" ? whole.targets : undefined;
    const speed = { tokens, tokensPerSecond, ...(examples !== undefined && { examples }), seconds, ...waited, etaSeconds };
    yield { type: "step", step, loss, learningRate, gradNorm, ...speed, memoryBytes: memoryBytes?.() ?? null };

    if (evaluation && (step % evaluation.every === 0 || step === steps)) {
      const result = await evaluateTheta(objective, theta, evaluation.batches, evaluation.measure?.(), team);
      if (!Number.isFinite(result.loss)) await fail("evaluation loss", result.loss, step);
      state.evals = afterEval(state.evals, { step, loss: result.loss }, minDelta);
      yield { type: "eval", step, ...result };
      if (state.evals.best?.step === step) yield* save();
      const samples = await awaited(team, evaluation.sample?.(theta), `samples of step ${step}`);
      if (samples) yield { type: "samples", step, samples };
    } else if (step === steps) {
      // No step follows whose loss would show what the last update did.
      const some = batches.filter(({ targets }) => targets > 0).slice(0, 1);
      const { loss } = some.length > 0 ? await evaluateTheta(objective, theta, some) : { loss: 0 };
      if (!Number.isFinite(loss)) await fail("the loss after the last update", loss, step);
    }
    if (whole.asked.save) yield* save();
    longest = Math.max(longest, elapsed() - stepTime);
  }
  yield* save();
  if (!output) await checkTheta();
  const { step } = state;
  const early = step < steps && stalled();
  const stopped = step < steps && !early;
  const { best } = state.evals;
  /** Writes what was trained to its end, and returns the step that it is of. */
  async function writeResult(): Promise<number | null> {
    if (!output || stopped) return stopped ? null : step;
    if (keep < 2) await prune(keep);
    const isBest = (output.loadBest ?? false) && best !== null && best.step !== step;
    if (isBest) theta.set(await loadTheta(output.files, output.folder, best.step, theta.length, output.digest));
    await options.check?.(saved.folder);
    const { files: to, writeSums } = summing(output.files, output.digest);
    await output.files.remove(`${output.folder}/${SUMS_NAME}`);
    await output.saveWeights(to, output.folder, theta);
    await writeSums(output.folder);
    return isBest ? best.step : step;
  }
  const written = await awaited(team, writeResult(), "the result");
  const result = await tell(team, 0, "the result's step", () => written);
  yield { type: "done", step, stopped, early, best, result, seconds: elapsed(), folder: output?.folder ?? null };
}

/** Whether it is time for a checkpoint, by the steps done or by the time since the last one. */
function isDue(step: number, output: TrainOutput | undefined, seconds: number): boolean {
  const { checkpointEvery, checkpointMinutes } = output ?? {};
  const byStep = checkpointEvery !== undefined && step % checkpointEvery === 0;
  return byStep || (checkpointMinutes !== undefined && seconds >= checkpointMinutes * 60);
}

/** The options that determine the bits. The number of steps is one of them unless the schedule does not look at it. */
function factsOf({ objective, loader, seed, optimizer, facts }: TrainOptions, steps: number): RunIdentity {
  const { maxGradNorm = null, loraPlusRatio = null, optimizer: name = "adamw", ...rest } = optimizer;
  const layout = objective.entries.map(({ key, shape, group }) => `${key} ${group} ${shape.join(" ")}`).join("\n");
  return {
    ...facts,
    ...loader.facts,
    ...rest,
    maxGradNorm,
    loraPlusRatio,
    ...(name !== "adamw" && { optimizer: name }), // runs of before there was a choice have none
    seed,
    steps: optimizer.schedule === "constant" ? null : steps,
    parameters: `${objective.entries.length} tensors, ${fingerprint([new TextEncoder().encode(layout)])}`,
  };
}

/** `own`: the checkpoint of the weights that gave the value. `good`: the newest of those before it. */
function nonFinite(
  what: string,
  value: number,
  step: number,
  learningRate: number,
  { own, good, isUntrained }: { own: string | null; good?: string; isUntrained: boolean },
): LowrankError {
  const advice = isUntrained
    ? "No update is made yet, so that it comes from the base, the adapter to go on with or the data: check those."
    : "Train again with a lower learning rate, more warm-up or maxGradNorm.";
  return new LowrankError("train/non-finite", `${what} is ${value} at step ${step}`, {
    expected: "finite numbers",
    got: `${value}, at learning rate ${learningRate}${own ? `, from the weights of ${own}` : ""}`,
    next: `${advice}${good ? ` The newest checkpoint with a finite loss is ${good}.` : ""}`,
    exitCode: 1,
  });
}
