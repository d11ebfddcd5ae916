// Samples during training: where an example is cut into question and answer, and that they are what the saved adapter writes.
// slow
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { type FinetuneOptions, finetune, generateText, openGenerator } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { readMetrics } from "../../src/train/run-log.ts";
import { splitExample } from "../../src/train/samples.ts";
import { collect, only } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const evalData = `${fixtures}/tiny-e2e/eval.jsonl`;
const root = temporaryFolder();

const options = { base, data: `${fixtures}/tiny-e2e/train.jsonl`, evalData, batchSize: 8, learningRate: 5e-3, threads: 1 };
async function samplesOf(more: Omit<FinetuneOptions, "base" | "data" | "output"> & { output: string }) {
  return only(await collect(finetune({ ...options, ...more } as FinetuneOptions)), "samples");
}

test("an example is cut where its last answer begins; a text in its middle", () => {
  const split = (ids: number[], labels: number[]) => {
    const { prompt, expected } = splitExample({ ids: Int32Array.from(ids), labels: Int32Array.from(labels) });
    return [[...prompt], [...expected]];
  };
  const I = -100;
  assert.deepEqual(split([1, 2, 3, 4], [I, I, 3, 4]), [
    [1, 2],
    [3, 4],
  ]);
  assert.deepEqual(split([1, 2, 3, 4, 5, 6, 7], [I, 2, I, I, 5, 6, I]), [
    [1, 2, 3, 4],
    [5, 6],
  ]);
  assert.deepEqual(split([1, 2, 3, 4, 5], [I, 2, 3, 4, 5]), [
    [1, 2, 3],
    [4, 5],
  ]);
});

test("samples are what the adapter of that step writes, and change no bit of it", async () => {
  const output = path.join(root, "sampled");
  const events = await samplesOf({ output, steps: 6, evalEvery: 3, samples: 2 });
  assert.deepEqual(
    events.map(({ step }) => step),
    [3, 6],
  );
  const records = readFileSync(evalData, "utf8")
    .split("\n", 2)
    .map((line) => JSON.parse(line));
  for (const { step, samples } of events) {
    assert.deepEqual(
      samples.map(({ prompt, expected }) => ({ prompt, completion: expected })),
      records,
    );
    const generator = await openGenerator(base, { adapter: `${output}/checkpoint-${step}`, threads: 1 });
    for (const { prompt, text } of samples) {
      const whole = await generateText(generator, prompt, { maxNewTokens: 128 });
      assert.ok(text.length > 5 && whole.startsWith(text), `${step}: ${text}\n${whole}`);
    }
    await generator.close();
  }
  assert.notDeepEqual(events[0]!.samples, events[1]!.samples);
  const { samples } = (await readMetrics(nodeFiles, output))!;
  assert.deepEqual(
    samples.map(({ time: _, ...row }) => row),
    events,
  );
  await samplesOf({ output: path.join(root, "plain"), steps: 6, evalEvery: 3 });
  assert.deepEqual(
    readFileSync(`${output}/adapter_model.safetensors`),
    readFileSync(path.join(root, "plain/adapter_model.safetensors")),
  );
});

test("prompts can come from a file of their own", async () => {
  const file = path.join(root, "prompts.jsonl");
  writeFileSync(file, `${JSON.stringify({ prompt: "name[The Mill]\n", completion: "The Mill." })}\n`);
  const [event] = await samplesOf({ output: path.join(root, "file"), steps: 1, samples: file });
  assert.deepEqual(
    event!.samples.map(({ prompt, expected }) => [prompt, expected]),
    [["name[The Mill]\n", "The Mill."]],
  );
});
