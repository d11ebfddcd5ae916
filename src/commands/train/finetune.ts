// From a base folder and a data file to a trained adapter or model: what can fail cheaply is checked first, then `train` runs.

import { initializationOf } from "../../adapters/initializations.ts";
import { lengthOfTheta } from "../../adapters/layout.ts";
import { openAdapter } from "../../adapters/peft-files.ts";
import { pace, reports, stopwatch } from "../../clock.ts";
import { evaluationBatches } from "../../data/collate.ts";
import type { Dataset, ExampleReport } from "../../data/dataset.ts";
import { inMemory } from "../../data/store.ts";
import type { BatchSize, Example, RunIdentity } from "../../data/types.ts";
import { alone } from "../../distributed/communicator.ts";
import { agreed, tell } from "../../distributed/exchange.ts";
import { LowrankError } from "../../errors.ts";
import { entryOf } from "../../formats/checkpoint.ts";
import { plainDType } from "../../formats/stored.ts";
import { whole } from "../../graph/stages.ts";
import { type AnyBase, languageModel, openBase, relabelled } from "../../models/base.ts";
import { countParameters, forwardGraph, type ModelConfig } from "../../models/registry.ts";
import { pick } from "../../options.ts";
import { onDevice } from "../../platform/devices.ts";
import type { Platform } from "../../platform/platform.ts";
import type { DeviceName } from "../../runtime/devices.ts";
import { gainsByIntegers } from "../../runtime/speed.ts";
import { checkColumns, checkOwnOptions, optionMismatch, prepareBase, type TaskName } from "../../tasks/index.ts";
import type { Task } from "../../tasks/task.ts";
import { watchBase } from "../../train/base-watch.ts";
import { dataLoader } from "../../train/data-loader.ts";
import { type DataReader, type Datasets, dataReader, type ReadingEvent, shapeOf, withShared } from "../../train/datasets.ts";
import { evaAdapter } from "../../train/eva.ts";
import { lossMeasure, runEach } from "../../train/evals.ts";
import { chooseExecution, type Execution, type ExecutionNeeds, passTokensOf, wholeEstimate } from "../../train/execution.ts";
import { diskBytes, type MemoryEstimate, thetaMemory, withBeside } from "../../train/memory.ts";
import { openObjective } from "../../train/objective.ts";
import { optimizers } from "../../train/optimizer.ts";
import { type FinetuneOptions, type RunOptions, usualLearningRate, withTextTokens } from "../../train/options.ts";
import { outputFiles } from "../../train/output-files.ts";
import { availableMemory, checkMachine, checkOutput, makeOutput } from "../../train/preflight.ts";
import { withSuggestedRanks } from "../../train/ranks-from.ts";
import { readOptions, readWeightRecords, writeRun } from "../../train/run-file.ts";
import { logEvents, openRunLog } from "../../train/run-log.ts";
import { MAX_SAMPLES, makeSampler } from "../../train/samples.ts";
import { sizesTogether, together } from "../../train/together.ts";
import { type TrainableModel, trainableModels } from "../../train/trainable-model.ts";
import { optimizerDefaults, type TrainEvent, train } from "../../train/trainer.ts";

/** Begins the names of files with tokens that do not fit into memory; they are in the output folder while a run goes on. */
const SPILL_NAME = ".examples";

/** Between two reports of how far weights are converted. */
const CONVERTING_SECONDS = 1;
/** Trained parameters whose saving leaves 12 MB of buffers: a collection, of 15 ms and more, is worth it. */
const MANY_PARAMETERS = 1e6;

/** What `finetune` reports: how far it has read long files, what it is about to train, how far the base is converted, then the events of the training. */
export type FinetuneEvent = ReadingEvent | ({ type: "prepared" } & Prepared) | ConvertingEvent | TrainEvent;

/** How far the base's weights are converted for the cache, in bytes. */
interface ConvertingEvent {
  type: "converting";
  done: number;
  total: number;
  seconds: number;
}

interface Prepared {
  /** How many modules are adapted; null when every weight is trained. */
  modules: number | null;
  /** Trained parameters, and those of the base. */
  trainable: number;
  parameters: number;
  train: ExampleReport;
  eval: ExampleReport | null;
  /** The share of padding among the tokens of batches, and what it would be with rows in the other order (groupByLength). */
  padding: { share: number; otherwise: number };
  /** Estimates, in bytes: memory at its peak, and what the output folder grows to. */
  memory: MemoryEstimate;
  /** How the graph is executed; null where the engine knows one way only. */
  execution: Pick<Execution, "memory" | "baseDtype" | "cache"> | null;
  /** What computes. */
  device: DeviceName;
  disk: number;
  /** What may go wrong on this machine. */
  warnings: string[];
}

/** The API's `finetune` (core.ts). */
export async function* finetune(
  { signal, ...wanted }: FinetuneOptions,
  host: Platform,
): AsyncGenerator<FinetuneEvent, void, void> {
  const { team = alone } = host;
  // One of the processes writes, and the folder with an earlier run's options need be there for that one alone.
  const isFirst = team.rank === 0;
  const read = await tell(team, 0, "options", async () =>
    withSuggestedRanks(host.files, await readOptions(host.files, wanted), host.adapterLimits),
  );
  const platform = await onDevice(host, read.device);
  const { files, openSession, memoryBytes, collect, version, environment, device = "cpu" } = platform;
  const opened = await openBase(files, read.base, platform.timeLimit);
  const given = read.adapter === undefined ? null : await openAdapter(files, read.adapter, platform.adapterLimits);
  const { name, task, base, adapter } = await prepareBase("train/option", opened, given, read);
  checkTask(base, name, task, read);
  const usual = usualLearningRate(read.method, countParameters(opened.config));
  const options = { ...(await withTextTokens(read, base.tokenizer)), task: name, learningRate: read.learningRate ?? usual };
  const trainable = (of: AnyBase, images: boolean, given = adapter): Promise<TrainableModel> =>
    trainableModels[options.method](files, of, options, {
      given,
      // Nothing is known of the batches yet: the loss for its weights alone.
      loss: task.loss(of.config, { maxTargets: 1, maxLength: 1, images }, options),
      ...(task.classes && { labels: of.config.labels }),
    });
  const early = await trainable(base, false); // for its checks: the data may bring other classes, or images
  const used = memoryBytes?.() ?? 0;
  await agreed(team, "memory for the adapter", () =>
    checkMachine({ memory: thetaMemory(early.trainable), used, disk: 0 }, options, { memoryLimits: platform.memoryLimits }),
  );

  const closing: (() => Promise<unknown> | undefined)[] = [];
  try {
    const output = isFirst ? await openOutput(platform, options) : undefined;
    if (output) closing.push(output.close);
    const writing = output?.files ?? files;

    const taskData = await task.data(base, { ...options, fixedClasses: options.adapter !== undefined }, platform);
    const reader = dataReader(writing, taskData, {
      spill: `${isFirst ? `${options.output}/` : `${platform.temporaryFolder}/lowrank-${crypto.randomUUID()}`}${SPILL_NAME}`,
      strictText: options.strictText,
      signal,
      team,
    });
    closing.push(reader.close);
    const data = yield* readData(reader, options);
    const shown = yield* sampledExamples(reader, data.held, options); // of a file, all processes read it together
    const sampled = isFirst ? shown.map((one) => taskData.sampled?.(one) ?? one) : [];
    const labels = reader.labels();
    const labelled = labels ? relabelled(base, labels) : base;
    const drawn = labelled === base && !reader.hasImages() ? early : await trainable(labelled, reader.hasImages());

    const { seed, batchSize, gradientAccumulation, groupByLength, threads = platform.threads } = options;
    const packLength = options.packing ? reader.maxLength : undefined;
    const rows = reader.collate(data.train.examples, packLength);
    const heldRows = reader.collate(data.held?.examples ?? inMemory([]), packLength);
    const loading = { batchSize, gradientAccumulation, seed, bucket: groupByLength };
    const planned = await dataLoader(rows, loading);
    const meeting = team.size > 1 ? task.meeting : undefined;
    const passTokens = passTokensOf(task, options.method, device);
    const how = { together: meeting !== undefined, passTokens };
    const own = planned.shared(team, how);
    const steps = options.steps ?? Math.ceil(options.epochs! * planned.stepsPerEpoch);
    const perEpoch = Math.min(steps, planned.stepsPerEpoch);
    const heldSizes = evaluationBatches(heldRows, batchSize, passTokens).sizes;
    function* sizes(): Generator<BatchSize> {
      for (let step = 0; step < perEpoch; step++) yield* own.sizes(step);
      yield* heldSizes;
    }
    const loss = task.loss(labelled.config, { ...shapeOf(sizes()), ...(meeting && { meets: true }) }, options);
    const generator = sampled.length > 0 ? forwardGraph(labelled.config) : null;
    const first = async (step: number) => (await planned.microBatches(step))[0]!;
    /** An adapter whose layers' inputs choose its ranks is made before anything is estimated. */
    const chosen = async (): Promise<TrainableModel> => {
      if (options.method !== "lora" || adapter || !initializationOf(options.init).fromInputs) return drawn;
      const { theta, adapterOf } = await drawn.start();
      return trainable(
        labelled,
        reader.hasImages(),
        await evaAdapter(adapterOf!(theta), labelled, loss, first, { openSession, threads, stages: platform.stages }),
      );
    };
    const model = await chosen();
    const graph = model.graph(loss);
    const needs: ExecutionNeeds = {
      graph,
      entries: model.entries,
      trainable: lengthOfTheta(model.entries),
      dtypeOf: (weight) => entryOf(labelled.checkpoint, weight)?.dtype,
      plainDTypeOf: (weight) => plainDType(entryOf(labelled.checkpoint, weight)),
      integers:
        options.baseDtype === "int8" && (await tell(team, 0, "speed of integers", () => gainsByIntegers(openSession, threads))),
      sizes: meeting ? () => sizesTogether(sizes(), meeting, loss, team.size) : sizes,
      beside: (estimate) => withBeside(estimate, reader.images?.bytes ?? 0, generator),
      available: availableMemory(platform),
      device,
    };
    const execution = platform.stages ? chooseExecution(options, needs) : null;
    const memory = execution?.estimate ?? wholeEstimate(options, needs);
    const disk = diskBytes(lengthOfTheta(model.entries), model.resultBytes, options.keepCheckpoints + (data.held ? 1 : 0));
    const byBatch = model.batchWarnings ? model.batchWarnings((await planned.microBatches(0))[0]!.feeds) : [];
    const prepared: Prepared = {
      modules: model.modules,
      trainable: model.trainable,
      parameters: countParameters(labelled.config),
      train: data.train.report,
      eval: data.held?.report ?? null,
      padding: planned.padding(how),
      memory,
      execution: execution && pick(execution, "memory", "baseDtype", "cache"),
      device,
      disk,
      warnings: [
        ...model.warnings,
        ...byBatch,
        ...(await agreed(team, "memory and disk", () =>
          checkMachine({ memory, used: memoryBytes?.() ?? 0, disk }, options, {
            ...platform,
            ...(!isFirst && { freeDisk: undefined }), // one process writes; the output folder need not be there on other machines
          }),
        )),
      ],
    };
    yield { type: "prepared", ...prepared };

    const known = output?.resumed ? await readWeightRecords(files, options.output) : undefined;
    const watch = watchBase(files, labelled, platform.digest, known);
    closing.push(watch.close);

    const { entries, dropout, beside } = model;
    const { program = whole(graph), streamed } = execution ?? {};
    const converting = reports<ConvertingEvent>();
    const onConverted = convertingReports(converting.add, signal, labelled.checkpoint.folder);
    let waited = 0;
    const onWaited = (seconds: number) => {
      waited += seconds;
    };
    const engine = {
      checkpoint: labelled.checkpoint,
      loss,
      openSession,
      threads,
      streamed,
      first: () =>
        planned
          .shared(alone, how)
          .microBatches(0)
          .then(([part]) => part!),
      onConverted,
      ...(streamed && { onWaited }),
    };
    const opening = openObjective({ graph, program, entries, dropout, beside }, engine);
    // What fails is thrown where it is awaited.
    const close = opening.then(
      (objective) => objective.close,
      () => undefined,
    );
    closing.push(async () => (await close)?.());
    const started = await model.start();
    const { theta, adapterOf } = started;
    const plain = yield* converting.during(opening);
    const objective = meeting ? together(plain, meeting, team, loss) : plain;
    const off = task.prepare && (await started.off(theta));
    const start = { batchSize, passTokens, run: runEach((batch) => objective.evaluate(batch, off!), team) };
    const [trainRows, evalRows] = task.prepare
      ? [await task.prepare(rows, start), await task.prepare(heldRows, start)]
      : [rows, heldRows];
    const sampling = { openSession, threads, reading: platform, images: reader };
    const isSampled = adapterOf && sampled.length > 0;
    const sampler = isSampled ? makeSampler(languageModel(labelled), sampled, { ...sampling, adapterOf }) : undefined;
    if (sampler) closing.push(sampler.close);
    const { checkpointEvery, checkpointMinutes, keepCheckpoints, loadBest, resume } = options;
    const kept = { checkpointEvery, checkpointMinutes, keepCheckpoints, loadBest, resume };
    const log = output ? await openRunLog(writing, options.output) : undefined;
    const run = train({
      objective,
      theta,
      loader: task.prepare ? (await dataLoader(trainRows, loading)).shared(team, how) : own,
      steps,
      seed,
      unit: task.unit,
      optimizer: optimizerOf(options, steps),
      evaluation: data.held && {
        batches: evaluationBatches(evalRows, batchSize, passTokens),
        measure: () => measureOf(task, data.held!, labelled.config, { openSession, threads }),
        every: options.evalEvery ?? perEpoch,
        early: options.patience === undefined ? undefined : { patience: options.patience, minDelta: options.minDelta },
        sample: sampler?.sample,
      },
      output: log && {
        files: writing,
        digest: platform.digest,
        folder: options.output,
        // Steps that a checkpoint covers are never trained again, so they are in the log before it is there.
        saveWeights: async (to, folder, trained) => {
          await log.flush();
          await started.saveWeights(to, folder, trained);
        },
        ...kept,
      },
      facts: {
        method: options.method,
        task: name,
        ...ownOptions(task, options),
        base: await labelled.fingerprint(),
        ...started.facts,
        ...(execution?.isRounded && { baseDtype: `${execution.baseDtype}${needs.integers ? " as integers" : ""}` }),
      },
      team,
      signal,
      secondsLeft: platform.secondsLeft,
      memoryBytes,
      waitedSeconds: streamed ? () => waited : undefined,
      check: watch.check,
    });
    // The first step is computed while the base is read.
    const begun = run.next();
    const end = begun.then(
      () => () => run.return(),
      () => undefined,
    );
    closing.push(async () => (await end)?.());
    const weights = await watch.read();
    const logged = { ...prepared, train: withoutNames(prepared.train), eval: prepared.eval && withoutNames(prepared.eval) };
    async function* recorded(): AsyncGenerator<TrainEvent, void, void> {
      for (let next = await begun; !next.done; next = await run.next()) {
        const event = next.value;
        // The trainer has accepted the options when it says that it starts, and has saved nothing yet.
        if (log && event.type === "start") {
          const stored = await writeRun(writing, options, data.train.report.prompts, weights);
          const ran = { lowrank: version ?? null, environment: environment?.(), options: stored, prepared: logged };
          await log.add({ type: "run", ...ran });
        }
        // The buffers that preparing and saving leave behind grow with θ, and would wait for thousands of steps.
        const leavesBuffers = event.type === "checkpoint" || (event.type === "start" && event.resumedFrom !== null);
        if (leavesBuffers && prepared.trainable >= MANY_PARAMETERS) collect?.();
        yield event;
      }
    }
    yield* log ? logEvents(log, recorded()) : recorded();
  } finally {
    await closeAll(closing.reverse());
  }
}

/** The output folder, made and held, with what the run writes there, and the checkpoint that it goes on from. */
async function openOutput({ files, lock }: Platform, options: RunOptions) {
  const { output } = options;
  const isNew = !(await files.exists(output));
  await makeOutput(files, options);
  const held = await lock?.(output);
  const close = async () => {
    const isOwn = (await held?.release()) ?? true;
    // A run that was refused leaves no folder behind.
    if (isNew && isOwn && (await files.list(output)).length === 0) await files.remove(output);
  };
  try {
    const writing = await outputFiles(files, output, held);
    return { files: writing, resumed: await checkOutput(writing, options), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Closes all of it, whatever fails. */
async function closeAll(closing: readonly (() => Promise<unknown> | undefined)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of closing) await Promise.resolve(close()).catch((error) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}

/** Reports now and then how far weights are converted, until `signal` fires: it ends the run. */
function convertingReports(add: (event: ConvertingEvent) => void, signal: AbortSignal | undefined, subject: string) {
  const [elapsed, isDue] = [stopwatch(), pace(CONVERTING_SECONDS)];
  return ({ done, total }: { done: number; total: number }): void => {
    if (signal?.aborted) {
      const next = "Run it again from the start; nothing is lost.";
      throw new LowrankError("train/stopped", "stopped while weights were converted", { subject, next, exitCode: 1 });
    }
    if (isDue()) add({ type: "converting", done, total, seconds: elapsed() });
  };
}

/** The task's own options, as given, in one fact; none where it has none. */
function ownOptions(task: Task, options: Readonly<Record<string, unknown>>): RunIdentity {
  if (!task.options) return {};
  return { options: JSON.stringify(Object.fromEntries(Object.keys(task.options).map((name) => [name, options[name]]))) };
}

const withoutNames = <R extends ExampleReport>(report: R) => ({ ...report, classes: report.classes?.length });

/** What a task logs of an evaluation: the loss, and its figures if it has any. */
function measureOf(task: Task, { examples }: Dataset, { labels }: ModelConfig, engine: Parameters<Task["measure"]>[0]["engine"]) {
  const { figures } = task;
  if (!figures) return lossMeasure();
  const measure = task.measure({ examples, labels, engine });
  const score = async () => {
    const found = await measure.score();
    return { loss: found.loss, ...figures(found) };
  };
  return { add: measure.add, score };
}

/** Fails if the options are for another task than that of the run. */
function checkTask(base: AnyBase, name: TaskName, task: Task, options: RunOptions): void {
  const { packing, samples, trainOn, batchSize } = options;
  const refuse = (subject: string, expected: string, got: string, next: string): never => {
    throw optionMismatch("train/option", base.config, name, { subject, expected, got, next });
  };
  checkColumns(name, options);
  checkOwnOptions("train/option", base.config, name, options);
  const takes = (option: Task["takes"][number]) => task.takes.includes(option);
  if (packing && !takes("packing")) refuse("packing", "an example a row", "true", "Leave out packing.");
  if (samples !== 0 && !takes("samples")) refuse("samples", "no texts to show", String(samples), "Leave out samples.");
  if (trainOn !== "completion" && !takes("trainOn")) refuse("trainOn", "no choice of tokens", trainOn, "Leave out trainOn.");
  const { fewestRows = 1 } = task;
  if (batchSize < fewestRows) refuse("batchSize", `${fewestRows} pairs or more, to choose among`, String(batchSize), "Raise it.");
  task.check?.(base, options);
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

const optimizerOf = (options: RunOptions, steps: number) => {
  const { optimizer, learningRate, schedule, weightDecay, maxGradNorm, loraPlusRatio, warmup } = options;
  return {
    ...optimizerDefaults,
    optimizer,
    eps: optimizers[optimizer].eps,
    learningRate: learningRate!,
    schedule,
    weightDecay,
    maxGradNorm: maxGradNorm === 0 ? undefined : maxGradNorm,
    loraPlusRatio,
    warmupSteps: warmup < 1 ? Math.ceil(warmup * steps) : warmup,
  };
};
