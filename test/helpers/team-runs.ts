// Runs that are tried with several processes, by kind: each is the same for whatever number of them.
import { cp } from "node:fs/promises";
import type { RunOptions } from "../../src/train/options.ts";
import { fixtures } from "./repository.ts";
import { type Colour, colours, jsonl, picture, taskBase } from "./task-bases.ts";

const llama = `${fixtures}/tiny-llama`;

const texts = Array.from({ length: 23 }, (_, i) => ({
  prompt: `Question ${i}: what is the capital of ${["France", "Italy", "Spain"][i % 3]}${"?".repeat(i % 4)}\nAnswer:`,
  completion: ` ${["Paris", "Rome", "Madrid, the large city in the middle"][i % 3]}.`,
}));
async function lora(folder: string) {
  const [data, evalData] = [await jsonl(folder, "texts.jsonl", texts), await jsonl(folder, "held.jsonl", texts.slice(0, 7))];
  return { base: llama, data, evalData, steps: 30, evalEvery: 15, learningRate: 3e-4, batchSize: 4, seed: 3 };
}
const classified = Array.from({ length: 14 }, (_, i) => ({
  text: `this is ${i % 2 ? "good" : "bad"} number ${i}`,
  label: i % 2 ? "LABEL_1" : "LABEL_0",
}));

/** Runs of every kind that several processes are tried with, by name; their files come into `folder`. */
export const teamRuns: Record<string, (folder: string) => Promise<Partial<RunOptions>>> = {
  // 23 records: the last batch of an epoch has three, fewer than four processes.
  LoRA: lora,
  accumulation: async (folder) => ({ ...(await lora(folder)), gradientAccumulation: 3, batchSize: 2 }),
  "a row for some processes only": async (folder) => ({ ...(await lora(folder)), batchSize: 2 }),
  full: async (folder) => ({ ...(await lora(folder)), method: "full", learningRate: 1e-4 }),
  packing: async (folder) => ({ ...(await lora(folder)), packing: true, learningRate: 1e-4, maxLength: 64, batchSize: 2 }),
  dropout: async (folder) => ({ ...(await lora(folder)), dropout: 0.2 }),
  classifier: async (folder) => {
    return {
      ...(await lora(folder)),
      base: await taskBase(folder, "bert"),
      data: await jsonl(folder, "c.jsonl", classified),
      evalData: undefined,
      evalSplit: 0.3,
    };
  },
  preference: async (folder) => {
    const pairs = texts.map(({ prompt, completion }) => ({
      prompt,
      chosen: completion,
      rejected: [...completion].reverse().join(""),
    }));
    const file = await jsonl(folder, "p.jsonl", pairs);
    return { ...(await lora(folder)), task: "preference", data: file, evalData: file, steps: 12, evalEvery: 6 };
  },
  "sentence embeddings": async (folder) => {
    await cp("test/fixtures/cases/bert-embedding/base", `${folder}/base`, { recursive: true });
    await cp("test/fixtures/tokenizers/bert-style", `${folder}/base`, { recursive: true });
    const words = ["cat", "dog", "film", "joy", "photo", "bird", "story", "love", "mat", "bad", "good"];
    const triples = words.map((word, i) => ({
      anchor: `is this a ${word}?`,
      positive: `yes, the ${word} sat`,
      negative: `no ${words[(i + 1) % 11]} is there at all`,
    }));
    const file = await jsonl(folder, "s.jsonl", triples);
    return {
      ...(await lora(folder)),
      base: `${folder}/base`,
      task: "sentence-embedding",
      data: file,
      evalData: file,
      batchSize: 6,
      dropout: 0.1,
    };
  },
  contrastive: async (folder) => {
    const names = Object.keys(colours) as Colour[];
    const rows = await Promise.all(
      Array.from({ length: 11 }, async (_, i) => ({
        image: await picture(folder, names[i % 3]!, i),
        text: `a photo of a ${names[i % 3]} ${i}`,
      })),
    );
    const file = await jsonl(folder, "i.jsonl", rows);
    return { ...(await lora(folder)), base: await taskBase(folder, "clip"), data: file, evalData: file, batchSize: 5 };
  },
};
