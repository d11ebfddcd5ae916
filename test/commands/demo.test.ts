// The demo in a few steps: its events, its numbers, and that nothing of its held-out rows is in its training rows.
// slow
import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { lossChart } from "../../src/commands/demo/loss-chart.ts";
import { inspectAdapter } from "../../src/index.ts";
import { lowrank } from "../../src/node.ts";
import { collect } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();

interface Row {
  messages: [{ role: "user"; content: string }, { role: "assistant"; content: string }];
}
const rowsOf = (name: string): Row[] =>
  readFileSync(`models/demo/${name}.jsonl`, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

test("it trains an adapter for the embedded base, answers without and with it, and counts", async () => {
  const output = path.join(root, "adapter");
  const events = await collect(lowrank.demo({ output, steps: 2, limit: 2 }));
  const result = events.at(-1)!;
  assert.ok(result.type === "result");
  const answers = events.filter((event) => event.type === "answer");
  const { exactBefore, exactAfter, trainSeconds, answerSeconds, ...exact } = result;
  const { parameters, modules, baseName } = await inspectAdapter(output, { base: "embedded" }).then((found) => ({
    parameters: found.parameters,
    modules: found.modules.length,
    baseName: found.config.baseModelNameOrPath,
  }));
  assert.deepEqual(exact, {
    type: "result",
    trainable: parameters,
    parameters: 2_828_736,
    modules,
    examples: rowsOf("train").length,
    steps: 2,
    adapterBytes: statSync(path.join(output, "adapter_model.safetensors")).size,
    heldOut: 2,
  });
  assert.equal(baseName, "embedded");
  assert.ok(trainSeconds > 0 && answerSeconds > 0);
  assert.equal(exactBefore, answers.filter(({ base, expected }) => base === expected).length);
  assert.equal(exactAfter, answers.filter(({ adapter, expected }) => adapter === expected).length);
  assert.deepEqual(
    answers.map(({ expected }) => expected),
    rowsOf("test")
      .slice(0, 2)
      .map(({ messages }) => messages[1].content),
  );
});

test("held-out rows share no text and no combination of facts with the training rows; every row has four facts or more", () => {
  const [train, held] = [rowsOf("train"), rowsOf("test")];
  assert.ok(train.length === 2000 && held.length === 200);
  for (const of of [({ messages }: Row) => messages[0].content, ({ messages }: Row) => messages[1].content]) {
    const trained = new Set(train.map(of));
    assert.deepEqual(
      held.map(of).filter((each) => trained.has(each)),
      [],
    );
  }
  const keys = ["type", "food", "price", "rating", "area", "family"];
  for (const { messages } of [...train, ...held]) {
    const found = Object.keys(JSON.parse(messages[1].content));
    assert.ok(found.length >= 4);
    assert.deepEqual(
      found,
      keys.filter((key) => found.includes(key)),
    );
  }
});

test("the loss chart fits the terminal and falls from the left to the right", () => {
  const chart = lossChart(
    Array.from({ length: 300 }, (_, i) => [i + 1, 3 * Math.exp(-i / 50)]),
    60,
  );
  const lines = chart.split("\n");
  assert.ok(lines.every((line) => line.length <= 60));
  const drawn = lines.filter((line) => line.includes("┤"));
  assert.ok(drawn[0]!.indexOf("┓") < 20 && drawn.at(-1)!.includes("━━━━━━━━━━"));
  const ticks = drawn.map((line) => Number.parseFloat(line));
  for (const [i, tick] of ticks.entries()) {
    const even = ticks[0]! + (i * (ticks.at(-1)! - ticks[0]!)) / (ticks.length - 1);
    assert.ok(Math.abs(tick - even) <= 0.01, `${ticks} are not even`);
  }
  assert.equal(lossChart([[1, 2]], 60), "");
});
