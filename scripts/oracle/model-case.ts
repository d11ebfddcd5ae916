// A golden of kind "model": one tiny model, one adapter, one batch, and every number that Transformers and PEFT made of them.
import { z } from "zod";
import type { Batch } from "../../src/data/types.ts";
import { openCheckpoint, readWeights, storedName } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { fromFloat32, toFloat32 } from "../../src/formats/float.ts";
import { readJsonObject, readText } from "../../src/formats/json.ts";
import { check } from "../../src/graph/graph.ts";
import { input } from "../../src/graph/ops/leaves.ts";
import { ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, mergeTargets, readAdapter, writeAdapter } from "../../src/lora/adapter.ts";
import { parseAdapterConfig } from "../../src/lora/config.ts";
import { inject, type LoraFactors, loraUpdate } from "../../src/lora/inject.ts";
import { type AdapterModule, matchModules } from "../../src/lora/match.ts";
import { mergedRows, mergeIntoCheckpoint } from "../../src/lora/merge.ts";
import { type Base, loadBase } from "../../src/models/base.ts";
import { forwardGraph } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { lower } from "../../src/onnx/lower.ts";
import { openNodeSession } from "../../src/runtime/node.ts";
import { nodeFiles } from "../../src/runtime/node-files.ts";
import { float32, sizeOf, type Tensor } from "../../src/tensor.ts";
import { batchFeeds, lossGraph, type ObjectiveShape } from "../../src/train/causal-lm.ts";
import { evaluate } from "../../src/train/evals.ts";
import { loraObjective } from "../../src/train/objective.ts";
import { loraEntries } from "../../src/train/trained.ts";
import { train } from "../../src/train/trainer.ts";
import type { Objective } from "../../src/train/types.ts";
import { type Checks, type Finding, limits, type Numbers, near, nearList, nearNumber, runChecks, same } from "./compare.ts";
import { batchOf, batchPrefixes, numbersOf, parseMeta, partsOf, readTensors, thetaOf } from "./golden.ts";
import { inTemporaryFolder } from "./temporary.ts";

const modelMeta = z.object({
  outputs: z.tuple([z.literal("logits")]),
  micro_batches: z.int().min(1),
  train: z.object({
    optimizer: z.enum(["adamw", "loraplus"]),
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
  folder: string;
  meta: z.output<typeof modelMeta>;
  io: Map<string, Tensor>;
  batches: Batch[];
  base: Base;
  modules: AdapterModule[];
  /** The adapter's tensors under their keys in its file. */
  adapter: Map<string, Tensor>;
}

/** What the training graph is built for: one piece, or attention and loss cut into several, as real lengths need. */
const SHORT: ObjectiveShape = { maxTargets: 64, maxLength: 64 };
const LONG: ObjectiveShape = { maxTargets: 2048, maxLength: 512 };

/** Every check of a case; each says what it compared. */
const checks: Checks<ModelCase> = {
  "trainable tensors": trainableTensors,
  logits,
  training: (c) =>
    withObjective(c, SHORT, async (objective) => [
      ...(await lossAndGradient(c, objective, "")),
      ...(await training(c, objective)),
    ]),
  "gradients in blocks": (c) => withObjective(c, LONG, (objective) => lossAndGradient(c, objective, " in blocks")),
  merging: merged,
  "adapter files": adapterFiles,
};

/** Compares everything in a case. Throws `model/unsupported` or `lora/unsupported` for what is not built. */
export async function runModelCase(folder: string, meta: unknown): Promise<Finding[]> {
  return runChecks(checks, await openCase(folder, meta));
}

/** The base and the adapter's config are read first: what they ask for may not be built, whatever else is in the folder. */
async function openCase(folder: string, meta: unknown): Promise<ModelCase> {
  const base = await loadBase(nodeFiles, `${folder}/base`);
  const adapterConfig = `${folder}/adapter/${ADAPTER_CONFIG_NAME}`;
  const lora = parseAdapterConfig(await readText(nodeFiles, adapterConfig), ADAPTER_CONFIG_NAME);
  const modules = matchModules(base.modules, lora, base.config.modelType);
  const io = await readTensors(`${folder}/io.safetensors`);
  return {
    folder,
    meta: parseMeta(modelMeta, meta),
    io,
    batches: batchPrefixes(io)
      .filter((prefix) => io.has(`${prefix}labels`))
      .map((prefix) => batchOf(io, prefix, base.config)),
    base,
    modules,
    adapter: await readTensors(`${folder}/adapter/${ADAPTER_WEIGHTS_NAME}`),
  };
}

/** What the configuration selects is what the file holds, in number and in shape. */
function trainableTensors({ meta, modules, adapter, batches }: ModelCase): Finding[] {
  const entries = loraEntries({ modules });
  const shapes = entries.map(({ key, shape }) => `${key} [${shape.join(", ")}]`).sort();
  const stored = [...adapter].map(([key, { shape }]) => `${key} [${shape.join(", ")}]`).sort();
  const parameters = entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  return [
    same("adapter tensors", shapes, stored),
    same(
      "counts",
      [entries.length, parameters, batches.length],
      [meta.trainable_tensors, meta.trainable_parameters, meta.micro_batches],
    ),
  ];
}

/**
 * Logits of the base and with the adapter, [rows, width, vocab]. Only rows where the attention mask is 1 are compared: a
 * padded query may have nothing to attend to, which no definition covers (Transformers mixes all values evenly there).
 */
async function logits({ base: { config, checkpoint }, modules, adapter, io }: ModelCase): Promise<Finding[]> {
  const entries = loraEntries({ modules });
  const factors = entries.map(({ key, shape }) => input(key, "float32", shape));
  const pairs = modules.map(({ path, scale }, i): [string, LoraFactors] => [
    path,
    { loraA: factors[2 * i]!, loraB: factors[2 * i + 1]!, scale },
  ]);
  const forward = forwardGraph(config);
  const adapted = inject(forward, loraUpdate(forward, new Map(pairs)));
  const graph = check({ outputs: { base: forward.outputs["logits"]!, adapter: adapted.outputs["logits"]! } });
  const theta = partsOf(entries, thetaOf(entries, adapter));
  const weights = entries.map(({ key, shape }): [string, Tensor] => [key, float32(shape, theta.get(key)!)]);
  const files = weightFiles(checkpoint);
  const session = await openNodeSession(lower(graph, files.locate), { weightsFolder: files.folder });
  const got = { base: new Map<string, Numbers>(), adapter: new Map<string, Numbers>() };
  const want = { base: new Map<string, Numbers>(), adapter: new Map<string, Numbers>() };
  try {
    for (const prefix of batchPrefixes(io)) {
      const batch = batchOf(io, prefix, config);
      const { lossRows: _, lossLabels: _labels, ...inputs } = batchFeeds(batch);
      const feeds = { ...inputs, ...Object.fromEntries(weights) };
      const results = await session.run(feeds);
      for (const which of ["base", "adapter"] as const) {
        const golden = io.get(`${prefix}logits_${which}`);
        if (!golden) continue; // the parts of a packed row were run with the adapter only
        const seen = (tensor: Tensor) => rowsWhere(batch.attentionMask, toFloat32(tensor), config.vocabSize);
        got[which].set(`${prefix}logits`, seen(results[which]!));
        want[which].set(`${prefix}logits`, seen(golden));
      }
    }
  } finally {
    await session.close();
  }
  return [
    near("base logits", got.base, want.base, limits.outputs),
    near("adapter logits", got.adapter, want.adapter, limits.outputs),
  ];
}

/** The rows of [rows, width] whose flag is 1. */
function rowsWhere(flags: Int32Array, data: Float32Array, width: number): Float32Array {
  const rows = [...flags.keys()].filter((row) => flags[row] === 1);
  const kept = new Float32Array(rows.length * width);
  for (const [at, row] of rows.entries()) kept.set(data.subarray(row * width, (row + 1) * width), at * width);
  return kept;
}

/** Opens the product's training session, as for batches of the given size. */
async function withObjective(
  { base: { checkpoint, config }, modules, batches }: ModelCase,
  shape: ObjectiveShape,
  work: (objective: Objective) => Promise<Finding[]>,
): Promise<Finding[]> {
  const objective = await loraObjective({
    checkpoint,
    loss: lossGraph(config, { ...shape, images: batches.some(({ images }) => images) }),
    modules,
    dropout: 0,
    openSession: openNodeSession,
  });
  try {
    return await work(objective);
  } finally {
    await objective.close();
  }
}

/** The loss over all targets of all micro-batches, and every element of its gradient. */
async function lossAndGradient(
  { folder, meta, batches, adapter }: ModelCase,
  objective: Objective,
  how: string,
): Promise<Finding[]> {
  const theta = thetaOf(objective.entries, adapter);
  const targets = batches.reduce((sum, batch) => sum + batch.lossLabels.length, 0);
  const gradient = new Float32Array(theta.length);
  let loss = 0;
  for (const [micro, batch] of batches.entries()) {
    const part = await objective.lossAndGradient(batch, theta, targets, { seed: 0, step: 0, micro });
    loss += part.loss;
    for (let i = 0; i < gradient.length; i++) gradient[i]! += part.gradient[i]!;
  }
  const got = partsOf(objective.entries, gradient);
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
async function training({ folder, meta, batches, adapter }: ModelCase, objective: Objective): Promise<Finding[]> {
  const how = meta.train;
  const theta = thetaOf(objective.entries, adapter);
  const events = train({
    objective,
    theta,
    feed: { stepsPerEpoch: 1, microBatches: () => batches, facts: {} },
    steps: how.steps,
    seed: 0,
    optimizer: {
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
  const { loss: after } = await evaluate(objective, theta, batches);
  const trained = numbersOf(await readTensors(`${folder}/trained/${ADAPTER_WEIGHTS_NAME}`));
  return [
    nearList("losses", losses, meta.losses, limits.losses),
    nearList("learning rates", rates, meta.lrs, limits.learningRate),
    nearList("gradient norms", norms, meta.grad_norms, limits.gradientNorm),
    nearNumber("loss after", after, meta.loss_after, limits.losses),
    near("trained tensors", partsOf(objective.entries, theta), trained, limits.trained),
  ];
}

/** W + s·B·A in float32 against PEFT's, and what is on disk: those weights in the base's dtype, all others untouched. */
async function merged({ folder, base: { checkpoint, modules } }: ModelCase): Promise<Finding[]> {
  const adapter = await readAdapter(nodeFiles, `${folder}/adapter`);
  const targets = mergeTargets(adapter, modules, (path) => storedName(checkpoint, `${path}.weight`));
  const values = new Map<string, Float32Array>();
  const stored: [string, unknown][] = [];
  for (const [name, entry] of checkpoint.tensors) {
    const { dtype, shape, ...rest } = await readWeights(nodeFiles, checkpoint, name);
    const target = targets.find(({ weightName }) => weightName === name);
    const weight = target
      ? await joined(mergedRows(nodeFiles, entry, target), sizeOf(entry.shape))
      : toFloat32({ dtype, shape, ...rest });
    values.set(name, weight);
    stored.push([name, { dtype, shape, bytes: bytesOf(fromFloat32(weight, dtype)) }]);
  }
  const written = await inTemporaryFolder(async (temporary): Promise<Map<string, unknown>> => {
    await mergeIntoCheckpoint(nodeFiles, { checkpoint, targets, outFolder: `${temporary}/merged` });
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

const byName = ([a]: [string, unknown], [b]: [string, unknown]): number => (a < b ? -1 : 1);

async function joined(blocks: AsyncIterable<Float32Array>, size: number): Promise<Float32Array> {
  const all = new Float32Array(size);
  let at = 0;
  for await (const block of blocks) {
    all.set(block, at);
    at += block.length;
  }
  return all;
}

/** The adapter that is written is the one that was read: every member of its configuration and every value of its tensors. */
async function adapterFiles({ folder, adapter }: ModelCase): Promise<Finding[]> {
  const read = await readAdapter(nodeFiles, `${folder}/adapter`);
  return inTemporaryFolder(async (temporary) => {
    await writeAdapter(nodeFiles, temporary, read);
    const tensors = await readTensors(`${temporary}/${ADAPTER_WEIGHTS_NAME}`);
    const theirs = await configMembers(`${folder}/adapter`);
    const ours = (await configMembers(temporary)).filter(([key]) => theirs.some(([name]) => name === key));
    return [
      same("adapter config", ours, theirs),
      same("adapter weights", [...numbersOf(tensors)].sort(byName), [...numbersOf(adapter)].sort(byName)),
      same("adapter read back", [await readAdapter(nodeFiles, temporary)], [read]),
    ];
  });
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
