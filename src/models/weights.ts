// From a checkpoint's tensors to the external-data entries of a model: locations relative to one folder, links resolved.
import { LowrankError, nearest } from "../errors.ts";
import { type Checkpoint, storedName } from "../formats/checkpoint.ts";
import type { LocateWeight } from "../onnx/emitter.ts";

export interface WeightFiles {
  /** The folder that every weight file lies in or below. */
  folder: string;
  locate: LocateWeight;
}

/** Where the weights of `checkpoint` lie. Nothing is read or copied. */
export function weightFiles(checkpoint: Checkpoint): WeightFiles {
  const folder = commonFolder([...checkpoint.tensors.values()].map((tensor) => tensor.file));
  return {
    folder,
    locate: (name) => {
      const tensor = checkpoint.tensors.get(storedName(checkpoint, name));
      if (!tensor) {
        throw new LowrankError("checkpoint/missing-tensor", "the checkpoint lacks a tensor that its config.json calls for", {
          subject: name,
          expected: `a tensor of that name in ${checkpoint.folder}`,
          got: `${checkpoint.tensors.size} tensors, the nearest ${nearest(name, checkpoint.tensors.keys(), 2).join(", ")}`,
          next: "Check that config.json and the weights come from the same model.",
        });
      }
      return { ...tensor, location: tensor.file.slice(folder.length + 1) };
    },
  };
}

function commonFolder(paths: readonly string[]): string {
  const folders = [...new Set(paths)].map((path) => path.split("/").slice(0, -1));
  const first = folders[0] ?? [];
  const shared = first.findIndex((part, i) => folders.some((folder) => folder[i] !== part));
  return (shared === -1 ? first : first.slice(0, shared)).join("/");
}
