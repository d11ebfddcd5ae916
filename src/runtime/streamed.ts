// Weights that are read anew whenever their stage runs, while the stages before run: memory for those of a few stages.
import type { ElementType } from "../graph/graph.ts";
import type { Handle, Machine, Memory } from "./machine.ts";

/** Stages with weights whose reading begins before they run. */
export const STAGES_AHEAD = 2;
const ALIGNED = 64;

/** A tensor that is read whenever its stage runs. */
export interface StageRead {
  dtype: ElementType;
  shape: readonly number[];
  /** Bytes in memory. */
  length: number;
  read(into: Uint8Array): Promise<unknown>;
}

/** What a stage is given from files: tensors by the names of its sources. */
export type StageReads = ReadonlyMap<string, StageRead>;

/** The weights of a stage in memory. */
interface Loaded {
  memory: Memory;
  handles: Map<string, Handle>;
  /** All of it is read. */
  ready: Promise<unknown>;
  /** Nothing is read any more, well or not. */
  ended: Promise<unknown>;
  hasEnded: boolean;
  /** Whether reading failed. */
  isBroken: boolean;
}

const roundUp = (length: number): number => Math.ceil(length / ALIGNED) * ALIGNED;
const bytesOf = (reads: StageReads): number => [...reads.values()].reduce((sum, { length }) => sum + roundUp(length), 0);

/** Reads the weights of stages, of which `reads` has one for each; none where a stage has no such weights. */
export function streamedWeights(reads: readonly StageReads[], machine: Machine) {
  const keys = reads.map((own) => [...own.keys()].sort().join("\n"));
  const sizes = reads.map(bytesOf);
  const loaded = new Map<string, Loaded>();
  const unused: Memory[] = [];
  const releasing = new Set<Promise<void>>();

  /** Unused memory that is large enough, or new memory in place of what is too small. */
  function allocate(bytes: number): Memory {
    unused.sort((a, b) => a.bytes.length - b.bytes.length);
    const at = unused.findIndex((memory) => memory.bytes.length >= bytes);
    if (at >= 0) return unused.splice(at, 1)[0]!;
    unused.pop()?.free();
    return machine.allocate(bytes);
  }
  function begin(stage: number): Loaded {
    const known = loaded.get(keys[stage]!);
    if (known) return known;
    const memory = allocate(sizes[stage]!);
    const handles = new Map<string, Handle>();
    const reading: Promise<unknown>[] = [];
    let at = 0;
    for (const [name, { read, length, dtype, shape }] of reads[stage]!) {
      const bytes = memory.bytes.subarray(at, at + length);
      at += roundUp(length);
      handles.set(name, machine.tensor(dtype, shape, bytes));
      reading.push(read(bytes));
    }
    const [ready, ended] = [Promise.all(reading), Promise.allSettled(reading)];
    const own: Loaded = { memory, handles, ready, ended, hasEnded: false, isBroken: false };
    ended.then(() => {
      own.hasEnded = true;
    });
    own.ready.catch(() => {
      own.isBroken = true; // and the stage that awaits it fails
    });
    loaded.set(keys[stage]!, own);
    return own;
  }
  /** Once nothing is written there any more, its memory is free. */
  function release(key: string): void {
    const { memory, handles, ended, hasEnded } = loaded.get(key)!;
    loaded.delete(key);
    const free = () => {
      for (const handle of handles.values()) machine.free(handle);
      unused.push(memory);
    };
    if (hasEnded) {
      free();
      return;
    }
    const later = ended.then(() => {
      free();
      releasing.delete(later);
    });
    releasing.add(later);
  }

  return {
    /** A run of the stages `order`, after which another begins with the same. */
    run(order: readonly number[]) {
      const stageAt = (at: number) => order[at % order.length]!;
      /** The stages with weights that come after `at`. */
      const ahead = (at: number): number[] => {
        const found: number[] = [];
        for (let next = at + 1; next < at + order.length && found.length < STAGES_AHEAD; next++) {
          if (sizes[stageAt(next)]! > 0) found.push(stageAt(next));
        }
        return found;
      };
      /** Whether only much smaller stages come before one reads the same, as between the last layer forward and backward. */
      const isKept = (at: number): boolean => {
        for (let next = at + 1; next < at + order.length; next++) {
          if (keys[stageAt(next)] === keys[stageAt(at)]) return true;
          if (2 * sizes[stageAt(next)]! > sizes[stageAt(at)]!) return false;
        }
        return false;
      };
      const first = new Set([order[0]!, ...ahead(0)].map((stage) => keys[stage]));
      for (const [key, { isBroken }] of [...loaded]) if (isBroken || !first.has(key)) release(key);
      return {
        /** The weights of the stage at place `at`; reading of the next ones begins. */
        async of(at: number): Promise<ReadonlyMap<string, Handle>> {
          const own = sizes[stageAt(at)]! > 0 ? begin(stageAt(at)) : undefined;
          for (const stage of ahead(at)) begin(stage);
          await own?.ready;
          return own?.handles ?? new Map();
        },
        /** It has run. */
        done(at: number): void {
          const key = keys[stageAt(at)]!;
          if (sizes[stageAt(at)]! === 0 || isKept(at) || ahead(at).some((stage) => keys[stage] === key)) return;
          release(key);
        },
      };
    },
    async close(): Promise<void> {
      for (const key of [...loaded.keys()]) release(key);
      await Promise.all(releasing);
      for (const memory of unused.splice(0)) memory.free();
    },
  };
}
