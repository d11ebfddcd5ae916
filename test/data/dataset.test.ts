// data/dataset.ts and train/datasets.ts: what became of each record is reported, for a whole file and for its parts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { loadTextBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { taskOf } from "../../src/tasks/index.ts";
import type { DataOptions } from "../../src/tasks/task.ts";
import { dataReader, finished, type ReadingEvent, withShared } from "../../src/train/datasets.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const base = await loadTextBase(nodeFiles, "test/fixtures/tiny-llama");

async function reader(contents: Record<string, object[]>, options: Partial<DataOptions> = {}, signal?: AbortSignal) {
  const entries = Object.entries(contents).map(([name, rows]) => [name, rows.map((row) => `${JSON.stringify(row)}\n`).join("")]);
  const files = memoryFiles(Object.fromEntries(entries));
  const data = await taskOf("causal-lm").data(base, { trainOn: "completion", ...options }, { files });
  return dataReader(files, data, { spill: "out/.examples", signal });
}
const ask = (prompt: string, completion: string) => ({ prompt, completion });

test("each record that is cut, dropped, empty or there again is counted by its reason", async () => {
  const long = "name[The Eagle] ".repeat(20);
  const rows = [
    ask("a\n", "b"),
    ask("a\n", "b"),
    ask("a\n", "c"),
    ask("a\n", "b"),
    ask("c\n", " "),
    ask("d\n", long),
    ask(long, "e"),
  ];
  const { report, examples } = await finished((await reader({ "d.jsonl": rows }, { maxLength: 24 })).read("d.jsonl"));
  assert.equal(report.count, 6);
  assert.equal(examples.length, 6);
  assert.deepEqual(
    [report.truncated, report.dropped, report.droppedCut, report.droppedEmpty, report.emptyCompletions, report.duplicates],
    [2, 1, 1, 0, 1, 2],
  );
  assert.equal(report.file?.spelling, "prompt and completion");
});

test("an evaluation file says how much of it is trained on as well", async () => {
  const data = await reader({
    "a.jsonl": [ask("a", "b"), ask("c", "d")],
    "b.jsonl": [ask("c", "d"), ask("c", "d"), ask("e", "f")],
  });
  const train = await finished(data.read("a.jsonl"));
  const { held } = withShared({ train, held: await finished(data.read("b.jsonl")) });
  assert.deepEqual([held!.report.alsoTrained, held!.report.duplicates], [2, 1]);
});

test("the parts of a split add up to the whole file, and know what they share", async () => {
  const rows = Array.from({ length: 40 }, (_, i) => ask(`question ${i % 30}\n`, "x".repeat(i % 30)));
  const whole = (await finished((await reader({ "d.jsonl": rows })).read("d.jsonl"))).report;
  const { train, held } = await finished((await reader({ "d.jsonl": rows })).split("d.jsonl", 0.25, 3));
  assert.equal(held.report.count, 10);
  for (const name of ["count", "tokens", "targets", "emptyCompletions"] as const) {
    assert.equal(train.report[name] + held.report[name], whole[name], name);
  }
  const all = [...(await train.examples.read(train.examples.length ? [0, 1] : [])), ...(await held.examples.read([0]))];
  assert.equal(all.length, 3);
  assert.ok(held.report.alsoTrained! > 0 && held.report.alsoTrained! <= 10);
});

test("a long file reports progress, and nothing else changes", async (t) => {
  const rows = Array.from({ length: 9 }, (_, i) => ask(`${i}`, "b"));
  let now = 0;
  t.mock.method(performance, "now", () => (now += 700));
  const reading = (await reader({ "d.jsonl": rows })).read("d.jsonl");
  const events: ReadingEvent[] = [];
  for (;;) {
    const { done, value } = await reading.next();
    if (done) {
      assert.equal(value.report.count, 9);
      break;
    }
    events.push(value);
  }
  assert.ok(events.length >= 2 && events.length < 9, `${events.length} events`);
  assert.ok(events.every(({ records }, i) => records > (events[i - 1]?.records ?? 0) && records <= 9));
  const [{ path, bytes, size, seconds }] = events as [ReadingEvent];
  assert.deepEqual([path, bytes, size], ["d.jsonl", size, size]);
  assert.ok(seconds >= 2);
});

test("a signal ends the reading of a long file", async (t) => {
  let now = 0;
  t.mock.method(performance, "now", () => (now += 700));
  const stop = new AbortController();
  const reading = (await reader({ "d.jsonl": Array.from({ length: 99 }, () => ask("a", "b")) }, {}, stop.signal)).read("d.jsonl");
  assert.equal((await reading.next()).value instanceof Object, true);
  stop.abort();
  await assert.rejects(finished(reading), { code: "train/stopped", subject: "d.jsonl" });
});
