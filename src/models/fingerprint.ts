// Whether an adapter was made for a base: a short name for the model and a sample of its weights, which the adapter's file keeps.
import type { Files } from "../files.ts";
import type { Checkpoint, CheckpointTensor } from "../formats/checkpoint.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import type { AnyBase } from "./base.ts";
import type { DecoderConfig } from "./config/config.ts";
import type { HeadConfig } from "./heads/head.ts";
import type { ModelConfig } from "./registry.ts";

/** Bytes from the middle of a tensor: what fine-tuning changes, it changes in some of 128 values. */
const SAMPLE_BYTES = 256;
/** Tensors that are sampled; a 7B model has 291. Each costs one small read. */
const MAX_SAMPLES = 1024;
/** Of the way that names are made: those of another version say nothing. */
const VERSION = 3;

/** Keys of a config that a name does not depend on: those of heads, of tokens, and what is only a limit. */
const noDimension = new Set<string>([
  ...(["dtype", "bosId", "eosIds", "padId", "maxPositions"] satisfies (keyof DecoderConfig)[]),
  ...(["head", "labels", "problemType", "uninitializedHead"] satisfies (keyof HeadConfig)[]),
  ...(["pooling", "maxTokens", "prompts", "promptName"] satisfies (keyof HeadConfig)[]),
]);

/**
 * A short name for a base: its dimensions, the names, dtypes and shapes of its tensors, and a sample of their bytes (at
 * most 256 KiB are read). Two fine-tunes of one architecture differ; where the files lie and how they are cut does not matter.
 */
export async function baseFingerprint(files: Files, { tensors }: Checkpoint, config: ModelConfig): Promise<string> {
  const dimensions = Object.fromEntries(Object.entries(config).filter(([key]) => !noDimension.has(key)));
  const entries = [...tensors].sort(([a], [b]) => (a < b ? -1 : 1));
  const stride = Math.ceil(entries.length / MAX_SAMPLES);
  const samples: Uint8Array[] = [];
  for (const [, tensor] of entries.filter((_, i) => i % stride === 0)) samples.push(await sampleOf(files, tensor));
  return `${VERSION}:${fingerprint([...textsOf(dimensions, entries), ...samples])}`;
}

async function sampleOf(files: Files, { file, offset, length }: CheckpointTensor): Promise<Uint8Array> {
  const size = Math.min(SAMPLE_BYTES, length);
  return size === 0 ? new Uint8Array() : files.read(file, offset + Math.floor((length - size) / 2), size);
}

/** The first version's name, which adapters of lowrank 0.1 carry: all of config.json and the layout, no weights. */
const layoutFingerprint = ({ config, tensors }: Checkpoint): string => fingerprint(textsOf(config, [...tensors]));

const textsOf = (config: object, tensors: readonly [string, CheckpointTensor][]): Uint8Array[] => {
  const lines = tensors.map(([name, { dtype, shape }]) => `${name} ${dtype} ${shape.join(" ")}`).sort();
  return [JSON.stringify(config), ...lines].map((text) => new TextEncoder().encode(text));
};

/** Whether `name`, which an adapter carries, is that of `base`; null if the adapter carries none, or one of another version. */
export async function isMadeFor(base: AnyBase, name: string | undefined): Promise<boolean | null> {
  if (name === undefined) return null;
  if (/^[0-9a-f]{16}$/.test(name)) return name === layoutFingerprint(base.checkpoint);
  return name.startsWith(`${VERSION}:`) ? name === (await base.fingerprint()) : null;
}
