// What the goldens of PiSSA and OLoRA have beside an adapter: the reduced base (residual/), and the plain adapter after training (converted/).
import { mergedRows } from "../../src/adapters/merge.ts";
import { type Adapter, readAdapter } from "../../src/adapters/peft-files.ts";
import { isResidual, plainAdapter } from "../../src/adapters/residual.ts";
import { readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import type { AnyBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { sizeOf } from "../../src/tensor.ts";
import { deltaOf } from "./algebra-case.ts";
import { type Finding, limits, near, same } from "./compare.ts";
import { joined, numbersOf, readTensors } from "./golden.ts";

const deltas = (adapter: Adapter) => new Map(adapter.modules.map(({ path }) => [path, deltaOf(adapter, path)]));

/** The base without the first factors, which `first` has as an adapter's, and what PEFT began with: the same product. */
export async function residualBase(folder: string, { checkpoint }: AnyBase, first: Adapter): Promise<Finding[]> {
  if (!isResidual(first)) return [];
  const values = new Map<string, Float32Array>();
  for (const [name, entry] of checkpoint.tensors) {
    const module = first.modules.find(({ path }) => name === `${path}.weight`);
    const { loraA, loraB } = (module && first.tensors.get(module.path)) ?? {};
    const target = module && { weightName: name, loraA: loraA!, loraB: loraB!, rank: module.rank, scale: -module.scale };
    values.set(
      name,
      target
        ? await joined(mergedRows(nodeFiles, entry, target), sizeOf(entry.shape))
        : toFloat32(await readWeights(nodeFiles, checkpoint, name)),
    );
  }
  const golden = numbersOf(await readTensors(`${folder}/residual/model.safetensors`));
  return [
    near("reduced base", values, golden, limits.merged),
    near("first updates", deltas(first), deltas(await readAdapter(nodeFiles, `${folder}/adapter`)), limits.merged),
  ];
}

/** The plain adapter that the trained one is: its updates, and its configuration. */
export async function converted(folder: string, trained: Adapter): Promise<Finding[]> {
  if (!isResidual(trained)) return [];
  const [ours, theirs] = [plainAdapter(trained), await readAdapter(nodeFiles, `${folder}/converted`)];
  const known = ({ config: { rank, alpha, initLoraWeights }, modules }: Adapter) => [
    rank,
    alpha,
    initLoraWeights,
    ...[...modules].sort((a, b) => (a.path < b.path ? -1 : 1)),
  ];
  return [
    near("converted updates", deltas(ours), deltas(theirs), limits.trained),
    same("converted config", known(ours), known(theirs)),
  ];
}
