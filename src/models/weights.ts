// From a checkpoint's tensors to the external-data entries of a model: locations relative to one folder, links resolved.
import { LowrankError, nearest } from "../errors.ts";
import { type Checkpoint, type CheckpointTensor, entryOf } from "../formats/checkpoint.ts";
import { isPlain } from "../formats/stored.ts";
import type { Graph } from "../graph/graph.ts";
import type { WeightSource } from "../runtime/session.ts";
import { sizeOf } from "../tensor.ts";
import type { StoredIn } from "./family.ts";
import { weightsIn } from "./module.ts";

/** Where the weights of `checkpoint` lie. Nothing is read or copied. */
export function weightFiles(checkpoint: Checkpoint): WeightSource {
  // An engine that is given some weights in memory reads none from files.
  const inPlace = [...checkpoint.tensors.values()].every(isPlain);
  const folder = commonFolder([...checkpoint.tensors.values()].map((tensor) => tensor.file));
  return {
    folder,
    locate: (name) => {
      const tensor = entryOf(checkpoint, name);
      if (!tensor) {
        throw new LowrankError("checkpoint/missing-tensor", "the checkpoint lacks a tensor that config.json requires", {
          subject: name,
          expected: `a tensor of that name in ${checkpoint.folder}`,
          got: `${checkpoint.tensors.size} tensors, the nearest ${nearest(name, checkpoint.tensors.keys(), 2).join(", ")}`,
          next: "Check that config.json and the weights come from the same model.",
        });
      }
      if (inPlace) return { ...tensor, location: tensor.file.slice(folder.length + 1) };
      const { shape } = tensor;
      return { location: `values/${name}`, offset: 0, length: 4 * sizeOf(shape), dtype: "float32", shape, converted: tensor };
    },
  };
}

/**
 * The weights of `graph` that `tensors` has inside larger ones: byte ranges of the same files. `place` says in which. What does
 * not fit in there is left out, and missed when it is read.
 */
export function storedParts(
  graph: Graph,
  tensors: ReadonlyMap<string, CheckpointTensor>,
  place: (name: string) => StoredIn | undefined,
): Map<string, CheckpointTensor> {
  const parts = new Map<string, CheckpointTensor>();
  for (const { name } of weightsIn(graph)) {
    const at = place(name);
    const whole = at && tensors.get(at.tensor);
    if (!at || whole?.shape.length !== 3) continue;
    const { index, half } = at;
    const [count, rows, columns] = whole.shape as [number, number, number];
    const shares = half === undefined ? 1 : 2;
    const length = whole.length / count / shares;
    if (index >= count || rows % shares !== 0 || !Number.isInteger(length)) continue;
    const offset = whole.offset + (index * shares + (half ?? 0)) * length;
    parts.set(name, { ...whole, shape: [rows / shares, columns], offset, length });
  }
  return parts;
}

function commonFolder(paths: readonly string[]): string {
  const folders = [...new Set(paths)].map((path) => path.split("/").slice(0, -1));
  const first = folders[0] ?? [];
  const shared = first.findIndex((part, i) => folders.some((folder) => folder[i] !== part));
  return (shared === -1 ? first : first.slice(0, shared)).join("/");
}
