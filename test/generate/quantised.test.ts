// Generation from a base in fewer bits against the same base in float32: logits, texts, adapters beside it, what the engine keeps.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { type DecoderOptions, openDecoder } from "../../src/generate/decoder.ts";
import { generate, leftPad } from "../../src/generate/generate.ts";
import { type BaseDtype, baseDtypes } from "../../src/graph/pack.ts";
import { type Base, loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { repository } from "../helpers/repository.ts";

const folder = `${repository}models/embedded`;
const PROMPT = "name[Alimentum], food[English], area[riverside]\n";
const base = await loadBase(nodeFiles, folder);
const tokenizer = await base.tokenizer();
const prompt = tokenizer.encode(PROMPT);

const open = (options: Partial<DecoderOptions>) => openDecoder({ ...base, openSession: openNodeSession, threads: 1, ...options });

/** Logits behind each beginning of the prompt. */
async function logits(options: Partial<DecoderOptions>): Promise<Float32Array[]> {
  const decoder = await open(options);
  const all: Float32Array[] = [];
  for (let length = 1; length <= prompt.length; length++) {
    all.push(await decoder.start(leftPad([prompt.subarray(0, length)], 0)));
    await decoder.end();
  }
  await decoder.close();
  return all;
}

/** The mean over positions of KL(p || q), in nats. */
function divergence(p: readonly Float32Array[], q: readonly Float32Array[]): number {
  const normalised = (row: Float32Array) => {
    const most = Math.max(...row);
    const sum = row.reduce((total, value) => total + Math.exp(value - most), 0);
    return row.map((value) => value - most - Math.log(sum));
  };
  const each = p.map((row, i) => {
    const [a, b] = [normalised(row), normalised(q[i]!)];
    return a.reduce((total, value, j) => total + Math.exp(value) * (value - b[j]!), 0);
  });
  return each.reduce((total, value) => total + value, 0) / each.length;
}

async function greedy(options: Partial<DecoderOptions>): Promise<number[]> {
  const decoder = await open(options);
  const ids: number[] = [];
  for await (const event of generate(decoder, tokenizer, [prompt], { maxNewTokens: 40 }))
    if (event.type === "token") ids.push(event.token);
  await decoder.close();
  return ids;
}

function adapterFor({ modules, config }: Base) {
  const lora = loraConfig({ rank: 4, alpha: 16, targetModules: "all-linear", initLoraWeights: false });
  const matched = matchModules(modules, lora, config.modelType);
  return { config: lora, modules: matched, tensors: initAdapter(matched, lora, 3) };
}

const exact = await logits({});
/** Mean divergence from float32, at most. */
const bounds: Record<BaseDtype, number> = { float32: 1e-9, bfloat16: 1e-8, int8: 2e-3, int4: 0.2 };

for (const baseDtype of baseDtypes) {
  test(`the next tokens' probabilities of a base in ${baseDtype} are near those in float32`, async () => {
    const found = divergence(exact, await logits({ baseDtype }));
    assert.ok(Math.abs(found) <= bounds[baseDtype], `${found}`);
    if (baseDtype.startsWith("int")) assert.ok(found > 1e-6, "it is another base");
  });

  test(`an adapter beside a base in ${baseDtype} is attached, swapped and taken off`, async () => {
    const adapter = adapterFor(base);
    const adapted = await logits({ adapter });
    assert.ok(divergence(adapted, exact) > 1, "the adapter changes much");
    const limit = 5 * bounds[baseDtype];
    const own = divergence(adapted, await logits({ adapter, baseDtype }));
    assert.ok(Math.abs(own) <= limit, `${own}`);
    const batch = leftPad([prompt], 0);
    const decoder = await open({ baseDtype });
    const before = (await decoder.start(batch)).slice();
    await decoder.end();
    for (const round of [1, 2]) {
      await decoder.useAdapter(adapter);
      const attached = divergence([adapted.at(-1)!], [await decoder.start(batch)]);
      assert.ok(Math.abs(attached) <= limit, `round ${round}: ${attached}`);
      await decoder.end();
      await decoder.useAdapter(null);
      assert.ok(Math.abs(divergence([before], [await decoder.start(batch)])) < 1e-6);
      await decoder.end();
    }
    await decoder.close();
  });
}

test("16 bits change no token of a greedy text", async () => {
  assert.deepEqual(await greedy({ baseDtype: "bfloat16" }), await greedy({}));
});

test("rows of a batch are what each is alone, in 8 bits too", async () => {
  const other = tokenizer.encode("name[Cocum]\n");
  const decoder = await open({ baseDtype: "int8" });
  const together = await decoder.start(leftPad([prompt, other], 0));
  const rows = [together.slice(0, decoder.vocabSize), together.slice(decoder.vocabSize)];
  await decoder.end();
  for (const [i, ids] of [prompt, other].entries()) {
    assert.ok(Math.abs(divergence([await decoder.start(leftPad([ids], 0))], [rows[i]!])) < 1e-3);
    await decoder.end();
  }
  await decoder.close();
});

test("of a prompt that begins with all that was run before, the rest alone is run", async () => {
  const runs: number[] = [];
  const openSession: typeof openNodeSession = async (...given) => {
    const session = await openNodeSession(...given);
    return {
      ...session,
      run: (feeds, options) => {
        runs.push(feeds["inputIds"]!.shape[1]!);
        return session.run(feeds, options);
      },
    };
  };
  const decoder = await open({ openSession, reusePrefix: true });
  const start = async (ids: Int32Array) => {
    const row = (await decoder.start(leftPad([ids], 0))).slice();
    await decoder.end();
    return row;
  };
  const near = (row: Float32Array, length: number) => Math.abs(divergence([exact[length - 1]!], [row])) < 1e-6;
  assert.ok(near(await start(prompt.subarray(0, 5)), 5));
  assert.ok(near(await start(prompt.subarray(0, 9)), 9));
  assert.deepEqual(runs, [5, 4]);
  assert.ok(near(await start(prompt.subarray(0, 9)), 9), "the same prompt again has no rest");
  assert.ok(near(await start(prompt.subarray(0, 7)), 7));
  assert.deepEqual(runs.slice(2), [9, 7]);
  await decoder.useAdapter(adapterFor(base));
  await start(prompt.subarray(0, 9));
  await decoder.useAdapter(null);
  assert.ok(near(await start(prompt.subarray(0, 10)), 10), "another adapter's keys are not reused");
  assert.deepEqual(runs.slice(4), [9, 10]);
  await decoder.close();
});
