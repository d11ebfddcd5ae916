// A checkpoint whose output layer has a weight of its own, where the base ties it to its embedding: so that one of them can change.
import { LowrankError } from "../errors.ts";
import { type Checkpoint, findTensor, storedName } from "../formats/checkpoint.ts";
import type { AnyBase } from "./base.ts";

/** The stored name of the embedding that is the output layer, too; null where they are two weights, or none. */
export function tiedWeight({ config, modules }: AnyBase, checkpoint: Checkpoint): string | null {
  const embedding = modules.find(({ kind }) => kind === "embedding");
  const isTied = "tieWordEmbeddings" in config && config.tieWordEmbeddings;
  return isTied && embedding ? storedName(checkpoint, `${embedding.path}.weight`) : null;
}

/** `checkpoint` with the output layer's weight as a tensor of its own, which lies where the embedding's does. Throws `merge/option`. */
export function untied(base: AnyBase, checkpoint: Checkpoint): Checkpoint {
  const tied = tiedWeight(base, checkpoint);
  const output = base.modules.find(({ isOutputEmbedding }) => isOutputEmbedding);
  if (tied === null || !output) {
    throw new LowrankError(
      "merge/option",
      "there is nothing to untie: the output layer has a weight of its own, or there is none",
      {
        subject: "untie",
        expected: "a model whose output layer is its embedding (tie_word_embeddings)",
        got: checkpoint.folder,
        next: "Leave out untie.",
      },
    );
  }
  return { ...checkpoint, tensors: new Map([...checkpoint.tensors, [`${output.path}.weight`, findTensor(checkpoint, tied)]]) };
}
