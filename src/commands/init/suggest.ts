// Options of a run to begin with, from its goal, its base and a look at its data: what is common for LoRA, fitted to the machine.
import { makeExamples } from "../../data/dataset.ts";
import type { PromptFormat } from "../../data/prompts.ts";
import { type Recognized, readRecords } from "../../data/readers.ts";
import type { ColumnNames, NumberedRecord } from "../../data/records.ts";
import { LowrankError } from "../../errors.ts";
import { languageModel, openBase } from "../../models/base.ts";
import { countParameters, type ModelConfig } from "../../models/registry.ts";
import type { Platform } from "../../platform/platform.ts";
import { ownTask, taskOf } from "../../tasks/index.ts";
import { type RunOptions, usualLearningRate } from "../../train/options.ts";
import { planTraining } from "../plan/plan.ts";

/** What a model is trained for: rank, and passes over a thousand records. Alpha is twice the rank. */
export const goals = {
  chat: { what: "a chat assistant: conversations or instructions and answers", rank: 16, epochs: 3 },
  structured: { what: "structured output: fields, JSON, SQL, calls", rank: 16, epochs: 3 },
  style: { what: "a way of writing, from texts or examples", rank: 8, epochs: 2 },
  classification: { what: "labels or other short answers", rank: 8, epochs: 4 },
} as const;
export type Goal = keyof typeof goals;

/** Records that are tokenized. All are counted, up to `MAX_COUNTED`. */
const LOOKED_AT = 1000;
const MAX_COUNTED = 1_000_000;
/** Few records are passed over more often, many less, so that a run has some hundred steps at least. */
const FEW = 300;
const MANY = 20_000;
/** Examples of one optimizer step. */
const STEP_EXAMPLES = 16;
const SMALL_STEP_EXAMPLES = 8;
/** Share of the records that fit whole into the length suggested, and what that is a multiple of. */
const FITTING = 0.99;
const LENGTH_STEP = 32;
const MAX_LENGTH = 2048;
/** Held out for evaluation: a share, within numbers of examples. */
const EVAL_SHARE = 0.1;
const EVAL_LEAST = 20;
const EVAL_MOST = 200;
/** Share of the free memory that a run is suggested to take. */
const MEMORY_SHARE = 0.75;

export interface SuggestOptions extends ColumnNames {
  /** Folder of the base. */
  base: string;
  data: string;
  goal: Goal;
  evalData?: string;
}

/** What was found in a data file. Lengths are in tokens, of the records looked at. */
export interface DataFacts {
  records: number;
  /** There are more than `records`. */
  more: boolean;
  kind: PromptFormat["kind"];
  /** Format, spelling and columns of the file. */
  file: Recognized;
  median: number;
  longest: number;
  /** Records longer than the length suggested, of those looked at. */
  cut: number;
  lookedAt: number;
}

export interface Suggestion {
  options: Partial<RunOptions>;
  data: DataFacts;
  parameters: number;
  trainableParameters: number;
  /** Estimates: bytes at the peak, seconds at most; null where the machine reports nothing. */
  memory: number;
  seconds: number | null;
  warnings: string[];
}

/** Suggests options. Fails with the errors of the base and of the data, as training would. */
export async function suggest(options: SuggestOptions, runtime: Platform): Promise<Suggestion> {
  const { files, timeLimit, memoryLimits } = runtime;
  const opened = await openBase(files, options.base, timeLimit);
  if (opened.config.head !== "lm") throw otherTask(options, opened.config);
  const base = languageModel(opened);
  const { rank, epochs: usual } = goals[options.goal];
  const parameters = countParameters(base.config);
  const file = readRecords(files, options.data, options);
  const { head, records, more } = await readHead(file);
  const { maxPositions } = base.config;
  const read = { maxLength: maxPositions, source: options.data };
  const { examples, report } = await makeExamples(head, await base.tokenizer(), read);
  const lengths = examples.map(({ ids }) => ids.length).sort((a, b) => a - b);
  const longest = lengths.at(-1)!;
  const fitting = lengths[Math.ceil(FITTING * lengths.length) - 1]!;
  const whole = Math.ceil((longest <= 1.25 * fitting ? longest : fitting) / LENGTH_STEP) * LENGTH_STEP;
  const maxLength = Math.min(whole, MAX_LENGTH, maxPositions);

  const epochs = records <= FEW ? 2 * usual : records > MANY ? 1 : usual;
  const share = Math.min(EVAL_MOST, Math.max(EVAL_LEAST, EVAL_SHARE * records)) / records;
  const evalSplit = options.evalData === undefined && records >= 5 * EVAL_LEAST ? Number(share.toPrecision(2)) : undefined;
  const learningRate = usualLearningRate("lora", parameters);
  const method = { rank, alpha: 2 * rank, targetModules: "all-linear" };
  const stepExamples = records <= FEW ? SMALL_STEP_EXAMPLES : STEP_EXAMPLES;

  const trained = Math.max(1, Math.round(records * (1 - (evalSplit ?? 0))));
  const free = memoryLimits?.().available ?? Number.POSITIVE_INFINITY;
  // A smaller batch costs less than what is computed again to save memory.
  const planned = (batchSize: number, memory: "keep" | "auto" = "keep") => {
    const batches = { batchSize, gradientAccumulation: stepExamples / batchSize, memory };
    return planTraining(base.checkpoint.config, { ...method, ...batches, maxLength, epochs, examples: trained }, runtime);
  };
  let plan = await planned(stepExamples);
  while (plan.memory.total > MEMORY_SHARE * free && plan.batchSize > 1) plan = await planned(plan.batchSize / 2);
  if (plan.memory.total > MEMORY_SHARE * free) plan = await planned(plan.batchSize, "auto");
  const { batchSize, gradientAccumulation } = plan;
  const curve = { schedule: "cosine", warmup: 0.05 } as const;
  return {
    options: { ...method, learningRate, ...curve, epochs, batchSize, gradientAccumulation, maxLength, evalSplit },
    data: {
      records,
      more,
      kind: report.prompts!.kind,
      file: file.recognized()!,
      median: lengths[lengths.length >> 1]!,
      longest,
      cut: lengths.filter((length) => length > maxLength).length,
      lookedAt: examples.length,
    },
    parameters,
    trainableParameters: plan.trainableParameters,
    memory: plan.memory.total,
    seconds: plan.time.seconds,
    warnings: plan.warnings,
  };
}

/** The first records, and how many there are. */
async function readHead(rows: AsyncIterable<NumberedRecord>) {
  const head: NumberedRecord[] = [];
  let records = 0;
  for await (const row of rows) {
    if (records === MAX_COUNTED) return { head, records, more: true };
    records++;
    if (head.length < LOOKED_AT) head.push(row);
  }
  return { head, records, more: false };
}

const otherTask = ({ base, data }: SuggestOptions, config: ModelConfig): LowrankError =>
  new LowrankError("suggest/task", "options are suggested for language models alone", {
    subject: base,
    expected: "a language model",
    got: `${config.modelType}, a model for ${taskOf(ownTask(config)).what}`,
    next: `Train it with flags: lowrank train --base ${base} --data ${data} --eval-split 0.1 --output my-adapter.`,
  });
