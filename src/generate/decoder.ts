// A decoder with a key-value cache over one ONNX session; adapters are bound inputs, so that changing them rebuilds nothing.

import { adaptableSession } from "../adapters/adaptable.ts";
import { fitAdapter } from "../adapters/attach.ts";
import { gateFeed } from "../adapters/inject.ts";
import { mixtureOf, weightFeeds } from "../adapters/mixture.ts";
import type { Adapter } from "../adapters/peft-files.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { Graph } from "../graph/graph.ts";
import { gatherRows } from "../graph/ops/indexing.ts";
import { input } from "../graph/ops/leaves.ts";
import { placedApart } from "../models/images.ts";
import { cachedInputs } from "../models/layers/blocks.ts";
import { allModulesOf, type DecoderModel, forward, forwardGraph, logitsOf, olderNames, visionOf } from "../models/registry.ts";
import { weightFiles } from "../models/weights.ts";
import type { Engine } from "../runtime/open-graph.ts";
import { float32, int32, type Tensor } from "../tensor.ts";
import { imageEncoder, type PromptImages } from "./images.ts";
import { beside, columns } from "./rectangle.ts";
import type { Decoder } from "./types.ts";

/** Positions of a prompt that are run at once: what is held of the attention's scores does not grow with its square. */
const PROMPT_CHUNK = 512;

export interface DecoderOptions extends Omit<Engine, "profile"> {
  checkpoint: Checkpoint;
  config: DecoderModel;
  /** Attached from the start. */
  adapter?: Adapter | null;
  /** Keep the cache of a prompt that is run alone: the next one that begins with all of it runs the rest only. Prompts with images do not. */
  reusePrefix?: boolean;
}

/** A decoder holds a session; close it to free the weights. */
export interface ModelDecoder extends Decoder {
  /**
   * Attaches another adapter, or none, to what is run from now on; a cache keeps what was computed before, unless the adapter is of
   * another method than those before it. Fails with `adapter/*` if it does not fit the model, and the adapter before stays.
   */
  useAdapter(adapter: Adapter | null): Promise<void>;
  /** Attaches several LoRA adapters at once, which the weights of each prompt mix. */
  useAdapters(adapters: readonly Adapter[]): Promise<void>;
  close(): Promise<void>;
}

function decodeGraph(config: DecoderModel): Graph {
  const vision = visionOf(config);
  const inputs = { ...cachedInputs(config), ...(vision && { images: placedApart(vision, config) }) };
  const { hidden, output, present } = forward(config, inputs);
  const last = gatherRows(hidden, input("lastRows", "int32", ["batch"])); // [batch, hidden]
  const outputs = { logits: logitsOf(last, output) }; // [batch, vocab]
  for (const [i, { key, value }] of present.entries()) Object.assign(outputs, { [`key.${i}`]: key, [`value.${i}`]: value });
  return { outputs };
}

export async function openDecoder(options: DecoderOptions): Promise<ModelDecoder> {
  const { checkpoint, config, openSession, threads, baseDtype, reusePrefix = false } = options;
  const vision = visionOf(config);
  const encoder = vision && imageEncoder(vision, options);
  const allModules = allModulesOf(forwardGraph(config), (name) => olderNames(config, name));
  const adaptable = adaptableSession(decodeGraph(config), weightFiles(checkpoint), { openSession, threads, baseDtype });
  /** Tokens whose keys and values are kept when a generation has ended; null where there are none, or others too. */
  let cached: number[] | null = null;
  const useAdapter = async (given: Adapter | null): Promise<void> => {
    const adapter = given && fitAdapter(given, allModules);
    cached = null;
    await adaptable.useAdapter(adapter);
    await encoder?.useAdapter(adapter);
  };
  const useAdapters = async (given: readonly Adapter[]): Promise<void> => {
    const mixture = mixtureOf(
      given.map((adapter) => fitAdapter(adapter, allModules)),
      { anyBase: true },
    );
    cached = null;
    await adaptable.useMixture(mixture);
    await encoder?.useAdapter(null);
  };
  await useAdapter(options.adapter ?? null);
  await adaptable.session();

  const carry: Record<string, string> = {};
  for (let i = 0; i < config.layers; i++)
    Object.assign(carry, { [`key.${i}`]: `pastKey.${i}`, [`value.${i}`]: `pastValue.${i}` });
  const clearCache = async (rows: number): Promise<void> => {
    const empty = float32([rows, config.kvHeads, 0, config.headDim], new Float32Array());
    const session = await adaptable.session();
    return session.bind(Object.fromEntries(Object.values(carry).map((name) => [name, empty])));
  };

  let rows = 0;
  /** 1 where a cached position may be seen: [rows, past]. */
  let seen = new Int32Array();
  let images: PromptImages | undefined;
  let adapterWeights: Float32Array | undefined;
  /** Which tokens of the prompts the adapter acts on, [rows, width], and whether it acts on what follows: [rows, 1]. */
  let gate: Int32Array | null = null;
  let gateAfter = new Int32Array();

  /** Runs `seq` more positions of each row, the first arguments [rows, seq]; the logits of each row's last one. */
  const append = async (
    ids: Int32Array,
    positionIds: Int32Array,
    mask: Int32Array,
    imageFeeds: Record<string, Tensor> | undefined,
    gated: Int32Array,
  ): Promise<Float32Array> => {
    const seq = ids.length / rows;
    const past = seen.length / rows;
    const attentionMask = beside(rows, seen, mask);
    const cachePositions = Array.from({ length: seq }, (_, i) => past + i);
    const lastRows = Array.from({ length: rows }, (_, row) => (row + 1) * seq - 1);
    const feeds = {
      inputIds: int32([rows, seq], ids),
      positionIds: int32([rows, seq], positionIds),
      cachePositions: int32([seq], cachePositions),
      attentionMask: int32([rows, past + seq], attentionMask),
      lastRows: int32([rows], lastRows),
      ...imageFeeds,
      ...(gate && gateFeed(gated)),
    };
    const { mixed } = adaptable;
    if (mixed !== null) Object.assign(feeds, weightFeeds(adapterWeights ?? new Float32Array(rows * mixed).fill(1), rows, seq));
    const session = await adaptable.session();
    const { logits } = await session.run(feeds, { fetches: ["logits"], carry });
    seen = attentionMask;
    cached?.push(...ids);
    return logits!.data as Float32Array;
  };

  return {
    vocabSize: config.vocabSize,
    maxPositions: config.maxPositions,
    async start(prompts) {
      const isAlone = reusePrefix && prompts.rows === 1 && !prompts.images && !prompts.adapterWeights;
      const before = isAlone ? (cached ?? []) : [];
      const begun = before.length < prompts.width && before.every((id, i) => id === prompts.ids[i]) ? before.length : 0;
      rows = prompts.rows;
      adapterWeights = prompts.adapterWeights;
      cached = null;
      if (begun === 0) {
        seen = new Int32Array();
        await clearCache(rows);
      }
      images = await encoder?.encode(prompts);
      gate = adaptable.gateOf({ inputIds: int32([rows, prompts.width], prompts.ids) });
      gateAfter = gate ? columns(rows, gate, prompts.width - 1, prompts.width) : gateAfter;
      // What an adapter acts on depends on the whole prompt: another prompt's cache is not its own.
      if (isAlone && !adaptable.gateOf({ inputIds: int32([1, 0], []) })) cached = before.slice(0, begun);
      let logits: Float32Array = new Float32Array();
      for (let start = begun; start < prompts.width; start += PROMPT_CHUNK) {
        const end = start + PROMPT_CHUNK;
        const part = (all: Int32Array) => columns(rows, all, start, end);
        const feeds = images?.columns(start, end);
        const gated = gate ? columns(rows, gate, start, end) : gateAfter;
        logits = await append(part(prompts.ids), part(prompts.positionIds), part(prompts.attentionMask), feeds, gated);
      }
      return logits;
    },
    step: (tokens, positionIds) => append(tokens, positionIds, new Int32Array(rows).fill(1), images?.step(), gateAfter),
    async end() {
      images = undefined;
      if (!cached) await clearCache(1);
    },
    useAdapter,
    useAdapters,
    async close() {
      await adaptable.close();
      await encoder?.close();
    },
  };
}
