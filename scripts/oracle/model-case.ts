// A golden of kind "model": one tiny model, one adapter, one batch, and every number that Transformers and PEFT made of them.
import { z } from "zod";
import { attach, fitAdapter, mergeReplacements, mergeTargets } from "../../src/adapters/attach.ts";
import { parseAdapterConfig } from "../../src/adapters/config.ts";
import { firstTensors } from "../../src/adapters/init.ts";
import { gateFeeds } from "../../src/adapters/inject.ts";
import {
  layoutOf,
  lengthOfTheta,
  storedLayout,
  type Trained,
  trainedEntries,
  valuesOf,
  viewsOf,
} from "../../src/adapters/layout.ts";
import { frozenWeights, matchModules } from "../../src/adapters/match.ts";
import { mergedRows, mergeIntoCheckpoint, replacedRows } from "../../src/adapters/merge.ts";
import {
  ADAPTER_CONFIG_NAME,
  ADAPTER_WEIGHTS_NAME,
  type Adapter,
  frozenKey,
  readAdapter,
  writeAdapter,
} from "../../src/adapters/peft-files.ts";
import { ownName, savedWeights } from "../../src/adapters/saved.ts";
import { type Batch, total } from "../../src/data/types.ts";
import { LowrankError } from "../../src/errors.ts";
import { openCheckpoint, readWeights, storedName } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { fromFloat32, toFloat32 } from "../../src/formats/float.ts";
import { readJsonObject, readText } from "../../src/formats/json.ts";
import { check, type Graph, type Node, nodesOf, rewrite, type Value } from "../../src/graph/graph.ts";
import { type AnyBase, openBase, withLayersOf } from "../../src/models/base.ts";
import { forwardGraph, withLayers } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openGraph } from "../../src/runtime/open-graph.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { baseFor, taskOf } from "../../src/tasks/index.ts";
import type { BatchShape } from "../../src/tasks/task.ts";
import { float32, sizeOf, type Tensor } from "../../src/tensor.ts";
import { evaluateTheta } from "../../src/train/evals.ts";
import { memoryModes } from "../../src/train/execution.ts";
import type { Objective } from "../../src/train/objective.ts";
import { loraObjective } from "../../src/train/objective.ts";
import { optimizerNames, optimizers } from "../../src/train/optimizer.ts";
import type { StageOptions } from "../../src/train/stages.ts";
import { train } from "../../src/train/trainer.ts";
import { adaptedGraph } from "../../src/train/training-graph.ts";
import { type CaseTask, caseTask, forwardFeeds, labelledPrefixes, outputName } from "./case-task.ts";
import { type Checks, type Finding, limits, type Numbers, near, nearList, nearNumber, runChecks, same } from "./compare.ts";
import { batchPrefixes, joined, keysOf, numbersOf, parseMeta, partsOf, readTensors, thetaOf } from "./golden.ts";
import { converted, residualBase } from "./residual-case.ts";
import { inTemporaryFolder } from "./temporary.ts";

const modelMeta = z.object({
  task: z.string().default("causal"), // of a language model's golden it need not be said
  task_options: z.record(z.string(), z.unknown()).default({}),
  outputs: z.array(z.string()).min(1),
  micro_batches: z.int().min(1),
  train: z.object({
    optimizer: z.enum([...optimizerNames, "loraplus"]),
    steps: z.int().min(1),
    lr: z.number(),
    betas: z.tuple([z.number(), z.number()]),
    eps: z.number(),
    weight_decay: z.number(),
    schedule: z.enum(["constant", "linear", "cosine"]),
    warmup_steps: z.int(),
    max_grad_norm: z.number().nullable(),
    loraplus_lr_ratio: z.number().optional(),
  }),
  loss: z.number(),
  losses: z.array(z.number()),
  lrs: z.array(z.number()),
  grad_norms: z.array(z.number()),
  loss_after: z.number(),
  trainable_parameters: z.int(),
  trainable_tensors: z.int(),
});

interface ModelCase {
  openSession: OpenSession;
  folder: string;
  meta: z.output<typeof modelMeta>;
  io: Map<string, Tensor>;
  batches: Batch[];
  base: AnyBase;
  task: CaseTask;
  trained: Required<Trained>;
  /** The adapter as it begins by our own computation, where that depends on the base alone. */
  first: Adapter;
  /** Frozen weights of the base that its file holds. */
  frozen: string[];
  /** The adapter's tensors under their keys in its file, and first factors that are taken off the base. */
  adapter: Map<string, Tensor>;
}

/** What the training graph is built for: one piece, or attention and loss cut into several, as real lengths need. */
const SHORT: BatchShape = { maxTargets: 64, maxLength: 64 };
const LONG: BatchShape = { maxTargets: 2048, maxLength: 512 };

/** Every check of a case; each says what it compared. */
const checks: Checks<ModelCase> = {
  "trainable tensors": trainableTensors,
  outputs,
  training: (c) =>
    withObjective(c, SHORT, memoryModes.keep, async (objective) => [
      ...(await lossAndGradient(c, objective, "")),
      ...(await training(c, objective)),
    ]),
  merging: merged,
  "reduced base": ({ folder, base, first }) => residualBase(folder, base, first),
  "adapter files": adapterFiles,
  "older names": olderNames,
};

/** The same gradients in the other ways in which a training graph is executed. */
const executionChecks: Checks<ModelCase> = {
  "gradients in blocks": (c) =>
    withObjective(c, LONG, memoryModes.keep, (objective) => lossAndGradient(c, objective, " in blocks")),
  "gradients computed again": async (c) => {
    const { products, stream } = memoryModes;
    return [
      ...(await withObjective(c, SHORT, products, (objective) => lossAndGradient(c, objective, " with products kept"))),
      ...(await withObjective(c, SHORT, stream, (objective) => lossAndGradient(c, objective, " with nothing kept"))),
    ];
  },
  "gradients in one piece": (c) =>
    withObjective(c, SHORT, undefined, (objective) => lossAndGradient(c, objective, " in one piece")),
};

/** Compares everything in a case, in one execution of its training graph or in all. Throws `model/unsupported` or `lora/unsupported` for what is not built. */
export async function runModelCase(
  folder: string,
  meta: unknown,
  { openSession = openNodeSession, executions = "all" }: { openSession?: OpenSession; executions?: "all" | "one" } = {},
): Promise<Finding[]> {
  return runChecks(
    { ...checks, ...(executions === "all" && executionChecks) },
    await prepared({ openSession, ...(await openCase(folder, meta)) }),
  );
}

/** The base and the adapter's config are read first: what they ask for may not be built, whatever else is in the folder. */
async function openCase(folder: string, given: unknown): Promise<Omit<ModelCase, "openSession">> {
  const opened = await openBase(nodeFiles, `${folder}/base`);
  const meta = parseMeta(modelMeta, given);
  const task = caseTask(meta.task, opened);
  const adapterConfig = `${folder}/adapter/${ADAPTER_CONFIG_NAME}`;
  const lora = parseAdapterConfig(await readText(nodeFiles, adapterConfig), ADAPTER_CONFIG_NAME);
  const base = withLayersOf(baseFor(opened, task.task, meta.task_options), lora.layerReplication);
  const modules = matchModules(base.modules, lora, base.config.modelType);
  const io = await readTensors(`${folder}/io.safetensors`);
  const { constant } = optimizers[meta.train.optimizer === "loraplus" ? "adamw" : meta.train.optimizer];
  const trained = { config: lora, modules, saved: savedWeights(base.modules, lora, modules), constant };
  const first: Adapter = { config: lora, modules, tensors: await firstTensors(base, lora, modules, 0) };
  const initial = layoutOf(trained)
    .filter(({ group }) => group === "initial")
    .map((entry): [string, Tensor] => [entry.key, float32(entry.shape, valuesOf(first, entry)!)]);
  return {
    folder,
    meta,
    io,
    batches: labelledPrefixes(io).map((prefix) => task.batch(io, prefix, base.config)),
    base,
    task,
    trained,
    first,
    frozen: frozenWeights(lora, base.modules, modules),
    adapter: new Map([...initial, ...(await readTensors(`${folder}/adapter/${ADAPTER_WEIGHTS_NAME}`))]),
  };
}

/** What the configuration selects is what the file holds, in number and in shape. */
async function trainableTensors({ meta, base, trained, frozen, adapter, batches }: ModelCase): Promise<Finding[]> {
  const own = trainedEntries(layoutOf(trained));
  const beside = frozen.map(async (name) => {
    const { shape } = await readWeights(nodeFiles, base.checkpoint, name);
    return { key: frozenKey(name), shape };
  });
  const named = storedLayout(trained).flatMap((entry) => keysOf(entry).map((key) => ({ ...entry, key })));
  const shapes = [...named, ...(await Promise.all(beside))].map(({ key, shape }) => `${key} [${shape.join(", ")}]`).sort();
  const stored = [...adapter]
    .filter(([key]) => !/initial_[AB]/.test(key))
    .map(([key, { shape }]) => `${key} [${shape.join(", ")}]`);
  return [
    same("adapter tensors", shapes, stored.sort()),
    same(
      "counts",
      [own.flatMap(keysOf).length, lengthOfTheta(own), batches.length],
      [meta.trainable_tensors, meta.trainable_parameters, meta.micro_batches],
    ),
  ];
}

/** Every output of the base and with the adapter. */
async function outputs(given: ModelCase): Promise<Finding[]> {
  const { base, task, meta, trained, adapter, io } = given;
  const { config, checkpoint } = base;
  const forward = forwardGraph(config);
  const alone = forwardGraph(withLayers(config, null)); // a base whose layers are not used again
  const loss = task.lossOutputs && withLeavesOf(forward, lossOf(given, SHORT));
  const named = meta.outputs.map((name): [string, Value] => {
    const own = task.lossOutputs?.[name];
    return [name, own ? loss!.outputs[own.of]! : forward.outputs[outputName(name)]!];
  });
  const wanted = { outputs: Object.fromEntries(named) };
  const ofBase =
    alone === forward
      ? wanted
      : withLeavesOf(forward, {
          outputs: Object.fromEntries(meta.outputs.map((name) => [name, alone.outputs[outputName(name)]!])),
        });
  const { graph: adapted } = adaptedGraph(wanted, trained);
  const both = (graph: Graph, which: string) => Object.entries(graph.outputs).map(([name, value]) => [`${name}_${which}`, value]);
  const graph = check({ outputs: Object.fromEntries([...both(ofBase, "base"), ...both(adapted, "adapter")]) });
  const entries = layoutOf(trained);
  const theta = partsOf(entries, thetaOf(entries, adapter));
  const weights = Object.fromEntries(entries.map(({ key, shape }) => [key, float32(shape, theta.get(key)!)]));
  const session = await openGraph(graph, weightFiles(checkpoint), { openSession: given.openSession });
  const got = { base: new Map<string, Numbers>(), adapter: new Map<string, Numbers>() };
  const want = { base: new Map<string, Numbers>(), adapter: new Map<string, Numbers>() };
  try {
    for (const prefix of batchPrefixes(io)) {
      const batch = task.batch(io, prefix, config);
      const given = { ...forwardFeeds(task, batch), ...gateFeeds(trained.config, batch.feeds) };
      const results = await session.run({ ...readBy(graph, given), ...weights });
      for (const [which, name] of meta.outputs.flatMap((name) => [["base", name] as const, ["adapter", name] as const])) {
        const golden = io.get(`${prefix}${name}_${which}`);
        if (!golden) continue; // the parts of a packed row were run with the adapter only
        const defined = (output: Tensor) => task.defined?.(output, io, prefix, config) ?? toFloat32(output);
        const result = results[`${name}_${which}`]!;
        got[which].set(`${prefix}${name}`, defined(task.lossOutputs?.[name]?.part(result) ?? result));
        want[which].set(`${prefix}${name}`, defined(golden));
      }
    }
  } finally {
    await session.close();
  }
  return [
    near("base outputs", got.base, want.base, limits.outputs),
    near("adapter outputs", got.adapter, want.adapter, limits.outputs),
  ];
}

/** `graph` on the inputs and weights of another graph, where that has them too. */
function withLeavesOf(other: Graph, graph: Graph): Graph {
  const nameOf = ({ op, attributes }: Node) => (op === "input" || op === "weight" ? `${op} ${attributes["name"]}` : "");
  const leaves = new Map(nodesOf(other).map((node) => [nameOf(node), node.outputs[0]!]));
  return rewrite(graph, (node) => {
    const leaf = nameOf(node) !== "" && leaves.get(nameOf(node));
    return leaf ? [leaf] : null;
  });
}

/** Of feeds those that a graph reads. */
function readBy(graph: Graph, feeds: Record<string, Tensor>): Record<string, Tensor> {
  const names = new Set(nodesOf(graph).map(({ op, attributes }) => op === "input" && attributes["name"]));
  return Object.fromEntries(Object.entries(feeds).filter(([name]) => names.has(name)));
}

/** Opens the product's training session, as for batches of the given size; in one piece, as in a browser, without `stages`. */
async function withObjective(
  given: ModelCase,
  shape: BatchShape,
  stages: StageOptions | undefined,
  work: (objective: Objective) => Promise<Finding[]>,
): Promise<Finding[]> {
  const { checkpoint } = given.base;
  const objective = await loraObjective({
    checkpoint,
    loss: lossOf(given, shape),
    ...given.trained,
    dropout: 0,
    stages,
    openSession: given.openSession,
  });
  try {
    return await work(objective);
  } finally {
    await objective.close();
  }
}

const lossOf = ({ base, task, meta, batches }: ModelCase, shape: BatchShape): Graph =>
  taskOf(task.task).loss(
    base.config,
    { ...shape, images: batches.some(({ feeds }) => "pixelValues" in feeds) },
    task.options?.(meta.task_options) ?? meta.task_options,
  );

/** The case with what its batches are fed of the base's outputs. */
async function prepared(given: ModelCase): Promise<ModelCase> {
  const { task, batches, base, openSession } = given;
  if (!task.prepare) return given;
  const graph = lossOf(given, SHORT);
  const session = await openGraph(graph, weightFiles(base.checkpoint), { openSession });
  try {
    const done: Batch[] = [];
    for (const batch of batches) done.push(task.prepare(batch, await session.run(batch.feeds)));
    return { ...given, batches: done };
  } finally {
    await session.close();
  }
}

/** The loss over all targets of all micro-batches, and every element of its gradient. */
async function lossAndGradient(
  { folder, meta, batches, adapter }: ModelCase,
  objective: Objective,
  how: string,
): Promise<Finding[]> {
  const theta = thetaOf(objective.entries, adapter);
  const targets = total(batches, "targets");
  const own = trainedEntries(objective.entries);
  const gradient = new Float32Array(lengthOfTheta(own));
  let loss = 0;
  for (const [micro, batch] of batches.entries()) {
    const part = await objective.lossAndGradient(batch, theta, targets, { seed: 0, step: 0, micro });
    loss += part.loss;
    for (let i = 0; i < gradient.length; i++) gradient[i]! += part.gradient[i]!;
  }
  const got = partsOf(own, gradient);
  const want = numbersOf(await readTensors(`${folder}/grads.safetensors`));
  return [
    nearNumber(`loss${how}`, loss, meta.loss, limits.loss),
    near(`gradients${how}`, got, want, limits.gradient),
    flowing(`gradient flow${how}`, got, want),
  ];
}

/** No tensor's gradient is zero where PEFT's is not, and PEFT's are not all zero: nothing would have been compared. */
function flowing(what: string, got: ReadonlyMap<string, Numbers>, want: ReadonlyMap<string, Numbers>): Finding {
  const moving = (side: ReadonlyMap<string, Numbers>) =>
    [...side].filter(([, values]) => Array.from(values).some((value) => value !== 0)).map(([key]) => key);
  return same(what, moving(got).sort(), moving(want).sort());
}

/** The steps that PEFT trained, by the training loop: losses, learning rates, norms, the trained tensors. */
async function training(given: ModelCase, objective: Objective): Promise<Finding[]> {
  const { folder, meta, batches, adapter, frozen } = given;
  const how = meta.train;
  const theta = thetaOf(objective.entries, adapter);
  const events = train({
    objective,
    theta,
    loader: { stepsPerEpoch: 1, microBatches: () => batches, facts: {} },
    steps: how.steps,
    seed: 0,
    optimizer: {
      ...(how.optimizer !== "loraplus" && { optimizer: how.optimizer }),
      learningRate: how.lr,
      weightDecay: how.weight_decay,
      schedule: how.schedule,
      warmupSteps: how.warmup_steps,
      maxGradNorm: how.max_grad_norm ?? undefined,
      loraPlusRatio: how.loraplus_lr_ratio,
      beta1: how.betas[0],
      beta2: how.betas[1],
      eps: how.eps,
    },
  });
  const losses: number[] = [];
  const rates: number[] = [];
  const norms: number[] = [];
  for await (const event of events) {
    if (event.type !== "step") continue;
    losses.push(event.loss);
    rates.push(event.learningRate);
    norms.push(event.gradNorm);
  }
  const { loss: after } = await evaluateTheta(objective, theta, batches);
  const golden = numbersOf(await readTensors(`${folder}/trained/${ADAPTER_WEIGHTS_NAME}`));
  const stored = objective.entries.filter(({ group }) => group !== "initial");
  const trained = new Map([...golden].filter(([key]) => !frozen.some((name) => key === frozenKey(name))));
  return [
    nearList("losses", losses, meta.losses, limits.losses),
    nearList("learning rates", rates, meta.lrs, limits.learningRate),
    nearList("gradient norms", norms, meta.grad_norms, limits.gradientNorm),
    nearNumber("loss after", after, meta.loss_after, limits.losses),
    near("trained tensors", partsOf(stored, theta), trained, limits.trained),
    ...(await converted(folder, { ...given.first, tensors: viewsOf(given.trained, theta).tensors })),
  ];
}

/** W + s·B·A in float32 against PEFT's, and what is on disk: those weights in the base's dtype, all others untouched. */
async function merged({ folder, base }: ModelCase): Promise<Finding[]> {
  const { checkpoint, modules } = base;
  const { adapter } = await attach(base, await readAdapter(nodeFiles, `${folder}/adapter`));
  const storedAs = (name: string) => storedName(checkpoint, ownName(base, name));
  if (!(await nodeFiles.exists(`${folder}/merged`))) return [refused("merging", () => mergeTargets(adapter, modules, storedAs))];
  const targets = mergeTargets(adapter, modules, storedAs);
  const replaced = mergeReplacements(adapter, modules, storedAs);
  const values = new Map<string, Float32Array>();
  const stored: [string, unknown][] = [];
  for (const [name, entry] of checkpoint.tensors) {
    const { dtype, shape, ...rest } = await readWeights(nodeFiles, checkpoint, name);
    const target = targets.find(({ weightName }) => weightName === name);
    const whole = replaced.get(name);
    const rows = target ? mergedRows(nodeFiles, entry, target, whole) : whole && replacedRows(nodeFiles, entry, whole);
    const weight = rows ? await joined(rows, sizeOf(entry.shape)) : toFloat32({ dtype, shape, ...rest });
    values.set(name, weight);
    stored.push([name, { dtype, shape, bytes: bytesOf(fromFloat32(weight, dtype)) }]);
  }
  const written = await inTemporaryFolder(async (temporary): Promise<Map<string, unknown>> => {
    await mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, replaced, outFolder: `${temporary}/merged` });
    const out = await openCheckpoint(nodeFiles, `${temporary}/merged`);
    const tensors = [...out.tensors.keys()].map(async (name): Promise<[string, unknown]> => {
      const { dtype, shape, data } = await readWeights(nodeFiles, out, name);
      return [name, { dtype, shape, bytes: bytesOf(data) }];
    });
    return new Map(await Promise.all(tensors));
  });
  const golden = numbersOf(await readTensors(`${folder}/merged/model.safetensors`));
  return [
    near("merged weights", values, golden, limits.merged),
    same("merged tensors on disk", [...written].sort(byName), stored.sort(byName)),
  ];
}

/** What PEFT can't do either is refused. */
function refused(what: string, work: () => unknown): Finding {
  try {
    work();
  } catch (error) {
    if (error instanceof LowrankError && error.code.startsWith("merge/")) return { what: `${what} refused`, ok: true, text: "0" };
    throw error;
  }
  return { what, ok: false, text: "PEFT refuses this, or does it wrongly" };
}

const byName = ([a]: [string, unknown], [b]: [string, unknown]): number => (a < b ? -1 : 1);

/** The adapter that is written is the one that was read: every member of its configuration and every value of its tensors. */
async function adapterFiles({ folder, adapter }: ModelCase): Promise<Finding[]> {
  const read = await readAdapter(nodeFiles, `${folder}/adapter`);
  return inTemporaryFolder(async (temporary) => {
    await writeAdapter(nodeFiles, temporary, read);
    const tensors = await readTensors(`${temporary}/${ADAPTER_WEIGHTS_NAME}`);
    const own = [...numbersOf(adapter)].filter(([key]) => !/initial_[AB]/.test(key)).sort(byName);
    const theirs = await configMembers(`${folder}/adapter`);
    const ours = (await configMembers(temporary)).filter(([key]) => theirs.some(([name]) => name === key));
    return [
      same("adapter config", ours, theirs),
      same("adapter weights", [...numbersOf(tensors)].sort(byName), own),
      same("adapter read back", [await readAdapter(nodeFiles, temporary)], [read]),
    ];
  });
}

/** The same adapter as an older release of Transformers names its modules, where the case has it: it becomes the same one. */
async function olderNames({ folder, base: { modules, config } }: ModelCase): Promise<Finding[]> {
  if (!(await nodeFiles.exists(`${folder}/adapter-v4`))) return [];
  const read = async (name: string) => fitAdapter(await readAdapter(nodeFiles, `${folder}/${name}`), modules);
  const [older, newer] = await Promise.all([read("adapter-v4"), read("adapter")]);
  const sorted = (adapter: typeof older) => [
    [...adapter.modules].sort((a, b) => (a.path < b.path ? -1 : 1)),
    [...adapter.tensors].sort(byName),
    [...(adapter.saved ?? [])].sort(byName),
  ];
  const matched = [older, newer].map((adapter) => matchModules(modules, adapter.config, config.modelType));
  return [
    same("adapter under older names", sorted(older), sorted(newer)),
    same("its target modules", [matched[0]], [matched[1]]),
  ];
}

/**
 * The members of an adapter_config.json but its PEFT version. PEFT keeps name lists as sets, so their order means nothing,
 * and no target parameters are null or an empty list.
 */
async function configMembers(folder: string): Promise<[string, unknown][]> {
  const config = await readJsonObject(nodeFiles, `${folder}/${ADAPTER_CONFIG_NAME}`);
  const lists = new Set(["target_modules", "exclude_modules"]);
  return Object.entries(config)
    .filter(
      ([key, value]) => key !== "peft_version" && !(key === "target_parameters" && [value].flat().every((one) => one === null)),
    )
    .map(([key, value]): [string, unknown] => [key, lists.has(key) && Array.isArray(value) ? [...value].sort() : value])
    .sort(byName);
}
