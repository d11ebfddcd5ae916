// A decoder with a key-value cache over one ONNX session; adapters are bound inputs, so that changing them rebuilds nothing.
import type { Checkpoint } from "../formats/checkpoint.ts";
import { fuseAdditions } from "../graph/fuse.ts";
import { check, type Graph } from "../graph/graph.ts";
import { gatherRows } from "../graph/ops/indexing.ts";
import { input } from "../graph/ops/leaves.ts";
import { type Adapter, adapterAgainst } from "../lora/adapter.ts";
import { inject, type LoraFactors, loraUpdate } from "../lora/inject.ts";
import type { ModuleInfo } from "../lora/match.ts";
import { cachedInputs } from "../models/blocks.ts";
import type { DecoderConfig } from "../models/config.ts";
import { forward, logitsOf, modulesOf } from "../models/registry.ts";
import { weightFiles } from "../models/weights.ts";
import { lower } from "../onnx/lower.ts";
import type { OpenSession } from "../runtime/session.ts";
import { float32, int32, type Tensor } from "../tensor.ts";
import type { Decoder } from "./types.ts";

/** Positions of a prompt that are run at once: what is held of the attention's scores does not grow with its square. */
const PROMPT_CHUNK = 512;

export interface DecoderOptions {
  checkpoint: Checkpoint;
  config: DecoderConfig;
  openSession: OpenSession;
  /** Threads of one matrix product; all cores if absent. */
  threads?: number;
}

/** A decoder holds a session; close it to free the weights. */
export interface ModelDecoder extends Decoder {
  /**
   * Attaches another adapter, or none, to what is run from now on; a cache keeps what was computed before. Fails with
   * `adapter/*` if it does not fit the model, and the adapter before stays.
   */
  useAdapter(adapter: Adapter | null): Promise<void>;
  close(): Promise<void>;
}

const loraAName = (path: string) => `loraA.${path}`;
const loraBName = (path: string) => `loraB.${path}`;

/** The decoding graph with every linear layer adapted, and its linear layers. */
function decodeGraph(config: DecoderConfig): { graph: Graph; modules: ModuleInfo[] } {
  const { hidden, head, present } = forward(config, cachedInputs(config));
  const last = gatherRows(hidden, input("lastRows", "int32", ["batch"])); // [batch, hidden]
  const outputs = { logits: logitsOf(last, head) }; // [batch, vocab]
  for (const [i, { key, value }] of present.entries()) Object.assign(outputs, { [`key.${i}`]: key, [`value.${i}`]: value });
  const modules = modulesOf({ outputs }).filter(({ kind }) => kind !== "embedding");
  const factors = modules.map(({ path, inFeatures, outFeatures }): [string, LoraFactors] => {
    const rank = `rank.${path}`;
    const loraA = input(loraAName(path), "float32", [rank, inFeatures]);
    const loraB = input(loraBName(path), "float32", [outFeatures, rank]);
    return [path, { loraA, loraB, scale: 1 }];
  });
  return { graph: fuseAdditions(check(inject({ outputs }, loraUpdate({ outputs }, new Map(factors))))), modules };
}

/** The factors of every linear layer, the scale in loraB; rank 0 where the adapter has none, which adds nothing. */
function adapterFeeds(adapter: Adapter | null, modules: readonly ModuleInfo[]): Record<string, Tensor> {
  if (adapter) adapterAgainst(adapter, modules);
  const adapted = new Map(adapter?.modules.map((module) => [module.path, module]));
  return Object.fromEntries(
    modules.flatMap(({ path, inFeatures, outFeatures }) => {
      const { rank, scale } = adapted.get(path) ?? { rank: 0, scale: 1 };
      const { loraA, loraB } = adapter?.tensors.get(path) ?? { loraA: new Float32Array(), loraB: new Float32Array() };
      return [
        [loraAName(path), float32([rank, inFeatures], loraA)],
        [loraBName(path), float32([outFeatures, rank], scale === 1 ? loraB : loraB.map((b) => b * scale))],
      ];
    }),
  );
}

/** Opens the model for decoding, without an adapter. */
export async function openDecoder({ checkpoint, config, openSession, threads }: DecoderOptions): Promise<ModelDecoder> {
  const files = weightFiles(checkpoint);
  const { graph, modules } = decodeGraph(config);
  const session = await openSession(lower(graph, files.locate), { weightsFolder: files.folder, threads });
  await session.bind(adapterFeeds(null, modules));

  const carry: Record<string, string> = {};
  for (let i = 0; i < config.layers; i++)
    Object.assign(carry, { [`key.${i}`]: `pastKey.${i}`, [`value.${i}`]: `pastValue.${i}` });
  const clearCache = (rows: number): Promise<void> => {
    const empty = float32([rows, config.kvHeads, 0, config.headDim], new Float32Array());
    return session.bind(Object.fromEntries(Object.values(carry).map((name) => [name, empty])));
  };

  let rows = 0;
  /** 1 where a cached position may be seen: [rows, past]. */
  let seen = new Int32Array();

  /** Runs `seq` more positions of each row, all arguments [rows, seq]; the logits of each row's last one. */
  const append = async (ids: Int32Array, positionIds: Int32Array, mask: Int32Array): Promise<Float32Array> => {
    const seq = ids.length / rows;
    const past = seen.length / rows;
    const attentionMask = beside(rows, seen, mask);
    const feeds = {
      inputIds: int32([rows, seq], ids),
      positionIds: int32([rows, seq], positionIds),
      cachePositions: int32(
        [seq],
        counting(seq, (i) => past + i),
      ),
      attentionMask: int32([rows, past + seq], attentionMask),
      lastRows: int32(
        [rows],
        counting(rows, (row) => (row + 1) * seq - 1),
      ),
    };
    const { logits } = await session.run(feeds, { fetches: ["logits"], carry });
    seen = attentionMask;
    return logits!.data as Float32Array;
  };

  return {
    vocabSize: config.vocabSize,
    maxPositions: config.maxPositions,
    async start(prompts) {
      rows = prompts.rows;
      seen = new Int32Array();
      await clearCache(rows);
      let logits: Float32Array = new Float32Array();
      for (let start = 0; start < prompts.width; start += PROMPT_CHUNK) {
        const part = (all: Int32Array) => columns(rows, all, start, start + PROMPT_CHUNK);
        logits = await append(part(prompts.ids), part(prompts.positionIds), part(prompts.attentionMask));
      }
      return logits;
    },
    step: (tokens, positionIds) => append(tokens, positionIds, new Int32Array(rows).fill(1)),
    end: () => clearCache(1),
    useAdapter: async (adapter) => session.bind(adapterFeeds(adapter, modules)),
    close: () => session.close(),
  };
}

const counting = (length: number, value: (i: number) => number) => Array.from({ length }, (_, i) => value(i));

/** Columns `start` to `end` (exclusive, or the last) of a [rows, width] rectangle. */
function columns(rows: number, all: Int32Array, start: number, end: number): Int32Array {
  const width = all.length / rows;
  const part = new Int32Array(rows * (Math.min(end, width) - start));
  for (let row = 0; row < rows; row++) {
    part.set(all.subarray(row * width + start, row * width + Math.min(end, width)), (row * part.length) / rows);
  }
  return part;
}

/** Two rectangles of as many rows, side by side. */
function beside(rows: number, left: Int32Array, right: Int32Array): Int32Array<ArrayBuffer> {
  const [a, b] = [left.length / rows, right.length / rows];
  const both = new Int32Array(left.length + right.length);
  for (let row = 0; row < rows; row++) {
    both.set(left.subarray(row * a, (row + 1) * a), row * (a + b));
    both.set(right.subarray(row * b, (row + 1) * b), row * (a + b) + a);
  }
  return both;
}
