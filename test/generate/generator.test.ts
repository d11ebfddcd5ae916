// Text in, text out on a tiny real checkpoint: prompts, conversations, adapters changed between generations.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { matchModules } from "../../src/adapters/match.ts";
import type { Adapter } from "../../src/adapters/peft-files.ts";
import { type Generator, openGenerator } from "../../src/generate/generator.ts";
import type { Prompt } from "../../src/generate/prompts.ts";
import type { GenerateOptions } from "../../src/generate/types.ts";
import { type Base, loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { fixtures } from "../helpers/repository.ts";

const folder = `${fixtures}/tiny-llama`;
const PROMPT = "name[Alimentum], food[English], area[riverside]\n";
const short: GenerateOptions = { maxNewTokens: 12 };

/** The ids and texts of the rows, the texts made of their deltas. */
async function collect(
  generator: Generator,
  prompts: readonly Prompt[],
  options = short,
): Promise<{ ids: number[]; text: string }[]> {
  const rows = prompts.map(() => ({ ids: [] as number[], text: "" }));
  let done = 0;
  for await (const event of generator.generate(prompts, options)) {
    if (event.type === "done") done++;
    else {
      rows[event.row]!.ids.push(event.token);
      rows[event.row]!.text += event.text;
    }
  }
  assert.equal(done, prompts.length);
  return rows;
}

function strongAdapter({ modules, config }: Base, factor: number): Adapter {
  const lora = loraConfig({ rank: 4, alpha: 4 * factor, targetModules: "all-linear", initLoraWeights: false });
  const matched = matchModules(modules, lora, config.modelType);
  return { config: lora, modules: matched, tensors: initAdapter(matched, lora, 3) };
}

test("a base knows its modules and every token that ends a text", async () => {
  const base = await loadBase(nodeFiles, folder);
  const layers = base.modules.filter(({ kind }) => kind !== "other");
  assert.equal(layers.length, 1 + 7 * base.config.layers + 1);
  const tokenizer = await base.tokenizer();
  assert.deepEqual([...tokenizer.eosIds].sort(), [0, 2]);
  assert.equal(await base.tokenizer(), tokenizer);
});

test("a checkpoint without a tokenizer opens; asking for it names the folder", async () => {
  const bare = `${fixtures}/cases/lora-rslora/base`;
  const base = await loadBase(nodeFiles, bare);
  assert.ok(base.modules.length > 1);
  await assert.rejects(base.tokenizer(), { code: "tokenizer/missing", subject: bare });
});

test("texts, ids and conversations are continued in one batch as each is alone", async () => {
  const base = await loadBase(nodeFiles, folder);
  const tokenizer = await base.tokenizer();
  const generator = await openGenerator(base, { openSession: openNodeSession, threads: 1 });
  const prompts: Prompt[] = [PROMPT, tokenizer.encode("name[Cocum]\n"), [{ role: "user", content: "near[The Bakers]" }]];
  const together = await collect(generator, prompts);
  for (const [i, prompt] of prompts.entries()) {
    assert.deepEqual((await collect(generator, [prompt]))[0], together[i]);
    assert.ok(together[i]!.ids.length > 1);
  }
  const chat = "<|im_start|>user\nnear[The Bakers]<|im_end|>\n<|im_start|>assistant\n";
  assert.deepEqual((await collect(generator, [tokenizer.encode(chat)]))[0], together[2]);
  await generator.close();
});

test("an adapter is attached from the start, swapped and taken off", async () => {
  const base = await loadBase(nodeFiles, folder);
  const adapter = strongAdapter(base, 40);
  const plain = await openGenerator(base, { openSession: openNodeSession, threads: 1 });
  const unadapted = await collect(plain, [PROMPT]);
  await plain.useAdapter(adapter);
  const adapted = await collect(plain, [PROMPT]);
  assert.notDeepEqual(adapted[0]!.ids, unadapted[0]!.ids);
  await plain.useAdapter(null);
  assert.deepEqual(await collect(plain, [PROMPT]), unadapted);
  await plain.close();

  const generator = await openGenerator(base, { adapter, openSession: openNodeSession, threads: 1 });
  assert.deepEqual(await collect(generator, [PROMPT]), adapted);
  await generator.close();
});

test("a second generation and another adapter wait for the first one's end", async () => {
  const base = await loadBase(nodeFiles, folder);
  const generator = await openGenerator(base, { openSession: openNodeSession, threads: 1 });
  const whole = await collect(generator, [PROMPT]);
  const first = generator.generate([PROMPT], short);
  await first.next();
  await assert.rejects(generator.generate([PROMPT], short).next(), { code: "generate/busy" });
  await assert.rejects(generator.useAdapter(null), { code: "generate/busy" });
  const ids: number[] = [whole[0]!.ids[0]!];
  for await (const event of first) if (event.type === "token") ids.push(event.token);
  assert.deepEqual(ids, whole[0]!.ids, "the refusals disturbed nothing");
  const broken = generator.generate([PROMPT], short);
  await broken.next();
  await broken.return();
  assert.deepEqual(await collect(generator, [PROMPT]), whole);
  await generator.close();
});

test("an adapter for another base: nothing stays open", async () => {
  const base = await loadBase(nodeFiles, folder);
  const adapter = strongAdapter(base, 1);
  adapter.modules[0] = { ...adapter.modules[0]!, outFeatures: 7 };
  let open = 0;
  const openSession: typeof openNodeSession = async (...args) => {
    open++;
    const session = await openNodeSession(...args);
    return { ...session, close: () => session.close().then(() => void open--) };
  };
  await assert.rejects(openGenerator(base, { adapter, openSession, threads: 1 }), { code: "adapter/other-base" });
  assert.equal(open, 0);
});

test("a conversation needs a chat template", async () => {
  const base = await loadBase(nodeFiles, folder);
  const { template: _, ...tokenizer } = await base.tokenizer();
  const generator = await openGenerator(
    { ...base, tokenizer: async () => tokenizer },
    { openSession: openNodeSession, threads: 1 },
  );
  await assert.rejects(collect(generator, [[{ role: "user", content: "hello" }]]), { code: "generate/no-template" });
  await generator.close();
});
