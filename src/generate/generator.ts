// Text in, text out: a base model, its tokenizer and an adapter that can be changed between generations.

import { attach } from "../adapters/attach.ts";
import { type Adapter, failure, type GivenAdapter } from "../adapters/peft-files.ts";
import { LowrankError } from "../errors.ts";
import type { Base } from "../models/base.ts";
import type { ImageTensors } from "../models/images.ts";
import { type ImageReading, imageSide, imageTensors } from "../multimodal/images.ts";
import type { Engine } from "../runtime/open-graph.ts";
import { openDecoder } from "./decoder.ts";
import { generate } from "./generate.ts";
import { type EncodedPrompt, encodePrompt, type Prompt } from "./prompts.ts";
import type { AdapterWeights, GenerateEvent, GenerateOptions, PromptBatch } from "./types.ts";

export interface GeneratorOptions extends Omit<Engine, "profile"> {
  /** Attached from the start; `useAdapter` changes it. */
  adapter?: GivenAdapter | null;
  /** Take adapters that were made for another base of the same shape. */
  anyBase?: boolean;
  /** Keep the cache of a prompt that is generated alone: the next one that begins with all of it runs the rest only. */
  reusePrefix?: boolean;
  /** What reads the images of prompts; without it, and the model's folder, there can be none. */
  reading?: ImageReading;
}

/** A generator holds a session; close it to free the weights. One generation runs at a time. */
export interface Generator {
  /**
   * Generates a continuation of each prompt in one batch (generate.ts has the events, the options and their errors).
   * Fails as `encodePrompt` (prompts.ts) does on prompts that cannot be encoded, and with `generate/busy` while another
   * generation runs.
   */
  generate(prompts: readonly Prompt[], options?: GenerateOptions): AsyncGenerator<GenerateEvent, void, undefined>;
  /**
   * Attaches another adapter, or none, without opening the base again, except for the first one of another method than LoRA. Fails with `adapter/*` if it does not fit the base
   * and with `generate/busy` while a generation runs; the adapter before stays.
   */
  useAdapter(adapter: Adapter | null): Promise<void>;
  /**
   * Attaches several LoRA adapters at once, by names. Their updates are added up, each times its weight in `adapterWeights` of a
   * generation, which can differ from prompt to prompt. The first call opens the base again. Fails as `useAdapter` does, and with `combine/*`
   * for adapters that cannot be added.
   */
  useAdapters(adapters: Readonly<Record<string, Adapter>>): Promise<void>;
  close(): Promise<void>;
}

export async function openGenerator(
  base: Base,
  { adapter = null, anyBase, openSession, threads, baseDtype, reusePrefix, reading }: GeneratorOptions,
): Promise<Generator> {
  const first = adapter ? await attach(base, adapter, { anyBase }) : { base, adapter: null };
  const tokenizer = await base.tokenizer();
  const decoder = await openDecoder({ ...first.base, openSession, threads, baseDtype, reusePrefix, adapter: first.adapter });
  const attached = async (given: Adapter): Promise<Adapter> => {
    const { base: own, adapter } = await attach(base, given, { anyBase });
    checkLayers(own, first.base);
    return adapter;
  };
  const side = imageSide(base, tokenizer, reading);
  let running = false;
  /** Of the adapters that are mixed; null where none are. */
  let names: string[] | null = null;
  const checkIdle = () => {
    if (!running) return;
    throw new LowrankError("generate/busy", "the generator is at work on other prompts", {
      next: "Read the events of the generation before to their end, or open another generator.",
    });
  };
  return {
    async *generate(prompts, options) {
      checkIdle();
      running = true;
      try {
        const encoded: EncodedPrompt[] = [];
        for (const prompt of prompts) encoded.push(await encodePrompt(base, tokenizer, side, prompt));
        const ids = encoded.map((prompt) => prompt.ids);
        const weights = options?.adapterWeights && weightsOf(options.adapterWeights, names, prompts.length);
        const processor = side && encoded.some((prompt) => prompt.images.length > 0) ? await side.processor() : null;
        const images = (batch: PromptBatch): ImageTensors | null => {
          const rows = encoded.map((prompt) => ({ ...prompt, start: batch.width - prompt.ids.length })); // padded on the left
          return processor && imageTensors(side!.text, processor, batch, rows);
        };
        yield* generate(decoder, tokenizer, ids, options, images, weights);
      } finally {
        running = false;
      }
    },
    async useAdapter(next) {
      checkIdle();
      await decoder.useAdapter(next && (await attached(next)));
      names = null;
    },
    async useAdapters(given) {
      checkIdle();
      const next: Adapter[] = [];
      for (const adapter of Object.values(given)) next.push(await attached(adapter));
      await decoder.useAdapters(next);
      names = Object.keys(given);
    },
    close: () => decoder.close(),
  };
}

/** Fails for an adapter whose model has other layers than the one that is open. */
function checkLayers({ config: { layerSources: own } }: Base, { config: { layerSources: open } }: Base): void {
  if (JSON.stringify(own) === JSON.stringify(open)) return;
  const shown = (layers: readonly number[] | undefined) => (layers ? `the layers ${layers.join(", ")}` : "the base's own layers");
  throw failure("layers", "the adapter is for other layers than the generator was opened with (layer_replication)", {
    expected: shown(open),
    got: shown(own),
    next: "Open another generator with this adapter.",
  });
}

/** [rows, adapters], from what is given for all rows or for each. */
function weightsOf(given: NonNullable<GenerateOptions["adapterWeights"]>, names: string[] | null, rows: number): Float32Array {
  const refuse = (expected: string, got: string): never => {
    const facts = { subject: "adapterWeights", expected, got, next: "Change adapterWeights, or leave it out." };
    throw new LowrankError("generate/option", "the option has a value that cannot be used", facts);
  };
  const own = names ?? refuse("several adapters, attached by useAdapters", "none");
  const all: readonly AdapterWeights[] = isList(given) ? given : Array.from({ length: rows }, () => given);
  if (all.length !== rows) refuse(`weights for each of ${rows} prompts`, `those for ${all.length}`);
  for (const [name, weight] of all.flatMap((row) => Object.entries(row))) {
    if (!own.includes(name)) refuse(`the names of adapters: ${own.join(", ")}`, name);
    if (!Number.isFinite(weight ?? 0)) refuse("finite numbers", `${weight} for ${name}`);
  }
  return Float32Array.from(all.flatMap((row) => own.map((name) => row[name] ?? 0)));
}

const isList = (given: AdapterWeights | readonly AdapterWeights[]): given is readonly AdapterWeights[] => Array.isArray(given);

/** The whole continuation of one prompt. */
export async function generateText(generator: Generator, prompt: Prompt, options?: GenerateOptions): Promise<string> {
  let text = "";
  for await (const event of generator.generate([prompt], options)) if (event.type === "done") text = event.text;
  return text;
}
