// The base's weight files while a run uses them: read once (a SHA-256 of each, and whether every weight is a number), then watched.
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { type CheckpointTensor, entryOf, type Shard, tensorsIn } from "../formats/checkpoint.ts";
import type { MakeDigest } from "../formats/checksums.ts";
import { tensorFromBytes } from "../formats/dtypes.ts";
import { allFinite, type FloatDType, isFloat, toFloat32 } from "../formats/float.ts";
import { quote } from "../formats/json.ts";
import { neighbours } from "../formats/safetensors.ts";
import { BLOCK_BYTES, readInBlocks } from "../formats/side-files.ts";
import { type AnyBase, once } from "../models/base.ts";
import { weightsIn } from "../models/module.ts";
import { forwardGraph } from "../models/registry.ts";

/** What a run remembers of weight files, by name. All weights of a file that is remembered are finite. */
export type WeightRecords = Record<string, { stamp: string; sha256: string | null }>;

export interface BaseWatch {
  /**
   * Reads the files whose stamps are not those of `known`. Fails with `checkpoint/not-finite` for a weight that is NaN or infinite, with
   * `train/resume-mismatch` for a file of other content than `known`, with `train/base-changed` for one that changed meanwhile.
   */
  read(): Promise<WeightRecords>;
  /** Fails with `train/base-changed` if a file is not the one that was opened. `saved` is the newest checkpoint. */
  check(saved: string | null): Promise<void>;
  close(): Promise<unknown>;
}

/** Watches the files of `base`; `known` is what the run to be resumed remembers. Without `digest` files are compared by their stamps. */
export function watchBase(files: Files, base: AnyBase, digest?: MakeDigest, known: WeightRecords = {}): BaseWatch {
  const { shards } = base.checkpoint;
  const records: WeightRecords = {};
  const isRead = readBy(base);
  let isClosed = false;

  /** The SHA-256 of a file, after a look at each of its weights. */
  async function scan({ file }: Shard): Promise<string | null> {
    const hash = digest?.();
    const memory = new Uint8Array(BLOCK_BYTES);
    const tensors = await tensorsIn(files, file);
    let hashed = 0;
    const hashTo = async (end: number) => {
      for await (const block of readInBlocks(files, file, hashed, end - hashed, memory)) hash?.add(block);
    };
    for (const group of neighbours([...tensors].map(([name, entry]) => ({ name, ...entry })))) {
      let at = group[0]!.offset;
      await hashTo(at); // the header, or what aligns tensors
      hashed = group.at(-1)!.offset + group.at(-1)!.length;
      for await (const block of readInBlocks(files, file, at, hashed - at, memory)) {
        if (isClosed) return null;
        hash?.add(block);
        for (const tensor of group) {
          const part = block.subarray(Math.max(0, tensor.offset - at), tensor.offset + tensor.length - at);
          const { dtype } = tensor;
          if (!isFloat(dtype) || allFinite(part, dtype) || !isRead(file, tensor)) continue;
          throw notFinite(`${file}: ${quote(tensor.name)}`, dtype, part);
        }
        at += block.length;
      }
    }
    await hashTo(await files.size(file));
    return hash?.end() ?? null;
  }

  async function readShard(shard: Shard): Promise<void> {
    const before = known[shard.name];
    if (before?.stamp === shard.stamp) records[shard.name] = before;
    else {
      const sha256 = await scan(shard).catch(async (error) => {
        throw (await stampOf(files, shard)) === shard.stamp ? error : await changed(files, base, shard, null);
      });
      if (before?.sha256 && sha256 && before.sha256 !== sha256) throw otherContent(shard, before.sha256, sha256);
      records[shard.name] = { stamp: shard.stamp, sha256 };
    }
    if (!isClosed && (await stampOf(files, shard)) !== shard.stamp) throw await changed(files, base, shard, null);
  }

  async function checkShard(shard: Shard, saved: string | null): Promise<void> {
    const record = records[shard.name]!;
    const stamp = await stampOf(files, shard);
    if (stamp === record.stamp) return;
    // Another owner, mode, time or number of links changes the stamp too.
    const isSame = stamp !== null && record.sha256 !== null && (await scan(shard).catch(() => null)) === record.sha256;
    if (!isSame || (await stampOf(files, shard)) !== stamp) throw await changed(files, base, shard, saved);
    record.stamp = stamp;
  }

  const read = once(async () => {
    for (const shard of shards) await readShard(shard);
    return records;
  });
  return {
    read,
    check: async (saved) => {
      await read();
      await Promise.all(shards.map((shard) => checkShard(shard, saved)));
    },
    async close() {
      isClosed = true;
      await read().catch(() => {});
    },
  };
}

/** Whether a model reads a tensor of a file: checkpoints hold others too, such as masks of infinities. */
export function readBy({
  checkpoint,
  config,
}: AnyBase): (file: string, entry: Pick<CheckpointTensor, "offset" | "length">) => boolean {
  const ranges = once(() => weightsIn(forwardGraph(config)).flatMap(({ name }) => entryOf(checkpoint, name) ?? []));
  return (file, { offset, length }) =>
    ranges().some((range) => range.file === file && range.offset >= offset && range.offset < offset + length);
}

/** The file's stamp; null if it is gone. */
const stampOf = (files: Files, { file }: Shard): Promise<string | null> =>
  files.stamp(file).catch((error) => (error.code === "file/missing" ? null : Promise.reject(error)));

function notFinite(subject: string, dtype: FloatDType, part: Uint8Array): LowrankError {
  const values = toFloat32(tensorFromBytes(dtype, [part.length], part));
  return new LowrankError("checkpoint/not-finite", "a weight of the base holds a value that is no number", {
    subject,
    expected: "finite values",
    got: String(values.find((value) => !Number.isFinite(value))),
    next: "The file is damaged, or the training that made it diverged: download the checkpoint again, or use another one.",
  });
}

const otherContent = ({ file }: Shard, expected: string, got: string): LowrankError =>
  new LowrankError("train/resume-mismatch", "a weight file of the base has another content than when the run began", {
    subject: file,
    expected: `SHA-256 ${expected}`,
    got: `SHA-256 ${got}`,
    next: "Restore the file (download the base again), or train into another folder.",
  });

async function changed(files: Files, { checkpoint }: AnyBase, shard: Shard, saved: string | null): Promise<LowrankError> {
  const { file } = shard;
  const own = [...checkpoint.tensors.values()].filter((tensor) => tensor.file === file);
  const size = await files.size(file).catch(() => null);
  const length = own.reduce((end, tensor) => Math.max(end, tensor.offset + tensor.length), 0);
  const kept = saved === null ? "Nothing was saved" : `Nothing was saved since; the last complete checkpoint is ${saved}`;
  return new LowrankError("train/base-changed", "a weight file of the base changed while the run used it", {
    subject: file,
    expected: `the file that was opened, ${length} bytes`,
    got: size === null ? "no such file" : size === length ? "as many bytes, other content" : `${size} bytes`,
    next: `${kept}. Leave the base alone while a run goes on. Restore the file, then resume; or train into another folder.`,
    exitCode: 1,
  });
}
