// Several adapters attached at once: rows of one batch with different ones or none, and sums with weights.
// slow
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { combine } from "../../src/adapters/combine.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { checkMixable, mixableLayers, mixtureOf } from "../../src/adapters/mixture.ts";
import type { Adapter } from "../../src/adapters/peft-files.ts";
import { openDecoder } from "../../src/generate/decoder.ts";
import { leftPad } from "../../src/generate/generate.ts";
import { openGenerator } from "../../src/generate/generator.ts";
import type { GenerateOptions } from "../../src/generate/types.ts";
import { type Base, loadBase, openBase } from "../../src/models/base.ts";
import { asDecoder, forwardGraph } from "../../src/models/registry.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { near, refused, refusedSync } from "../helpers/assert.ts";
import { fixtures } from "../helpers/repository.ts";

const base = await loadBase(nodeFiles, `${fixtures}/tiny-llama`);

function adapter(
  targets: string[],
  rank: number,
  seed: number,
  { modules, config }: Pick<Base, "modules" | "config"> = base,
): Adapter {
  const lora = loraConfig({ rank, alpha: 3 * rank, targetModules: targets, initLoraWeights: false });
  const matched = matchModules(modules, lora, config.modelType);
  return { config: lora, modules: matched, tensors: initAdapter(matched, lora, seed) };
}
const one = adapter(["q_proj", "v_proj", "lm_head"], 4, 1);
const two = adapter(["v_proj", "down_proj"], 2, 2);
const prompts = ["name[Alimentum], food[English]\n", "name[Cotto]\n", "name[The Mill], area[riverside]\n"];

async function texts(
  generator: Awaited<ReturnType<typeof openGenerator>>,
  given: readonly string[],
  options: GenerateOptions = {},
) {
  const found: string[] = [];
  for await (const event of generator.generate(given, { maxNewTokens: 10, ...options })) {
    if (event.type === "done") found[event.row] = event.text;
  }
  return found;
}

test("rows of one batch have different adapters, a sum of them, or none; and one alone works as before", async () => {
  const generator = await openGenerator(base, { openSession: openNodeSession });
  const alone: string[] = [];
  const sum = combine([one, two], { combinationType: "cat", weights: [0.5, -2] });
  for (const [i, given] of [one, null, sum].entries()) {
    await generator.useAdapter(given);
    alone.push(...(await texts(generator, [prompts[i]!])));
  }
  assert.equal(new Set(alone).size, 3);
  await generator.useAdapters({ one, two });
  const mixed = await texts(generator, prompts, { adapterWeights: [{ one: 1 }, {}, { one: 0.5, two: -2 }] });
  assert.deepEqual(mixed, alone);
  const together = await texts(generator, [prompts[0]!]);
  assert.deepEqual(await texts(generator, [prompts[0]!], { adapterWeights: { one: 1, two: 1 } }), together);

  for (const [weights, expected] of [
    [[{}], /weights for each of 3 prompts/],
    [{ three: 1 }, /one, two/],
    [{ one: Number.NaN }, /finite/],
  ] as const) {
    await refused(texts(generator, prompts, { adapterWeights: weights }), "generate/option", {
      subject: "adapterWeights",
      expected,
    });
  }
  const dora = { ...one, config: { ...one.config, useDora: true } };
  await refused(generator.useAdapters({ one, dora }), "combine/method");
  assert.deepEqual(await texts(generator, prompts, { adapterWeights: [{ one: 1 }, {}, { one: 0.5, two: -2 }] }), alone);
  await generator.useAdapter(one);
  assert.deepEqual(await texts(generator, [prompts[0]!]), [alone[0]]);
  await refused(texts(generator, prompts, { adapterWeights: { one: 1 } }), "generate/option");
  await generator.close();
});

test("in every family of decoders a row has its own adapter on all layers, but for those of experts and of images", async () => {
  const cases = `${fixtures}/cases`;
  const seen = new Set<string>();
  for (const name of readdirSync(cases)) {
    const opened = await openBase(nodeFiles, `${cases}/${name}/base`);
    if (opened.config.head !== "lm" || seen.has(opened.config.modelType)) continue;
    seen.add(opened.config.modelType);
    const config = asDecoder(opened.config, name);
    const mixable = mixableLayers(forwardGraph(config));
    const layers = opened.modules.filter(({ kind, isParameter }) => kind !== "embedding" && !isParameter);
    const linear = layers.map(({ path }) => path).filter((path) => mixable.has(path));
    assert.ok(linear.length >= config.layers * 4, name);
    const pair = [adapter(linear, 3, 1, { ...opened, config }), adapter(linear.slice(0, 3), 2, 2, { ...opened, config })];
    const decoder = await openDecoder({ checkpoint: opened.checkpoint, config, openSession: openNodeSession });
    const batch = leftPad([Int32Array.of(3, 4, 5), Int32Array.of(6, 7), Int32Array.of(8, 9, 10, 11)], 0);
    const logits = async (adapterWeights?: Float32Array) => {
      const first = [...(await decoder.start({ ...batch, ...(adapterWeights && { adapterWeights }) }))];
      const second = [...(await decoder.step(Int32Array.of(5, 6, 7), Int32Array.of(3, 2, 4)))];
      await decoder.end();
      return [first, second];
    };
    const alone = [];
    for (const given of [pair[0]!, null, pair[1]!]) {
      await decoder.useAdapter(given);
      alone.push(await logits());
    }
    await decoder.useAdapters(pair);
    for (const [step, mixed] of (await logits(Float32Array.of(1, 0, 0, 0, 0, 1))).entries()) {
      const size = mixed.length / 3;
      for (const [row, own] of alone.entries()) {
        const part = (values: readonly number[]) => values.slice(row * size, (row + 1) * size);
        near(part(mixed), part(own[step]!), 1e-5, `${name}, row ${row}`);
      }
    }
    await decoder.close();
  }
  assert.ok(seen.size >= 10, [...seen].join());
  const { modules, config } = await openBase(nodeFiles, `${cases}/llava/base`);
  const vision = modules.find(({ path, kind }) => /vision/.test(path) && kind === "linear")!.path;
  const seeing = mixtureOf([adapter([vision], 2, 1, { modules, config: asDecoder(config, "llava") })]);
  refusedSync(() => checkMixable(seeing, mixableLayers(forwardGraph(config))), "adapter/not-mixable", { subject: vision });
});
