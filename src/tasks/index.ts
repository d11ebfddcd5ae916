// What is asked of the table of tasks (table.ts): its rows, the one for a base, their options and columns.
import type { z } from "zod";
import { attach } from "../adapters/attach.ts";
import { type Adapter, describedBy, type GivenAdapter } from "../adapters/peft-files.ts";
import type { ColumnNames } from "../data/records.ts";
import { type Failure, LowrankError } from "../errors.ts";
import { type AnyBase, onBase, type TextBase, withLayersOf } from "../models/base.ts";
import { usualProblemType } from "../models/heads/index.ts";
import { type HeadChoice, headNames, type LayerRanges, type ModelConfig } from "../models/registry.ts";
import * as table from "./table.ts";
import type { Task, TaskOptions } from "./task.ts";

type Table = typeof table;
export type TaskName = keyof Table;
const tasks: Record<TaskName, Task> = table;
/** The row of a task. */
export const taskOf = (name: TaskName): Task => tasks[name];

/** Whether its head is another task's where a config names no problem type. */
const isSpecial = ({ problemType = "single_label_classification" }: Task) => problemType !== "single_label_classification";
/** By name, and the usual tasks of heads before their special ones. */
export const taskNames = (Object.keys(table).sort() as [TaskName, ...TaskName[]]).sort(
  (a, b) => Number(isSpecial(tasks[a])) - Number(isSpecial(tasks[b])),
);
/** What is evaluated, by its type, where a program names no task. */
export type UsualTask = "causal-lm";

/** What a task measures. */
export type ScoreOf<T extends TaskName> = Awaited<ReturnType<ReturnType<Table[T]["measure"]>["score"]>>;
/** Tasks whose head a base may lack, so that it has no score of its own. */
export type HeadTask = { [T in TaskName]: Table[T] extends { classes: true } ? T : never }[TaskName];

/** The options that tasks add to those of every run. */
type TakesShape<T> = T extends { options: infer S } ? (shape: S) => void : never;
type AllShapes = TakesShape<Table[TaskName]> extends (all: infer S) => void ? S : never;
export const taskOptions = Object.assign({}, ...taskNames.map((name) => taskOf(name).options)) as {
  [K in keyof AllShapes as string extends K ? never : K]: AllShapes[K];
};

const problemTypeOf = ({ problemType, labels }: ModelConfig): string => problemType ?? usualProblemType(labels);

/** What a model is for: the first task with its head and problem type. */
export function ownTask(config: ModelConfig): TaskName {
  const fits = ({ head, problemType }: Task) =>
    head === config.head && (problemType ?? problemTypeOf(config)) === problemTypeOf(config);
  return taskNames.find((name) => fits(tasks[name])) ?? taskNames.find((name) => tasks[name].head === config.head)!;
}

/** The tasks that a model's family can be trained for. */
export const possibleTasks = (config: ModelConfig): TaskName[] =>
  taskNames.filter((name) => headNames(config).includes(tasks[name].head));

/** What the hub calls what an adapter was trained for; undefined where the adapter does not say that. */
export function pipelineOf({ task, config }: TaskHint): string | undefined {
  const own = taskNames.find((name) => name === task) ?? taskNames.find((name) => tasks[name].peft.taskType === config.taskType);
  return own && tasks[own].pipeline;
}

/** What of an adapter says what it was trained for. */
interface TaskHint {
  config: { taskType: string | null };
  task?: string;
  head?: HeadChoice;
}

/**
 * The task of a base: the one that is given, the one that an adapter was trained for, or its own. Fails with `code` if the family has
 * no head for it.
 */
export function chooseTask(code: string, config: ModelConfig, given: TaskName | undefined, adapter?: TaskHint | null): TaskName {
  const own = ownTask(config);
  const possible = possibleTasks(config);
  if (given !== undefined) {
    if (possible.includes(given)) return given;
    throw optionMismatch(code, config, own, {
      subject: "task",
      expected: possible.join(", "),
      got: given,
      next: `Use a base for ${tasks[given].what}, or leave out task.`,
    });
  }
  const trained = possible.find((name) => name === adapter?.task);
  if (trained) return trained;
  const { taskType = null } = adapter?.config ?? {};
  const head = adapter?.head?.head;
  const fits = (name: TaskName) => (head ? tasks[name].head === head : tasks[name].peft.taskType === taskType);
  if ((head === undefined && taskType === null) || fits(own)) return own;
  return possible.find(fits) ?? own;
}

/** The head of a task, with what options say of it. */
export const headOf = ({ head, labels, problemType, chooses }: Task, options: TaskOptions = {}): HeadChoice => ({
  head,
  ...(labels && { labels }),
  ...(problemType !== undefined && { problemType }),
  ...chooses?.(options),
});

/** A base, or one without weights, under the head of a task, with what options say of it. */
export const baseFor = <B extends AnyBase | TextBase>(base: B, name: TaskName, options?: TaskOptions): B =>
  onBase(base, headOf(taskOf(name), options));

/** A base for its task, and an adapter on it: what every use of both begins with. */
interface PreparedBase {
  name: TaskName;
  task: Task;
  base: AnyBase;
  adapter: Adapter | null;
}

interface PreparingOptions {
  task?: TaskName;
  anyBase?: boolean;
  /** Layers of the base that a new adapter uses again. */
  layerReplication?: LayerRanges | null;
}

/**
 * Puts a base under the head of its task and attaches an adapter, or none: the task is chosen by `chooseTask`, the adapter is fitted
 * and checked by `attach`. What `options` say of the head counts more than what the adapter or the base says. Fails as these do.
 */
export async function prepareBase(
  code: string,
  opened: AnyBase,
  given: GivenAdapter | null,
  { task, anyBase, layerReplication = null, ...options }: PreparingOptions & TaskOptions = {},
): Promise<PreparedBase> {
  const name = chooseTask(code, opened.config, task, given && describedBy(given));
  const base = baseFor(opened, name);
  const attached = given ? await attach(base, given, { anyBase }) : { base: withLayersOf(base, layerReplication), adapter: null };
  const chosen = taskOf(name).chooses?.(options);
  return { name, task: taskOf(name), ...attached, ...(chosen && { base: onBase(attached.base, chosen) }) };
}

/** Refuses an option, with this code, because it is for models of another task than `name`. */
export const optionMismatch = (code: string, config: ModelConfig, name: TaskName, facts: Required<Facts>): LowrankError =>
  new LowrankError(code, `${config.modelType} is a model for ${tasks[name].what}`, facts);
type Facts = Pick<Failure, "subject" | "expected" | "got" | "next">;

/** Refuses an option, with this code, that is another task's own: it would do nothing. */
export function checkOwnOptions(code: string, config: ModelConfig, name: TaskName, options: TaskOptions): void {
  for (const [option, type] of Object.entries<z.ZodType>(taskOptions)) {
    const isOwn = option in (taskOf(name).options ?? {});
    const value = options[option];
    if (isOwn || value === undefined || value === type.safeParse(undefined).data) continue;
    const owners = taskNames.filter((task) => option in (taskOf(task).options ?? {}));
    const facts = { subject: option, expected: "no such option", got: String(value) };
    throw optionMismatch(code, config, name, { ...facts, next: `Leave it out, or choose its task: ${owners.join(", ")}.` });
  }
}

/** Throws `data/columns` if a column is named that the records of the task do not have: it would be left unread. */
export function checkColumns(name: TaskName, columns: ColumnNames): void {
  const own = taskOf(name).columns;
  const all = [...new Set(taskNames.flatMap((task) => taskOf(task).columns))];
  const foreign = all.find((column) => columns[column] !== undefined && !own.includes(column));
  if (foreign === undefined) return;
  throw new LowrankError("data/columns", "records for this base have no such column", {
    subject: foreign,
    expected: `none but ${own.join(", ")}`,
    got: JSON.stringify(columns[foreign]),
    next: `Leave out ${foreign}, or choose the task whose records have it (--task): ${taskNames.filter((task) => taskOf(task).columns.includes(foreign)).join(", ")}.`,
  });
}
