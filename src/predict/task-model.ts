// A base for a use other than continuing texts, in sessions of the engine, one for each output that is asked for; adapters, and the heads
// they bring, are inputs, so that changing them opens nothing again unless the head has another size.

import { type AdaptableSession, adaptableSession } from "../adapters/adaptable.ts";
import { attach } from "../adapters/attach.ts";
import { savedInput, withSaved } from "../adapters/beside.ts";
import { type Adapter, describedBy, type GivenAdapter } from "../adapters/peft-files.ts";
import type { SavedWeight } from "../adapters/saved.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { readWeights } from "../formats/checkpoint.ts";
import { toFloat32 } from "../formats/float.ts";
import { nodesOf } from "../graph/graph.ts";
import { type AnyBase, onBase } from "../models/base.ts";
import type { ModuleInfo } from "../models/module.ts";
import { type DecoderModel, type HeadChoice, type ModelConfig, modelOutputs, useOf } from "../models/registry.ts";
import { weightFiles } from "../models/weights.ts";
import { taskQueue } from "../runtime/machine.ts";
import type { Engine } from "../runtime/open-graph.ts";
import { baseFor, chooseTask, possibleTasks, type TaskName, taskNames, taskOf } from "../tasks/index.ts";
import { float32, type Tensor } from "../tensor.ts";
import type { PredictorOptions } from "./types.ts";

export interface TaskModelOptions extends Omit<Engine, "profile"> {
  files: Files;
  /** Attached from the start. */
  adapter?: GivenAdapter | null;
  /** Take adapters that were made for another base of the same shape. */
  anyBase?: boolean;
  /** What of the head is as given, whatever an adapter says. */
  choice?: HeadChoice;
}

/** A model at work; close it to free the weights. What is asked of it at once is done in turn. */
export interface TaskModel {
  /** Its configuration, with the classes of the adapter that is attached. */
  config(): ModelConfig;
  /**
   * The numbers of one output for a batch, by its name in the model's outputs (heads/). Of `feeds` (the model's inputs) those that the
   * output depends on are used. What an output needs is opened when it is first asked for, and nothing else.
   */
  run(output: string, feeds: Record<string, Tensor>): Promise<Float32Array>;
  /**
   * Attaches another adapter, or none. Fails with `adapter/*` if it does not fit the base and with `predict/no-head` if neither has
   * a classifier; the adapter before stays then.
   */
  useAdapter(adapter: Adapter | null): Promise<void>;
  close(): Promise<void>;
}

/** An adapter beside the base: the classes, and the values of the weights that it brings. */
interface Attached {
  adapter: Adapter | null;
  config: ModelConfig;
  /** Weights that are inputs of the graph: the head's, and those that this adapter or one before it brings. */
  replaced: SavedWeight[];
  /** Their values. */
  feeds: Record<string, Tensor>;
}

interface Opened {
  adaptable: AdaptableSession;
  /** Names of the inputs. */
  inputs: ReadonlySet<string>;
}

/** What the graph of a model depends on beside the base. */
const graphOf = ({ replaced, config }: Attached): string =>
  JSON.stringify([replaced, config.pooling, (config as Partial<DecoderModel>).layerSources]);

/** Opens a model of another task. No weight is read but those of a head. Fails as `useAdapter` does. */
export async function openTaskModel(
  base: AnyBase,
  { files, openSession, adapter = null, anyBase, choice = {}, threads, baseDtype }: TaskModelOptions,
): Promise<TaskModel> {
  const weights = weightFiles(base.checkpoint);
  const sessions = new Map<string, Promise<Opened>>();
  const ownValues = new Map<string, Float32Array>();
  const ownValue = async (name: string): Promise<Float32Array> => {
    const value = ownValues.get(name) ?? toFloat32(await readWeights(files, base.checkpoint, name));
    ownValues.set(name, value);
    return value;
  };

  const attachedTo = async (given: GivenAdapter | null, before: readonly SavedWeight[]): Promise<Attached> => {
    const { base: own, adapter } = given ? await attach(base, given, { anyBase }) : { base, adapter: null };
    const { modules, config } = onBase(own, choice);
    const saved = adapter?.saved ?? new Map();
    checkHead(config, base, [...saved.keys()]);
    const replaced = replacedWeights(modules, [...saved.keys(), ...before.map(({ name }) => name)]);
    const feeds: Record<string, Tensor> = {};
    for (const { name, shape } of replaced) {
      feeds[savedInput(name)] = float32(shape, saved.get(name)?.data ?? (await ownValue(name)));
    }
    return { adapter, config, replaced, feeds };
  };

  const open = async (output: string): Promise<Opened> => {
    const outputs = { [output]: modelOutputs(attached.config)[output]! };
    const graph = withSaved({ outputs }, attached.replaced);
    const names = nodesOf(graph).flatMap(({ op, attributes }) => (op === "input" ? [String(attributes["name"])] : []));
    const opened = { adaptable: adaptableSession(graph, weights, { openSession, threads, baseDtype }), inputs: new Set(names) };
    await bind(opened, attached);
    await opened.adaptable.session();
    return opened;
  };
  const closeAll = async (): Promise<void> => {
    const opened = await Promise.allSettled(sessions.values());
    sessions.clear();
    for (const result of opened) if (result.status === "fulfilled") await result.value.adaptable.close();
  };

  let attached = await attachedTo(adapter, []);
  const next = taskQueue();

  return {
    config: () => attached.config,
    run: (output, feeds) =>
      next(async () => {
        const opening = sessions.get(output) ?? open(output);
        sessions.set(output, opening);
        const opened = await opening.catch((error: unknown) => {
          sessions.delete(output);
          throw error;
        });
        const session = await opened.adaptable.session();
        const { [output]: result } = await session.run(inputsIn(feeds, opened), { fetches: [output] });
        return result!.data as Float32Array;
      }),
    useAdapter: (given) =>
      next(async () => {
        const before = attached;
        attached = await attachedTo(given, before.replaced);
        if (graphOf(before) !== graphOf(attached)) return closeAll();
        for (const opening of sessions.values()) await bind(await opening, attached);
      }),
    close: () => next(closeAll),
  };
}

const bind = ({ adaptable, ...opened }: Opened, { adapter, feeds }: Attached): Promise<void> =>
  adaptable.useAdapter(adapter, inputsIn(feeds, opened));

const inputsIn = (feeds: Record<string, Tensor>, { inputs }: Pick<Opened, "inputs">): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(feeds).filter(([name]) => inputs.has(name)));

/** The weights of a classifier's head and the `named` ones, in the order of the modules. */
function replacedWeights(modules: readonly ModuleInfo[], named: readonly string[]): SavedWeight[] {
  const names = new Set(named);
  return modules.flatMap((module): SavedWeight[] => {
    if (module.kind !== "linear") return [];
    const { path, inFeatures, outFeatures, hasBias, isClassifierHead = false } = module;
    const weight = { name: `${path}.weight`, shape: [outFeatures, inFeatures] };
    const all = hasBias ? [weight, { name: `${path}.bias`, shape: [outFeatures] }] : [weight];
    return all.filter(({ name }) => isClassifierHead || names.has(name));
  });
}

function checkHead(config: ModelConfig, { checkpoint }: AnyBase, saved: readonly string[]): void {
  const { uninitializedHead: newHead, modelType } = config;
  if (newHead === null || saved.includes(`${newHead}.weight`)) return;
  throw new LowrankError("predict/no-head", "neither the model nor the adapter has a classifier", {
    subject: checkpoint.folder,
    expected: `the weights of ${newHead}: a ${modelType} model that was trained to classify, or an adapter with them`,
    got: saved.length > 0 ? `an adapter that brings ${saved.join(", ")}` : "neither",
    next: "Train one (lowrank train), and give it with --adapter.",
  });
}

const messages = {
  classify: "the model does not classify",
  embed: "the model gives no vectors to compare",
};
type Use = keyof typeof messages;

const serves = (use: Use, name: TaskName): boolean => taskOf(name).prediction[use] !== undefined;

/**
 * The base under the head of the task that serves `use`: the one that is given, or of its adapter, or its own; or one whose head it
 * has. Fails with `predict/task` where there is none.
 */
export function baseForUse(base: AnyBase, use: Use, { task, adapter }: PredictorOptions): { name: TaskName; base: AnyBase } {
  const chosen = chooseTask("predict/task", base.config, task, adapter && describedBy(adapter));
  const candidates = [chosen, ...(task ? [] : possibleTasks(base.config))].filter((name) => serves(use, name));
  for (const name of candidates) {
    const own = baseFor(base, name);
    if (name === chosen || own.config.uninitializedHead === null) return { name, base: own };
  }
  const others = taskNames.filter((one) => serves(use, one));
  const own = `As it is, it is for ${useOf(base.config)}.`;
  throw new LowrankError("predict/task", messages[use], {
    subject: base.checkpoint.folder,
    expected: `a model for ${others.map((one) => taskOf(one).what).join(", ")}`,
    got: `${base.config.modelType}, a model for ${taskOf(chosen).what}`,
    next:
      candidates.length > 0
        ? `Train it to (lowrank train --task ${candidates[0]}), and give the adapter with --adapter. ${own}`
        : own,
  });
}
