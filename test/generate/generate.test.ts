// generate/generate.ts: stop texts across token borders, ends of rows, left padding, streaming, seeds, aborts and refusals.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import { cutAtStop, generate, leftPad } from "../../src/generate/generate.ts";
import type { Decoder, GenerateEvent, GenerateOptions, PromptBatch } from "../../src/generate/types.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";

const EOS = 0;
const END = 1;
const pieces: (string | Uint8Array)[] = ["</s>", "<|im_end|>", "a", "b", "st", "op", "sto", "pper", " ", "\n", "User", ":", "€"];
const euro = new TextEncoder().encode("€");
pieces.push(euro.slice(0, 1), euro.slice(1, 2), euro.slice(2));
const idOf = (piece: string) => pieces.indexOf(piece);
const [E1, E2, E3] = [13, 14, 15];

/** A tokenizer whose tokens are `pieces`, three of them single bytes of "€"; it reads a text as pieces between bars. */
const tokenizer: Tokenizer = {
  encode: (text) => Int32Array.from(text.split("|").filter(Boolean), idOf),
  decode(ids, { skipSpecialTokens = false } = {}) {
    const kept = Array.from(ids).filter((id) => !(skipSpecialTokens && id <= END));
    const bytes = kept.flatMap((id) => [
      ...(typeof pieces[id] === "string" ? new TextEncoder().encode(pieces[id]) : pieces[id]!),
    ]);
    return new TextDecoder().decode(Uint8Array.from(bytes));
  },
  tokenToId: (token) => (pieces.includes(token) ? idOf(token) : undefined),
  frame: () => [{ text: 0, type: 0 }],
  cutsLeft: false,
  idToToken: (id) => (typeof pieces[id] === "string" ? pieces[id] : undefined),
  namedToken: () => undefined,
  vocabSize: pieces.length,
  eosId: EOS,
  eosIds: [EOS],
  bosId: undefined,
  padId: EOS,
  specialIds: new Set([EOS, END]),
  limited: (work) => work(),
};

/** A decoder that wants each row to say its script, and records what it was given. */
function scripted(scripts: number[][], maxPositions = 100) {
  const calls: { start?: PromptBatch; steps: { tokens: number[]; positions: number[] }[]; ends: number } = { steps: [], ends: 0 };
  const logits = (step: number) => {
    const out = new Float32Array(scripts.length * pieces.length);
    for (const [row, script] of scripts.entries()) out[row * pieces.length + (script[step] ?? EOS)] = 5;
    return out;
  };
  const decoder: Decoder = {
    vocabSize: pieces.length,
    maxPositions,
    async start(prompts) {
      calls.start = prompts;
      return logits(0);
    },
    async step(tokens, positionIds) {
      calls.steps.push({ tokens: [...tokens], positions: [...positionIds] });
      return logits(calls.steps.length);
    },
    async end() {
      calls.ends++;
    },
  };
  return { decoder, calls };
}

/** A decoder whose logits are a hash of every unmasked token and position of the row so far: padding must not matter. */
function hashing(): Decoder {
  const vocabSize = pieces.length;
  let histories: number[] = [];
  const mix = (hash: number, value: number) => Math.imul(hash ^ (value + 0x9e37), 0x01000193) >>> 0;
  const logits = () => {
    const out = new Float32Array(histories.length * vocabSize);
    for (const [row, history] of histories.entries()) {
      // Ends are ruled out, so that rows run to their limit.
      for (let id = 0; id < vocabSize; id++) out[row * vocabSize + id] = id <= END ? -Infinity : (mix(history, id) % 1000) / 200;
    }
    return out;
  };
  return {
    vocabSize,
    maxPositions: 100,
    async start({ rows, width, ids, attentionMask, positionIds }) {
      histories = Array.from({ length: rows }, (_, row) => {
        let hash = 0x811c9dc5;
        for (let at = row * width; at < (row + 1) * width; at++) {
          if (attentionMask[at]) hash = mix(mix(hash, ids[at]!), positionIds[at]!);
        }
        return hash;
      });
      return logits();
    },
    async step(tokens, positionIds) {
      histories = histories.map((hash, row) => mix(mix(hash, tokens[row]!), positionIds[row]!));
      return logits();
    },
    async end() {},
  };
}

async function collect(decoder: Decoder, prompts: (string | Int32Array)[], options?: GenerateOptions) {
  const events: GenerateEvent[] = [];
  for await (const event of generate(decoder, tokenizer, prompts, options)) events.push(event);
  const done = events.filter((event) => event.type === "done").sort((a, b) => a.row - b.row);
  const deltas = (row: number) => events.flatMap((event) => (event.type === "token" && event.row === row ? [event.text] : []));
  for (const event of done) {
    assert.equal(deltas(event.row).join(""), event.text, "the deltas are the text");
    assert.equal(deltas(event.row).length, event.ids.length, "one event a token");
  }
  assert.equal(done.length, prompts.length);
  return { events, done, deltas };
}

const ids = (...names: string[]) => names.map(idOf);

test("text is held back while it may begin a stop text, and ends before it", async () => {
  const cases: { script: number[]; stop: string[]; deltas: string[]; reason: string }[] = [
    { script: ids("a", "st", "op", "b"), stop: ["stop"], deltas: ["a", "", ""], reason: "stop" },
    { script: ids("a", "sto", "pper"), stop: ["stop"], deltas: ["a", "", ""], reason: "stop" },
    { script: ids("a", "st", "a", "</s>"), stop: ["stop"], deltas: ["a", "", "sta", ""], reason: "eos" },
    { script: ids("st", "st", "op"), stop: ["stop"], deltas: ["", "st", ""], reason: "stop" },
    { script: ids("a", "\n", "User", ":"), stop: ["\nUser:"], deltas: ["a", "", "", ""], reason: "stop" },
    { script: ids("a", "\n", "a", "</s>"), stop: ["\nUser:", "zzz"], deltas: ["a", "", "\na", ""], reason: "eos" },
    { script: ids("a", "st", "</s>"), stop: ["stop"], deltas: ["a", "", "st"], reason: "eos" },
    { script: ids("a", "b", "st"), stop: ["stop"], deltas: ["a", "b", "st"], reason: "length" },
    { script: ids("a", "b"), stop: ["b", "ab"], deltas: ["", ""], reason: "stop" },
    { script: [idOf("a"), E1, E2, E3], stop: ["€"], deltas: ["a", "", "", ""], reason: "stop" },
    { script: [idOf("a"), idOf("st"), END, idOf("b")], stop: ["<|im_end|>", "stop"], deltas: ["a", "", "st"], reason: "stop" },
  ];
  for (const { script, stop, deltas: expected, reason } of cases) {
    const { decoder } = scripted([script]);
    const { done, deltas } = await collect(decoder, ["a"], { stop, maxNewTokens: reason === "length" ? script.length : 20 });
    assert.deepEqual(deltas(0), expected, `${script} with stop ${JSON.stringify(stop)}`);
    assert.equal(done[0]!.reason, reason);
    assert.deepEqual([...done[0]!.ids], script.slice(0, expected.length), "the ids include the end");
  }
});

test("cutAtStop cuts before the first stop text and holds the longest possible beginning", () => {
  assert.deepEqual(cutAtStop("one two three", ["three", "two"]), { text: "one ", pending: "", stopped: true });
  assert.deepEqual(cutAtStop("aab", ["aabc", "bd"]), { text: "", pending: "aab", stopped: false });
  assert.deepEqual(cutAtStop("xaa", ["aab"]), { text: "x", pending: "aa", stopped: false });
  assert.deepEqual(cutAtStop("plain", []), { text: "plain", pending: "", stopped: false });
});

test("a character in several tokens comes out whole, and what is left of one at the end", async () => {
  const whole = await collect(scripted([[idOf("a"), E1, E2, E3, idOf("b"), EOS]]).decoder, ["a"]);
  assert.deepEqual(whole.deltas(0), ["a", "", "", "€", "b", ""]);
  const cut = await collect(scripted([[idOf("a"), E1, E2]]).decoder, ["a"], { maxNewTokens: 3 });
  assert.deepEqual(cut.deltas(0), ["a", "", "\uFFFD"]);
  assert.equal(cut.done[0]!.reason, "length");
});

test("rows end on their own: finished ones run along on padding", async () => {
  const { decoder, calls } = scripted([ids("a", "</s>"), ids("b", "b", "b", "b"), [idOf("a"), idOf("a"), END]]);
  const { events, done } = await collect(decoder, ["a|b", "a", "b|b|b"], { maxNewTokens: 4, eosIds: [EOS, END] });
  assert.deepEqual(
    done.map(({ row, reason, text }) => ({ row, reason, text })),
    [
      { row: 0, reason: "eos", text: "a" },
      { row: 1, reason: "length", text: "bbbb" },
      { row: 2, reason: "eos", text: "aa" },
    ],
  );
  assert.deepEqual(calls.steps, [
    { tokens: ids("a", "b", "a"), positions: [2, 1, 3] },
    { tokens: [EOS, idOf("b"), idOf("a")], positions: [0, 2, 4] },
    { tokens: [EOS, idOf("b"), EOS], positions: [0, 3, 0] },
  ]);
  assert.equal(calls.ends, 1);
  assert.deepEqual(
    events.slice(0, 3).map((event) => event.row),
    [0, 1, 2],
  );
  const last = events.findIndex((event) => event.type === "done" && event.row === 0);
  assert.ok(events.slice(last + 1).every((event) => event.row !== 0));
});

test("prompts are padded on the left with positions of their own", () => {
  const batch = leftPad([Int32Array.of(5, 6), Int32Array.of(7), Int32Array.of(8, 9, 10)], 3);
  assert.deepEqual([batch.rows, batch.width], [3, 3]);
  assert.deepEqual([...batch.ids], [3, 5, 6, 3, 3, 7, 8, 9, 10]);
  assert.deepEqual([...batch.attentionMask], [0, 1, 1, 0, 0, 1, 1, 1, 1]);
  assert.deepEqual([...batch.positionIds], [0, 0, 1, 0, 0, 0, 0, 1, 2]);
});

test("a row of a batch says what it says alone", async () => {
  const prompts = ["a|b|st", "b", "op|op|a|b|\n| "];
  const together = await collect(hashing(), prompts, { maxNewTokens: 12, repetitionPenalty: 1.2 });
  const texts = new Set<string>();
  for (const [row, prompt] of prompts.entries()) {
    const alone = await collect(hashing(), [prompt], { maxNewTokens: 12, repetitionPenalty: 1.2 });
    assert.deepEqual(together.done[row]!.ids, alone.done[0]!.ids);
    texts.add(alone.done[0]!.text);
  }
  assert.equal(texts.size, 3, "the fake network depends on its prompt");
});

test("sampling is seeded: the same seed says the same, another one something else", async () => {
  const say = async (seed: number) => (await collect(hashing(), ["a"], { temperature: 1, seed, maxNewTokens: 20 })).done[0]!.ids;
  assert.deepEqual(await say(3), await say(3));
  assert.notDeepEqual(await say(3), await say(4));
});

test("the repetition penalty counts the prompt and what was generated, but not padding", async () => {
  // "b" is wanted most, then the padding's id, then all else; the penalty halves what a row has seen.
  const decoder = scripted([[], []]).decoder;
  const flat = new Float32Array(2 * pieces.length).fill(1);
  flat[idOf("b")] = flat[pieces.length + idOf("b")] = 1.5;
  flat[EOS] = flat[pieces.length + EOS] = 1.4;
  decoder.start = async () => flat;
  decoder.step = async () => flat;
  const { done } = await collect(decoder, ["b|a|a", "st"], { repetitionPenalty: 2, maxNewTokens: 2, eosIds: [] });
  // Row 0 has seen "b"; row 1 is padded with the padding's id, and still takes it after "b".
  assert.equal(done[0]!.ids[0], EOS);
  assert.deepEqual([...done[1]!.ids], [idOf("b"), EOS]);
});

test("a row ends where the model's positions do", async () => {
  const forever = Array<number>(50).fill(idOf("a"));
  const { decoder, calls } = scripted([forever, forever], 5);
  const { done } = await collect(decoder, ["a|b|a", "a|b|a|b|a"]);
  assert.deepEqual(
    done.map((event) => [event.ids.length, event.reason]),
    [
      [3, "length"],
      [1, "length"],
    ],
  );
  assert.ok(calls.steps.every(({ positions }) => positions.every((position) => position < 5)));
});

test("an id that the embedding has no row for is not used as padding", async () => {
  const { decoder, calls } = scripted([ids("a"), ids("b")]);
  const wide = { ...tokenizer, padId: 500 };
  for await (const _ of generate(decoder, wide, ["a", "a|b"]));
  assert.deepEqual([...calls.start!.ids], [0, ...ids("a", "a", "b")]);
});

test("leaving the loop, aborting and failing all release the cache", async () => {
  const left = scripted([Array<number>(50).fill(idOf("a"))]);
  for await (const event of generate(left.decoder, tokenizer, ["a"])) if (event.type === "token") break;
  assert.equal(left.calls.ends, 1);

  const aborted = scripted([Array<number>(50).fill(idOf("a"))]);
  const controller = new AbortController();
  const reason = new Error("enough");
  let events = 0;
  await assert.rejects(async () => {
    for await (const _ of generate(aborted.decoder, tokenizer, ["a"], { signal: controller.signal })) {
      if (++events === 3) controller.abort(reason);
    }
  }, reason);
  assert.deepEqual([events, aborted.calls.steps.length, aborted.calls.ends], [3, 2, 1]);

  const failing = scripted([ids("a")]);
  failing.decoder.step = async () => Promise.reject(new Error("out of memory"));
  await assert.rejects(collect(failing.decoder, ["a"]), /out of memory/);
  assert.equal(failing.calls.ends, 1);

  const before = scripted([ids("a")]);
  await assert.rejects(collect(before.decoder, ["a"], { signal: AbortSignal.abort(reason) }), reason);
  assert.equal(before.calls.start, undefined);
});

test("prompts that cannot be run are refused before anything runs", async () => {
  const cases: [string | Int32Array, RegExp][] = [
    ["", /prompt 1[\s\S]*is empty/],
    [new Int32Array(101).fill(2), /prompt 1[\s\S]*at most 100 tokens[\s\S]*101 tokens/],
    [Int32Array.of(2, 99), /prompt 1[\s\S]*0 to 15[\s\S]*99/],
    [Int32Array.of(-1), /prompt 1[\s\S]*-1/],
  ];
  for (const [prompt, pattern] of cases) {
    const { decoder, calls } = scripted([ids("a"), ids("a")]);
    await assert.rejects(
      collect(decoder, ["a", prompt]),
      (error: LowrankError) => error.code === "generate/prompt" && pattern.test(error.describe()),
    );
    assert.equal(calls.start, undefined);
  }
  assert.deepEqual((await collect(scripted([]).decoder, [])).events, []);
});

test("options out of range name the option", async () => {
  const cases: GenerateOptions[] = [
    { temperature: -1 },
    { temperature: 1e-40 },
    { temperature: Number.NaN },
    { topK: 2.5 },
    { topK: -1 },
    { topP: 0 },
    { topP: 1.1 },
    { repetitionPenalty: 0 },
    { repetitionPenalty: Number.POSITIVE_INFINITY },
    { seed: 0.5 },
    { maxNewTokens: 0 },
    { stop: [""] },
    { stop: ["x".repeat(2000)] },
    { stop: Array<string>(65).fill("x") },
  ];
  for (const options of cases) {
    await assert.rejects(
      collect(scripted([ids("a")]).decoder, ["a"], options),
      (error: LowrankError) => error.code === "generate/option" && error.subject === Object.keys(options)[0] && !!error.expected,
    );
  }
});
