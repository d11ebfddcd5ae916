// Full fine-tuning's θ and a checkpoint folder: the first value from the base's weights, the trained one as a whole checkpoint.
import { lengthOfTheta, type ThetaEntry } from "../adapters/layout.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { type Checkpoint, findTensor, readWeights, storedName, WEIGHTS_NAME } from "../formats/checkpoint.ts";
import { bytesOf, readableDType } from "../formats/dtypes.ts";
import { fromFloat32, toFloat32 } from "../formats/float.ts";
import { type TensorSource, writeSafetensors } from "../formats/safetensors.ts";
import { copySideFiles } from "../formats/side-files.ts";
import { writtenDType } from "../formats/stored.ts";
import { sizeOf } from "../tensor.ts";

/** A classifier's head that the base does not have: whether a weight is one of it, and its first values. */
export interface NewHead {
  has(name: string): boolean;
  values(name: string, shape: number[]): Float32Array;
}

/**
 * The base's weights as one vector in float32, and those of a new head. Throws if one is missing or has another shape than the
 * config calls for.
 */
export async function readTheta(
  files: Files,
  checkpoint: Checkpoint,
  entries: readonly ThetaEntry[],
  head?: NewHead,
): Promise<Float32Array> {
  const theta = new Float32Array(lengthOfTheta(entries));
  for (const { key, offset, shape } of entries) {
    if (head?.has(key)) {
      theta.set(head.values(key, shape), offset);
      continue;
    }
    const tensor = await readWeights(files, checkpoint, key);
    if (tensor.shape.join() !== shape.join()) {
      throw new LowrankError("checkpoint/shape", "a weight's shape does not match config.json", {
        subject: `${checkpoint.folder}: ${key}`,
        expected: `[${shape.join(", ")}]`,
        got: `[${tensor.shape.join(", ")}]`,
        next: "Check that config.json and the weights come from the same model.",
      });
    }
    theta.set(toFloat32(tensor), offset);
  }
  return theta;
}

export interface WriteOptions {
  /** Weights that are not trained, by name. */
  kept?: readonly string[];
  head?: NewHead;
  /** The config.json that takes the place of the base's. */
  config?: string;
}

/**
 * Writes a checkpoint folder with the weights of `theta`, each in the dtype it has in the base (a new head in that of the base's
 * first weight), the `kept` ones as the base has them, and the base's config and tokenizer files. Tied weights are stored once;
 * tensors that no part of the model reads are left out.
 */
export async function writeTheta(
  files: Files,
  checkpoint: Checkpoint,
  entries: readonly ThetaEntry[],
  folder: string,
  theta: Float32Array,
  { kept = [], head, config }: WriteOptions = {},
): Promise<void> {
  const [first] = entries.filter(({ key }) => !head?.has(key));
  const trained = entries.map(({ key, offset, shape }): TensorSource => {
    const dtype = readableDType(writtenDType(findTensor(checkpoint, head?.has(key) ? first!.key : key)), key);
    const values = () => bytesOf(fromFloat32(theta.subarray(offset, offset + sizeOf(shape)), dtype));
    return { name: storedName(checkpoint, key), dtype, shape, data: values };
  });
  const untrained = kept.map((key): TensorSource => {
    const { shape } = findTensor(checkpoint, key);
    const dtype = readableDType(writtenDType(findTensor(checkpoint, key)), key);
    const values = async () => {
      const tensor = await readWeights(files, checkpoint, key);
      return bytesOf(tensor.dtype === dtype ? tensor.data : fromFloat32(toFloat32(tensor), dtype));
    };
    return { name: storedName(checkpoint, key), dtype, shape, data: values };
  });
  await writeSafetensors(files, `${folder}/${WEIGHTS_NAME}`, [...trained, ...untrained], {
    format: "pt",
    ...checkpoint.metadata,
  });
  await copySideFiles(files, checkpoint.folder, folder);
  if (config !== undefined) await files.write(`${folder}/config.json`, new TextEncoder().encode(config));
}
