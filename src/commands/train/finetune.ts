// From a base folder and a data file to a trained adapter or model: what can fail cheaply is checked first, then `train` runs.

import { attach } from "../../adapters/attach.ts";
import { readAdapter } from "../../adapters/peft-files.ts";
import type { Dataset, ExampleReport } from "../../data/dataset.ts";
import { inMemory } from "../../data/store.ts";
import { checkColumns } from "../../data/task-records.ts";
import type { Example } from "../../data/types.ts";
import { LowrankError } from "../../errors.ts";
import { type AnyBase, languageModel, openBase, relabelled } from "../../models/base.ts";
import { countParameters, forwardGraph, refuserOf, taskOf } from "../../models/registry.ts";
import { taskText } from "../../models/task.ts";
import type { Runtime } from "../../platform/platform.ts";
import { feedRows } from "../../train/data-loader.ts";
import {
  type DataReader,
  type Datasets,
  dataReader,
  evaluationBatches,
  type ReadingEvent,
  shapeOf,
  withShared,
} from "../../train/datasets.ts";
import { usualLearningRate } from "../../train/learning-rate.ts";
import { type BatchSize, diskBytes, type MemoryEstimate, peakMemory, withGenerator, withImagesKept } from "../../train/memory.ts";
import { type FinetuneOptions, type RunOptions, readOptions, writeRun } from "../../train/options.ts";
import { checkMachine, checkOutput, makeOutput } from "../../train/preflight.ts";
import { logEvents, openRunLog } from "../../train/run-log.ts";
import { MAX_SAMPLES, makeSampler } from "../../train/samples.ts";
import { lossOf } from "../../train/task-loss.ts";
import { type Subject, subjects } from "../../train/trainable-model.ts";
import { optimizerDefaults, type TrainEvent, train } from "../../train/trainer.ts";

/** Begins the names of files with tokens that do not fit into memory; they are in the output folder while a run goes on. */
const SPILL_NAME = ".examples";

/** What `finetune` reports: how far it has read long files, what it is about to train, then the events of the training. */
export type FinetuneEvent =
  | ReadingEvent
  | {
      type: "prepared";
      /** How many modules are adapted; null when every weight is trained. */
      modules: number | null;
      /** Trained parameters, and those of the base. */
      trainable: number;
      parameters: number;
      train: ExampleReport;
      eval: ExampleReport | null;
      /** Estimates, in bytes: memory at its peak, and what the output folder grows to. */
      memory: MemoryEstimate;
      disk: number;
      /** What may go wrong on this machine. */
      warnings: string[];
    }
  | TrainEvent;

/**
 * Trains as `options` say and reports as it goes. Options, base, adapter, output folder and data are checked before the
 * engine loads the base. The output folder gets run.json, metrics.jsonl, checkpoint-<step>/ folders, and at the end the adapter
 * (`adapter_config.json`, `adapter_model.safetensors`) or, for the method "full", a whole checkpoint.
 */
export async function* finetune(
  { signal, ...given }: FinetuneOptions,
  runtime: Runtime,
): AsyncGenerator<FinetuneEvent, void, void> {
  const { files, timeLimit, lock } = runtime;
  const read = await readOptions(files, given);
  const opened = await openBase(files, read.base, timeLimit);
  checkTask(opened, read);
  const usual = usualLearningRate(read.method, countParameters(opened.config));
  const options = { ...read, learningRate: read.learningRate ?? usual };
  const before = read.adapter === undefined ? null : await readAdapter(files, read.adapter);
  const { base, adapter } = before ? await attach(opened, before, options) : { base: opened, adapter: null };
  // Made here for its checks; made again if the data bring other classes, or images.
  const subjectOf: SubjectOf = (of, images) => subjects[options.method](files, of, options, { given: adapter, images });
  const subject = await subjectOf(base, false);
  const isNew = !(await files.exists(options.output));
  await makeOutput(files, options);
  const unlock = await lock?.(options.output);
  try {
    yield* runOf(subject, subjectOf, base, options, runtime, signal);
  } finally {
    await unlock?.();
    // A run that was refused leaves no folder behind.
    if (isNew && (await files.list(options.output)).length === 0) await files.remove(options.output);
  }
}

/** What a run trains on a base, for data with images or without. */
type SubjectOf = (base: AnyBase, images: boolean) => Promise<Subject>;

/** The run into an output folder that no other run writes to. */
async function* runOf(
  subject: Subject,
  subjectOf: SubjectOf,
  base: AnyBase,
  options: RunOptions,
  runtime: Runtime,
  signal: AbortSignal | undefined,
): AsyncGenerator<FinetuneEvent, void, void> {
  const { files } = runtime;
  await checkOutput(files, options);
  const fixedClasses = options.adapter !== undefined;
  const reader = await dataReader(runtime, base, options, { spill: `${options.output}/${SPILL_NAME}`, signal, fixedClasses });
  try {
    const data = yield* readData(reader, options);
    const sampled = yield* sampledExamples(reader, data.held, options);
    const labels = reader.labels();
    const labelled = labels ? relabelled(base, labels) : base;
    const isAsMade = labelled.config === base.config && !reader.hasImages();
    const own = isAsMade ? subject : await subjectOf(labelled, reader.hasImages());
    yield* trainingOn(data, sampled, reader, own, labelled, options, runtime, signal);
  } finally {
    await reader.close();
  }
}

/** The training, and what is checked when the data are known. */
async function* trainingOn(
  data: Datasets,
  sampled: readonly Example[],
  reader: DataReader,
  subject: Subject,
  base: AnyBase,
  options: RunOptions,
  { files, openSession, memoryBytes, collect, version, environment, ...runtime }: Runtime,
  signal: AbortSignal | undefined,
): AsyncGenerator<FinetuneEvent, void, void> {
  const { rows, maxLength } = reader;
  const { method, seed, batchSize, gradientAccumulation, threads } = options;
  const { checkpoint, config } = base;
  const packLength = options.packing ? maxLength : undefined;
  const feed = await feedRows(rows(data.train.examples, packLength), { batchSize, gradientAccumulation, seed });
  const evalBatches = evaluationBatches(rows(data.held?.examples ?? inMemory([]), packLength), batchSize);
  const steps = options.steps ?? Math.ceil(options.epochs! * feed.stepsPerEpoch);
  const perEpoch = Math.min(steps, feed.stepsPerEpoch);
  function* sizes(): Generator<BatchSize> {
    for (let step = 0; step < perEpoch; step++) yield* feed.sizes(step);
    yield* evalBatches.sizes;
  }
  const loss = lossOf(config, shapeOf(sizes()));
  const batches = peakMemory(subject.graph(loss), subject.trainable, sizes());
  const training = withImagesKept(batches, reader.images?.bytes ?? 0);
  const memory = sampled.length > 0 ? withGenerator(training, forwardGraph(config)) : training;
  const disk = diskBytes(subject.trainable, subject.resultBytes, options.keepCheckpoints + (data.held ? 1 : 0));
  const warnings = await checkMachine({ memory, used: memoryBytes?.() ?? 0, disk }, options, runtime);
  const prepared = {
    modules: subject.modules,
    trainable: subject.trainable,
    parameters: countParameters(config),
    train: data.train.report,
    eval: data.held?.report ?? null,
    memory,
    disk,
    warnings,
  };
  yield { type: "prepared", ...prepared };

  const theta = await subject.theta();
  const objective = await subject.open({ checkpoint, loss, openSession, threads });
  const { adapterOf } = subject;
  const reading = { files, decodeImage: runtime.decodeImage };
  const sampler =
    adapterOf && sampled.length > 0
      ? makeSampler(languageModel(base), sampled, { openSession, threads, reading, adapterOf, images: reader })
      : undefined;
  try {
    const log = await openRunLog(files, options.output);
    const run = train({
      objective,
      theta,
      feed,
      steps,
      seed,
      optimizer: optimizerOf(options, steps),
      evaluation: data.held && {
        batches: evalBatches,
        every: options.evalEvery ?? perEpoch,
        early: earlyOf(options),
        sample: sampler?.sample,
      },
      output: {
        files,
        folder: options.output,
        // Steps that a checkpoint covers are never trained again, so they are in the log before it is there.
        saveWeights: async (folder, trained) => {
          await log.flush();
          await subject.saveWeights(folder, trained);
        },
        checkpointEvery: options.checkpointEvery,
        checkpointMinutes: options.checkpointMinutes,
        keepCheckpoints: options.keepCheckpoints,
        loadBest: options.loadBest,
        resume: options.resume,
      },
      facts: { method, base: await base.fingerprint(), ...subject.facts },
      signal,
      memoryBytes,
    });
    const withoutNames = <R extends ExampleReport>(report: R) => ({ ...report, classes: report.classes?.length });
    const logged = { ...prepared, train: withoutNames(prepared.train), eval: prepared.eval && withoutNames(prepared.eval) };
    yield* logEvents(log, begun(run));
    /** The trainer has accepted the options when it says that it starts, and has saved nothing yet. */
    async function* begun(events: typeof run): typeof run {
      for await (const event of events) {
        if (event.type === "start") {
          const kept = await writeRun(files, options, data.train.report.prompts);
          await log.add({ type: "run", lowrank: version ?? null, environment: environment?.(), options: kept, prepared: logged });
        }
        // What preparing and saving leave behind is large, and would wait for thousands of steps.
        if (event.type === "start" || event.type === "checkpoint") collect?.();
        yield event;
      }
    }
  } finally {
    await sampler?.close();
    await objective.close();
  }
}

/** Fails if the options are for another task than the base's. */
function checkTask(
  { config, checkpoint }: AnyBase,
  { task, packing, samples, trainOn, batchSize, ...columns }: RunOptions,
): void {
  const own = taskOf(config);
  const refuse = refuserOf("train/option", config);
  if (task !== undefined && task !== own) {
    refuse("task", own, task, `Use a base for ${taskText[task]}, or leave out task: ${checkpoint.folder} says it.`);
  }
  checkColumns(own, columns);
  if (own === "causal-lm") return;
  if (packing) refuse("packing", "an example a row", "true", "Leave out packing.");
  if (samples !== 0) refuse("samples", "no texts to show", String(samples), "Leave out samples.");
  if (trainOn !== "completion") refuse("trainOn", "no choice of tokens", trainOn, "Leave out trainOn.");
  // The loss of a pair among itself is 0, whatever θ is.
  if (own === "contrastive" && batchSize < 2)
    refuse("batchSize", "2 pairs or more, to choose among", String(batchSize), "Raise it.");
}

async function* readData(
  reader: DataReader,
  { data, evalData, evalSplit, seed }: RunOptions,
): AsyncGenerator<ReadingEvent, Datasets, void> {
  if (evalSplit !== undefined) return yield* reader.split(data, evalSplit, seed);
  const train = yield* reader.read(data);
  return withShared({ train, held: evalData === undefined ? undefined : yield* reader.read(evalData) });
}

/** The examples whose prompts are continued at every evaluation. */
async function* sampledExamples(
  reader: DataReader,
  held: Dataset | undefined,
  { samples }: RunOptions,
): AsyncGenerator<ReadingEvent, Example[], void> {
  const examples = typeof samples === "number" ? (held?.examples ?? inMemory([])) : (yield* reader.read(samples)).examples;
  const count = Math.min(examples.length, typeof samples === "number" ? samples : MAX_SAMPLES);
  return examples.read(Array.from({ length: count }, (_, i) => i));
}

const earlyOf = ({ patience, minDelta }: RunOptions) => (patience === undefined ? undefined : { patience, minDelta });

const optimizerOf = ({ learningRate, schedule, weightDecay, maxGradNorm, loraPlusRatio, warmup }: RunOptions, steps: number) => ({
  ...optimizerDefaults,
  learningRate: learningRate!,
  schedule,
  weightDecay,
  maxGradNorm: maxGradNorm === 0 ? undefined : maxGradNorm,
  loraPlusRatio,
  warmupSteps: warmup < 1 ? Math.ceil(warmup * steps) : warmup,
});
