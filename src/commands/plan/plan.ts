// What training a model would take, from its config.json alone: what is adapted, parameters, sizes of files, memory, time.

import { z } from "zod";
import type { LoraConfig } from "../../adapters/config.ts";
import { layoutOf, lengthOfTheta, trainedEntries } from "../../adapters/layout.ts";
import { type AdapterModule, matchModules, rankWarnings } from "../../adapters/match.ts";
import type { TensorGroup } from "../../adapters/method.ts";
import { methodOf } from "../../adapters/method-table.ts";
import { adapterBytes } from "../../adapters/peft-files.ts";
import { storedShape } from "../../adapters/places.ts";
import { plainModules } from "../../adapters/residual.ts";
import { savedWeights } from "../../adapters/saved.ts";
import { passesOf } from "../../data/collate.ts";
import type { BatchSize } from "../../data/types.ts";
import { isGguf, openGguf } from "../../formats/gguf/checkpoint.ts";
import { plainDType } from "../../formats/stored.ts";
import { type Graph, nodesOf } from "../../graph/graph.ts";
import { withHeadBeside } from "../../models/base.ts";
import {
  allModulesOf,
  countParameters,
  forwardGraph,
  type ModelConfig,
  modelConfig,
  storedNamesOf,
  visionOf,
  withHead,
  withLayers,
} from "../../models/registry.ts";
import { checkCounts, type Given, option, pick } from "../../options.ts";
import { onDevice } from "../../platform/devices.ts";
import type { Platform } from "../../platform/platform.ts";
import type { DeviceName } from "../../runtime/devices.ts";
import { measureFlops } from "../../runtime/speed.ts";
import { attentionBlocksOf, lossChunksOf } from "../../tasks/common/losses.ts";
import { lengthLimit } from "../../tasks/common/tokenizer-checks.ts";
import { chooseTask, headOf, taskOf, taskOptions } from "../../tasks/index.ts";
import type { Task } from "../../tasks/task.ts";
import { chooseExecution, type Execution, type ExecutionNeeds, passTokensOf, wholeEstimate } from "../../train/execution.ts";
import { deviceMemory, diskBytes, flopsOf, lengthsOfBatch, type MemoryEstimate } from "../../train/memory.ts";
import { optimizers } from "../../train/optimizer.ts";
import { completeOptions, loraConfigOf, methodOptions, type RunOptions, runOptions } from "../../train/options.ts";
import { availableMemory, checkMachine } from "../../train/preflight.ts";
import type { TrainableModel } from "../../train/trainable-model.ts";
import { fullEntries, fullGraph, loraGraph } from "../../train/training-graph.ts";
import { type ClusterPlan, clusterOptions, planCluster } from "./cluster.ts";

/** The options of a run that its plan depends on, with the same defaults. */
export const plannedOptions = {
  ...pick(runOptions, "task", "method", "rank", "dropout", "targetModules", "excludeModules", "targetParameters"),
  ...pick(runOptions, "layersToTransform", "layerReplication", "rankPattern", "init"),
  ...methodOptions,
  ...pick(runOptions, "modulesToSave", "trainableTokenIndices", "ensureWeightTying", "bias"),
  ...taskOptions,
  ...pick(
    runOptions,
    "maxLength",
    "epochs",
    "batchSize",
    "gradientAccumulation",
    "optimizer",
    "keepCheckpoints",
    "baseDtype",
    "memory",
    "device",
    "threads",
  ),
  examples: option(z.number().optional(), { help: "number of training examples, to estimate the run's duration" }),
  ...clusterOptions,
};
export type PlanOptions = Given<typeof plannedOptions>;

/** Adapted modules that differ by their layer's number only. */
export interface PlannedGroup {
  /** Their path, with * for the number of the layer. */
  name: string;
  count: number;
  inFeatures: number;
  outFeatures: number;
  rank: number;
  /** Trained parameters of all of them. */
  parameters: number;
}

export interface Plan {
  modelType: string;
  method: RunOptions["method"];
  /** How many modules are adapted; null when every weight is trained. */
  modules: number | null;
  trainableParameters: number;
  baseParameters: number;
  groups: PlannedGroup[];
  /** Size of the weight file that is written at the end, and what the output folder grows to. */
  resultBytes: number;
  outputBytes: number;
  batchSize: number;
  maxLength: number;
  gradientAccumulation: number;
  /** Peak memory in bytes when every row has `maxLength` tokens and each of them is a target. */
  memory: MemoryEstimate;
  /** How a run would be executed; null where the engine knows one way only. */
  execution: Pick<Execution, "memory" | "baseDtype" | "cache"> | null;
  /** What computes. */
  device: DeviceName;
  /** What of the peak memory lies on the device; null for the processor. */
  deviceMemory: number | null;
  /** The same at other sizes, executed in the same way. */
  memoryAt: { batchSize: number; maxLength: number; total: number }[];
  /** Memory of this machine that is free, and all of it; null where the host does not report it. */
  machine: { available: number; total: number } | null;
  warnings: string[];
  /** Estimates for rows of `maxLength` tokens on this machine, as busy as it is. `seconds` and `steps` need `examples`. */
  time: {
    flopsPerStep: number;
    flopsPerSecond: number;
    secondsPerStep: number;
    tokensPerSecond: number;
    steps: number | null;
    seconds: number | null;
  };
  /** The same step in several processes; null without `processes`. */
  cluster: ClusterPlan | null;
}

/** Sizes for which a plan estimates the memory, beside those asked for. */
const BATCH_SIZES = [1, 4, 16];
const LENGTHS = [128, 512, 2048];

/**
 * The plan of training the model that `json`, the content of a config.json, describes; `file` is what errors call it. The
 * errors are those of a run: `model/*`, `lora/*`, `train/option`.
 */
export async function planTraining(
  json: Record<string, unknown>,
  { examples, processes, perMachine = 1, network = 10e9, latency = 5e-5, ...given }: PlanOptions,
  host: Pick<Platform, "files" | "openSession" | "stages" | "memoryLimits" | "memoryBytes" | "device" | "devices">,
  file = "config.json",
): Promise<Plan> {
  const runtime = await onDevice(host, given.device);
  const { device = "cpu" } = runtime;
  const read = modelConfig(json, file);
  const folder = /^(.*)\/config\.json$/.exec(file)?.[1];
  const gguf = folder !== undefined && isGguf(folder) ? await openGguf(runtime.files, folder) : null;
  const described = folder === undefined ? read : await withHeadBeside(runtime.files, folder, read);
  const completed = completeOptions({ ...given, base: "-", data: "-", output: "-" });
  const options = { ...completed, task: chooseTask("train/option", described, completed.task) };
  const task = taskOf(options.task);
  const config = withLayers(withHead(described, headOf(task, options), new Map()), options.layerReplication);
  const { method, batchSize, gradientAccumulation } = options;
  checkCounts("train/option", { examples });
  checkCounts("train/option", { maxLength: options.maxLength }, { least: 2 });
  // An image has as many tokens as its model cuts it into.
  const isFixed = config.vocabSize === 0;
  const maxLength = isFixed ? config.maxPositions : lengthLimit(options.maxLength, config);
  const { modules, entries, trainable, resultBytes, graph } = planned[method](config, options, task);

  // One graph serves all sizes with the same blocks of attention and chunks of the loss: making it takes most of the time.
  const graphs = new Map<string, Graph>();
  const graphAt = ({ width, targets }: BatchSize): Graph => {
    const key = `${attentionBlocksOf(width)} ${lossChunksOf(targets)}`;
    const known = graphs.get(key) ?? graph(task.loss(config, shapeOf(config, width, targets), options));
    graphs.set(key, known);
    return known;
  };
  const names = gguf && storedNamesOf(config, forwardGraph(config), gguf.tensors);
  /** A weight in the GGUF file that is planned for. */
  const inFile = (weight: string) => gguf?.tensors.get(names?.get(weight) ?? weight);
  const passTokens = passTokensOf(task, method, device);
  /** The largest part of a batch of so many full rows that is computed at once. */
  const passOf = (rows: number, width: number): BatchSize => {
    const size = (of: readonly number[]) => fullBatch(config, task, of.length, width);
    const all = Array.from({ length: rows }, (_, row) => row);
    const [largest] = passesOf({ size, lengths: new Int32Array(rows).fill(width) }, all, passTokens);
    return size(largest!);
  };
  const needsOf = (rows: number, width: number): ExecutionNeeds => ({
    graph: graphAt(passOf(rows, width)),
    entries,
    trainable: lengthOfTheta(entries),
    dtypeOf: (weight) => (gguf ? inFile(weight)?.dtype : config.dtype),
    plainDTypeOf: (weight) => (gguf ? plainDType(inFile(weight)) : config.dtype),
    integers: options.baseDtype === "int8",
    sizes: () => [passOf(rows, width)],
    available: availableMemory(runtime),
    device,
  });
  const execution = runtime.stages ? chooseExecution(options, needsOf(batchSize, maxLength)) : null;
  /** The estimate of another size, executed as the run would be. */
  const memoryOf = (rows: number, width: number): MemoryEstimate => {
    const needs = needsOf(rows, width);
    return execution ? chooseExecution(execution, needs).estimate : wholeEstimate(options, needs);
  };
  const memory = memoryOf(batchSize, maxLength);
  const outputBytes = diskBytes(lengthOfTheta(entries), resultBytes, options.keepCheckpoints);
  const needs = { memory, used: runtime.memoryBytes?.() ?? 0, disk: outputBytes };
  const warnings = [
    ...rankWarnings(modules ?? []),
    ...headWarning(config),
    ...(visionOf(config) ? ["counted with one image a row; a split image counts as each of its tiles"] : []),
    ...(await checkMachine(needs, { output: "-", force: true }, { memoryLimits: runtime.memoryLimits })),
  ];
  const lengths = (isFixed ? [maxLength] : among(LENGTHS, maxLength)).filter((length) => length <= config.maxPositions);
  const memoryAt = lengths.flatMap((length) =>
    among(BATCH_SIZES, batchSize).map((rows) => ({ batchSize: rows, maxLength: length, total: memoryOf(rows, length).total })),
  );

  const flopsPerSecond = await measureFlops(runtime.openSession, options.threads);
  /** Operations of so many rows in micro-batches, and their time in a process that has a part of its machine's cores. */
  const stepOf = (rows: number, perMachine = 1) => {
    const size = passOf(Math.min(rows, batchSize), maxLength);
    const passes = (rows * fullBatch(config, task, 1, maxLength).rows) / size.rows;
    const flops = passes * flopsOf(graphAt(size), lengthsOfBatch(size));
    const speed = options.threads === undefined ? flopsPerSecond / perMachine : flopsPerSecond;
    const nodes = Math.ceil(passes) * nodesOf(graphAt(size)).length;
    return { flops, seconds: flops / (EFFICIENCY * speed) + NODE_SECONDS * nodes, tokens: passes * size.rows * size.width };
  };
  const stepRows = gradientAccumulation * batchSize;
  const whole = stepOf(stepRows);
  const updateSeconds = PARAMETER_SECONDS * trainable;
  const secondsPerStep = whole.seconds + updateSeconds;
  const steps = examples === undefined ? null : stepsOf(examples, options);
  return {
    modelType: config.modelType,
    method,
    modules: modules?.length ?? null,
    trainableParameters: trainable,
    baseParameters: countParameters(config),
    groups: modules ? groupsOf(modules, loraConfigOf(options, task), optimizers[options.optimizer].constant) : [],
    resultBytes,
    outputBytes,
    batchSize,
    maxLength,
    gradientAccumulation,
    memory,
    execution: execution && pick(execution, "memory", "baseDtype", "cache"),
    device,
    deviceMemory: device === "cpu" ? null : deviceMemory(memory),
    memoryAt,
    machine: runtime.memoryLimits?.() ?? null,
    warnings,
    time: {
      flopsPerStep: whole.flops,
      flopsPerSecond,
      secondsPerStep,
      tokensPerSecond: whole.tokens / secondsPerStep,
      steps,
      seconds: steps && steps * secondsPerStep,
    },
    cluster:
      processes === undefined
        ? null
        : planCluster(
            { processes, perMachine, network, latency },
            {
              rows: stepRows,
              maxLength,
              trainable,
              memoryOf: (rows, perMachine) => {
                const needs = needsOf(Math.min(rows, batchSize), maxLength);
                const available = needs.available && needs.available / perMachine;
                return (
                  runtime.stages ? chooseExecution(options, { ...needs, available }).estimate : wholeEstimate(options, needs)
                ).total;
              },
              computeOf: (rows, perMachine) => stepOf(rows, perMachine).seconds,
              updateSeconds,
            },
          ),
  };
}

const shapeOf = (config: ModelConfig, maxLength: number, maxTargets = 1) => {
  return { maxTargets, maxLength, images: visionOf(config) !== undefined };
};

/** What is trained: a TrainableModel without weights. */
type Planned = Pick<TrainableModel, "entries" | "trainable" | "resultBytes" | "graph"> & { modules: AdapterModule[] | null };

const planned: Record<RunOptions["method"], (config: ModelConfig, options: RunOptions, task: Task) => Planned> = {
  lora: (config, options, task) => {
    const all = allModulesOf(forwardGraph(config));
    const lora = loraConfigOf(options, task);
    const modules = matchModules(all, lora, config.modelType);
    // A head that the model does not have is counted apart: headWarning.
    const saved = savedWeights(all, lora, modules).filter(({ name }) => !isNewHead(config, name));
    const trained = { config: lora, modules, saved, constant: optimizers[options.optimizer].constant };
    const entries = layoutOf(trained);
    return {
      modules,
      entries,
      trainable: lengthOfTheta(trainedEntries(entries)),
      resultBytes: adapterBytes({ ...trained, ...plainModules(trained) }, [], { task: options.task }),
      graph: (loss) => loraGraph(loss, trained, options.dropout > 0),
    };
  },
  full: (config, options, task) => {
    const entries = fullEntries(task.loss(config, shapeOf(config, 1), options));
    const trainable = lengthOfTheta(entries);
    const width = config.dtype === "float32" || config.dtype === null ? 4 : 2;
    return { modules: null, entries, trainable, resultBytes: trainable * width, graph: fullGraph };
  },
};

const isNewHead = ({ uninitializedHead: head }: ModelConfig, name: string): boolean =>
  head !== null && name.startsWith(`${head}.`);

/** What training adds to a model of another kind than the task needs, and the counts leave out. */
function headWarning(config: ModelConfig): string[] {
  const head = config.uninitializedHead;
  if (head === null) return [];
  const added = savedWeights(allModulesOf(forwardGraph(config)), { modulesToSave: [head], taskType: null });
  const parameters = lengthOfTheta(added);
  return [`config.json describes a model without ${head}: training adds one, ${parameters} parameters beside those counted`];
}

/** Steps of a run over so many examples; the last one of an epoch can have fewer micro-batches. */
const stepsOf = (examples: number, { batchSize, gradientAccumulation, epochs }: RunOptions): number =>
  Math.max(1, Math.ceil(epochs! * Math.ceil(Math.ceil(examples / batchSize) / gradientAccumulation)));

/** What the task says; or every token but the first of a row is a target, and a row has an image where the model reads any. */
function fullBatch(config: ModelConfig, { fullBatch: own }: Task, rows: number, width: number): BatchSize {
  if (own) return own(rows, width);
  const vision = visionOf(config);
  return { rows, width, targets: rows * Math.max(1, width - 1), ...(vision && { images: vision.attends ? 1 : rows }) };
}

/** `usual` with `own` in its place among them. */
const among = (usual: readonly number[], own: number): number[] => [...new Set([...usual, own])].sort((a, b) => a - b);

function groupsOf(modules: readonly AdapterModule[], lora: LoraConfig, constant: readonly TensorGroup[]): PlannedGroup[] {
  const { tensors } = methodOf(lora);
  const trained = (module: AdapterModule) => tensors(module, module.rank).filter(({ group }) => !constant.includes(group));
  const groups = new Map<string, PlannedGroup>();
  for (const module of modules) {
    const { path, inFeatures, outFeatures, rank } = module;
    const name = path.replace(/\.\d+\./, ".*.");
    const key = `${name} ${rank} ${inFeatures} ${outFeatures}`;
    const group = groups.get(key) ?? { name, count: 0, inFeatures, outFeatures, rank, parameters: 0 };
    const parameters =
      group.parameters + lengthOfTheta(trained(module).map((tensor) => ({ shape: storedShape(tensor, module) as number[] })));
    groups.set(key, { ...group, count: group.count + 1, parameters });
  }
  return [...groups.values()];
}

/** Share of the measured speed that the products of a step reach, with everything between them: docs/performance.md. */
const EFFICIENCY = 0.7;
/** What each node costs whatever its size, and each trained parameter in the optimizer. */
const NODE_SECONDS = 5e-6;
const PARAMETER_SECONDS = 5e-9;
