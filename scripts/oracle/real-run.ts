// A golden of a real run: a published model fine-tuned by PEFT, from the text of the data to the text of the trained model.
import { z } from "zod";
import { type LoraConfig, parseAdapterConfig } from "../../src/adapters/config.ts";
import { type AdapterModule, matchModules } from "../../src/adapters/match.ts";
import { ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, readAdapter } from "../../src/adapters/peft-files.ts";
import { makeBatch } from "../../src/data/batch.ts";
import { collate } from "../../src/data/collate.ts";
import { makeExamples } from "../../src/data/dataset.ts";
import { readRecords } from "../../src/data/readers.ts";
import { inMemory } from "../../src/data/store.ts";
import type { Batch, Example } from "../../src/data/types.ts";
import { entryOf } from "../../src/formats/checkpoint.ts";
import { readText } from "../../src/formats/json.ts";
import { openGenerator } from "../../src/generate/generator.ts";
import type { BaseDtype } from "../../src/graph/pack.ts";
import { type Base, loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { gainsByIntegers } from "../../src/runtime/speed.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { renderChat } from "../../src/text/template.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { dataLoader } from "../../src/train/data-loader.ts";
import { evaluateTheta } from "../../src/train/evals.ts";
import { formsOf, memoryModes } from "../../src/train/execution.ts";
import { loraObjective } from "../../src/train/objective.ts";
import { train } from "../../src/train/trainer.ts";
import { type Checks, type Finding, limits, near, nearList, nearNumber, runChecks, same } from "./compare.ts";
import { numbersOf, parseMeta, partsOf, readTensors, thetaOf } from "./golden.ts";

const runMeta = z.object({
  lr: z.number(),
  betas: z.tuple([z.number(), z.number()]),
  eps: z.number(),
  weight_decay: z.number(),
  schedule: z.enum(["constant", "linear", "cosine"]),
  steps: z.int().min(1),
  batch: z.int().min(1),
  eval_batch: z.int().min(1),
  supervised_tokens: z.array(z.int()),
  losses: z.array(z.number()),
  grad_norms: z.array(z.number()),
  val_loss_before: z.number(),
  val_loss_after: z.number(),
  val_tokens: z.int(),
  first_step_grad_norm_per_tensor: z.record(z.string(), z.number()),
  trainable_parameters: z.int(),
});

/** A whole run logs its validation loss and the first step's norms; such a meta.json has no kind. */
export const isRealRun = (meta: Record<string, unknown>): boolean =>
  "first_step_grad_norm_per_tensor" in meta && "val_loss_before" in meta;

interface RealRun {
  folder: string;
  meta: z.output<typeof runMeta>;
  base: Base;
  tokenizer: Tokenizer;
  lora: LoraConfig;
  modules: AdapterModule[];
  baseDtype: BaseDtype;
}

/** How far from PEFT's in float32 the validation loss may end. */
const ROUNDED: Record<Exclude<BaseDtype, "float32">, number> = { bfloat16: 0.01, int8: 0.01, int4: 0.05 };

/** The training comes last: it takes minutes. */
const checks: Checks<RealRun> = { tokenizer, chat, generation, training };

/** Compares everything in the golden; `base` is the folder of its base model. */
export async function runRealRun(
  folder: string,
  meta: unknown,
  base: string,
  baseDtype: BaseDtype = "float32",
): Promise<Finding[]> {
  const model = await loadBase(nodeFiles, base);
  const text = await readText(nodeFiles, `${folder}/adapter_init/${ADAPTER_CONFIG_NAME}`);
  const lora = parseAdapterConfig(text, ADAPTER_CONFIG_NAME);
  const modules = matchModules(model.modules, lora, model.config.modelType);
  return runChecks(baseDtype === "float32" ? checks : { training }, {
    folder,
    meta: parseMeta(runMeta, meta),
    base: model,
    tokenizer: await model.tokenizer(),
    lora,
    modules,
    baseDtype,
  });
}

const ids = z.array(z.int());

/** A side file of the golden. */
async function readJson<T>({ folder }: RealRun, name: string, schema: z.ZodType<T>): Promise<T> {
  return parseMeta(schema, JSON.parse(await readText(nodeFiles, `${folder}/${name}`)));
}

async function tokenizer(run: RealRun): Promise<Finding[]> {
  const vectors = await readJson(run, "tokenizer.json", z.array(z.object({ text: z.string(), ids, decoded: z.string() })));
  const encoded = vectors.map(({ text }) => [...run.tokenizer.encode(text)]);
  const decoded = vectors.map((vector) => run.tokenizer.decode(vector.ids));
  return [
    same(
      "token ids",
      encoded,
      vectors.map((vector) => vector.ids),
    ),
    same(
      "decoded text",
      decoded,
      vectors.map((vector) => vector.decoded),
    ),
  ];
}

async function chat(run: RealRun): Promise<Finding[]> {
  const message = z.looseObject({ role: z.string(), content: z.string() });
  const chats = await readJson(
    run,
    "chat.json",
    z.array(z.object({ messages: z.array(message), text: z.string(), text_generation: z.string(), ids })),
  );
  const template = run.tokenizer.template!;
  const rendered = chats.map(({ messages, ...golden }) => {
    const text = renderChat(template, messages);
    const text_generation = renderChat(template, messages, { addGenerationPrompt: true });
    return { ours: { text, text_generation, ids: [...run.tokenizer.encode(text, { addSpecialTokens: false })] }, golden };
  });
  return [
    same(
      "chats",
      rendered.map(({ ours }) => ours),
      rendered.map(({ golden }) => golden),
    ),
  ];
}

/** Greedy text of the base and of PEFT's trained adapter, on one session. */
async function generation(run: RealRun): Promise<Finding[]> {
  const texts = z.array(z.object({ prompt: z.string(), ids, text: z.string() }));
  const golden = await readJson(run, "generate.json", z.object({ base: texts, trained: texts }));
  // Rows that PEFT ended earlier must end by themselves.
  const maxNewTokens = Math.max(...[...golden.base, ...golden.trained].map((row) => row.ids.length));
  const generator = await openGenerator(run.base, { openSession: openNodeSession });
  const continued = async (rows: typeof golden.base): Promise<unknown[]> => {
    const done: unknown[] = [];
    for await (const event of generator.generate(
      rows.map(({ prompt }) => prompt),
      { maxNewTokens },
    )) {
      if (event.type !== "done") continue;
      done[event.row] = { prompt: rows[event.row]!.prompt, ids: [...event.ids], text: run.tokenizer.decode(event.ids) };
    }
    return done;
  };
  try {
    const base = same("greedy text of the base", await continued(golden.base), golden.base);
    await generator.useAdapter(await readAdapter(nodeFiles, `${run.folder}/adapter_trained`));
    return [base, same("greedy text with the adapter", await continued(golden.trained), golden.trained)];
  } finally {
    await generator.close();
  }
}

/** Tokens, losses, norms, validation and trained tensors of the run, from the data files on. */
async function training(run: RealRun): Promise<Finding[]> {
  const { folder, meta, base, lora, modules, baseDtype } = run;
  const dtypeOf = (name: string) => entryOf(base.checkpoint, name)?.dtype;
  const integers = baseDtype === "int8" && (await gainsByIntegers(openNodeSession));
  const { padId } = run.tokenizer;
  const examples = await examplesOf(run, "train.jsonl");
  const held = await examplesOf(run, "val.jsonl");
  const loader = await dataLoader(collate(inMemory(examples), padId), { batchSize: meta.batch, seed: 0, shuffle: false });
  const steps = await Promise.all(Array.from({ length: meta.steps }, (_, step) => loader.microBatches(step)));
  const batches = steps.flat();
  const heldBatches = Array.from({ length: Math.ceil(held.length / meta.eval_batch) }, (_, i) =>
    makeBatch(held.slice(i * meta.eval_batch, (i + 1) * meta.eval_batch), { padId }),
  );
  const all = [...batches, ...heldBatches];
  const objective = await loraObjective({
    checkpoint: base.checkpoint,
    loss: lossGraph(base.config, {
      maxTargets: Math.max(...all.map(targetsOf)),
      maxLength: Math.max(...all.map(({ feeds }) => feeds["inputIds"]!.shape[1]!)),
    }),
    config: lora,
    modules,
    dropout: 0,
    stages: { ...memoryModes.keep, form: formsOf(baseDtype, { dtypeOf, integers }) },
    openSession: openNodeSession,
    first: async () => batches[0]!,
  });
  try {
    const { entries } = objective;
    const theta = thetaOf(entries, await readTensors(`${folder}/adapter_init/${ADAPTER_WEIGHTS_NAME}`));
    const before = await evaluateTheta(objective, theta, heldBatches);
    const first = await objective.lossAndGradient(batches[0]!, theta, targetsOf(batches[0]!), { seed: 0, step: 0, micro: 0 });
    const tensorNorms = [...partsOf(entries, first.gradient)].map(([key, part]): [string, number[]] => [key, [norm(part)]]);
    const losses: number[] = [];
    const norms: number[] = [];
    const optimizer = {
      learningRate: meta.lr,
      weightDecay: meta.weight_decay,
      schedule: meta.schedule,
      warmupSteps: 0,
      beta1: meta.betas[0],
      beta2: meta.betas[1],
      eps: meta.eps,
    };
    for await (const event of train({ objective, theta, loader, steps: meta.steps, seed: 0, optimizer })) {
      if (event.type !== "step") continue;
      losses.push(event.loss);
      norms.push(event.gradNorm);
    }
    const after = await evaluateTheta(objective, theta, heldBatches);
    const goldenNorms = Object.entries(meta.first_step_grad_norm_per_tensor).map(([key, value]): [string, number[]] => [
      key,
      [value],
    ]);
    if (baseDtype !== "float32") {
      return [nearNumber("validation loss after", after.loss, meta.val_loss_after, () => ROUNDED[baseDtype])];
    }
    const trained = numbersOf(await readTensors(`${folder}/adapter_trained/${ADAPTER_WEIGHTS_NAME}`));
    return [
      same("trainable parameters", [theta.length], [meta.trainable_parameters]),
      same("target tokens", batches.map(targetsOf), meta.supervised_tokens),
      same("validation tokens", [heldBatches.map(targetsOf).reduce((a, b) => a + b)], [meta.val_tokens]),
      near("first step's norms", new Map(tensorNorms), new Map(goldenNorms), limits.realTensorNorm),
      nearList("losses", losses, meta.losses, limits.realLoss),
      nearList("gradient norms", norms, meta.grad_norms, limits.realNorm),
      nearNumber("validation loss before", before.loss, meta.val_loss_before, limits.realLoss),
      nearNumber("validation loss after", after.loss, meta.val_loss_after, limits.realLoss),
      near("trained tensors", partsOf(entries, theta), trained, limits.realTrained),
    ];
  } finally {
    await objective.close();
  }
}

async function examplesOf({ folder, base, tokenizer }: RealRun, name: string): Promise<Example[]> {
  const records = readRecords(nodeFiles, `${folder}/${name}`);
  return (await makeExamples(records, tokenizer, { maxLength: base.config.maxPositions, source: name })).examples;
}

const targetsOf = (batch: Batch): number => batch.targets;
const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
