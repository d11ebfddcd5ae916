// Adapters that begin with a part of the base (PiSSA, OLoRA): what they train is beside W − s·B₀·A₀. With [B, −B₀]·[A; A₀] they are plain
// adapters of W, of twice the rank: what PEFT's path_initial_model_for_weight_conversion writes.
import type { AnyBase } from "../models/base.ts";
import { firstTensors } from "./init.ts";
import { initializationOf } from "./initializations.ts";
import type { Trained } from "./layout.ts";
import type { ModuleTensors } from "./method.ts";
import { type Adapter, failure } from "./peft-files.ts";

/** Whether the adapter, as it is stored or trained, is for a base that is reduced by its first factors. */
export const isResidual = ({ config }: Pick<Adapter, "config">): boolean =>
  initializationOf(config.initLoraWeights).fromWeight !== undefined;

/** The adapter if it is for the base itself. Throws `adapter/residual` for one that has to meet its base first. */
export function checkPlain(adapter: Adapter): Adapter {
  if (!isResidual(adapter)) return adapter;
  throw failure("residual", `the adapter is for a base without its first values (${adapter.config.initLoraWeights})`, {
    subject: "init_lora_weights",
    expected: "an adapter for the base itself",
    got: String(adapter.config.initLoraWeights),
    next: "Give its base too (--base), from which the first values are computed again, or convert it with PEFT: save_pretrained with path_initial_model_for_weight_conversion.",
  });
}

/** The plain adapter of `base` that an adapter as PEFT stores it is; one that is plain as it is. The first factors are computed again. */
export async function withoutResidual(base: AnyBase, adapter: Adapter): Promise<Adapter> {
  if (!isResidual(adapter)) return adapter;
  const { config, modules } = adapter;
  if (!initializationOf(config.initLoraWeights).isRepeatable) {
    throw failure("residual", `the first values of "${config.initLoraWeights}" are other ones at every load`, {
      subject: "init_lora_weights",
      expected: 'a plain adapter, or one that begins with "pissa" or "olora"',
      got: String(config.initLoraWeights),
      next: "Convert it in the PEFT session that trained it: save_pretrained with path_initial_model_for_weight_conversion.",
    });
  }
  const first = await firstTensors(base, config, modules, 0);
  const tensors = new Map(
    modules.map(({ path }): [string, ModuleTensors] => {
      const { initialA, initialB } = first.get(path)!;
      return [path, { ...adapter.tensors.get(path)!, ...(initialA && initialB && { initialA, initialB }) }];
    }),
  );
  return plainAdapter({ ...adapter, tensors });
}

/** The plain adapter that one with first factors beside its own is. */
export function plainAdapter(adapter: Adapter): Adapter {
  if (!isResidual(adapter)) return adapter;
  const tensors = new Map(
    adapter.modules.map(({ path, rank }): [string, ModuleTensors] => [path, doubled(adapter.tensors.get(path)!, rank)]),
  );
  return { ...adapter, ...plainModules(adapter), tensors };
}

/** What it adapts, and its configuration. */
export function plainModules({ config, modules }: Pick<Trained, "config" | "modules">): Pick<Adapter, "config" | "modules"> {
  if (!isResidual({ config })) return { config, modules: [...modules] };
  // scale = alpha / rank, or alpha / sqrt(rank): the same for twice the rank.
  const factor = config.useRslora ? Math.SQRT2 : 2;
  const times = (patterns: Record<string, number>, by: number) =>
    Object.entries(patterns).map(([key, value]): [string, number] => [key, by * value]);
  const embeddings = modules.filter(({ isEmbedding }) => isEmbedding);
  return {
    config: {
      ...config,
      initLoraWeights: true,
      rank: 2 * config.rank,
      alpha: factor * config.alpha,
      // The first that matches counts; an embedding stays as it is.
      rankPattern: Object.fromEntries([...embeddings.map(({ path, rank }) => [path, rank]), ...times(config.rankPattern, 2)]),
      alphaPattern: Object.fromEntries([
        ...embeddings.map(({ path, alpha }) => [path, alpha]),
        ...times(config.alphaPattern, factor),
      ]),
    },
    modules: modules.map((module) => {
      return module.isEmbedding ? module : { ...module, rank: 2 * module.rank, alpha: factor * module.alpha };
    }),
  };
}

function doubled({ initialA, initialB, ...own }: ModuleTensors, rank: number): ModuleTensors {
  if (!initialA || !initialB) return own as ModuleTensors;
  const loraA = new Float32Array(2 * own.loraA.length);
  loraA.set(own.loraA);
  loraA.set(initialA, own.loraA.length);
  const loraB = new Float32Array(2 * own.loraB.length);
  for (let i = 0; i < own.loraB.length; i += rank) {
    loraB.set(own.loraB.subarray(i, i + rank), 2 * i);
    for (let r = 0; r < rank; r++) loraB[2 * i + rank + r] = -initialB[i + r]!;
  }
  return { ...own, loraA, loraB };
}
