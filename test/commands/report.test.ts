// Reports: a page that hostile text can't leave, of bounded size, well formed, and with the numbers of a real run in it.
// slow
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { AdapterDescription } from "../../src/adapters/describe.ts";
import type { LowrankError } from "../../src/errors.ts";
import { finetune, reportRuns } from "../../src/index.ts";
import { chartLibrary } from "../../src/platform/node/host.ts";
import type { ReportedRun } from "../../src/report/facts.ts";
import { heatMaps } from "../../src/report/heat-map.ts";
import { reportPage } from "../../src/report/page.ts";
import { shortNames } from "../../src/report/report.ts";
import { curve, MAX_POINTS, smoothed, thinned } from "../../src/report/series.ts";
import { bestOf } from "../../src/train/evals.ts";
import type { RunMetrics } from "../../src/train/run-log.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
const library = await chartLibrary();
const page = (...runs: ReportedRun[]) => reportPage(runs, library, "made by a test");

const time = "2026-01-01T00:00:00.000Z";
const data = { count: 3, tokens: 30, targets: 20 };

function metrics(steps: number, change: Partial<RunMetrics> = {}): RunMetrics {
  return {
    runs: [
      {
        type: "run",
        time,
        lowrank: "1.2.3",
        options: { base: "a/base", learningRate: 0.5, rank: 8 },
        prepared: { modules: 2, trainable: 100, parameters: 1000, train: data, eval: data },
      },
    ],
    start: { type: "start", time, step: 0, steps },
    steps: Array.from({ length: steps }, (_, at) => ({
      type: "step",
      time,
      step: at + 1,
      loss: 3 + Math.sin(at) / 2,
      learningRate: 1e-3,
      gradNorm: 1,
      tokens: 100,
      tokensPerSecond: 50,
      seconds: 2,
      memoryBytes: 1e9,
    })),
    evals: [],
    samples: [],
    checkpoints: [],
    end: null,
    skipped: 0,
    bytes: { size: 1000, read: 1000 },
    resumes: 0,
    bestEval: bestOf(change.evals ?? []),
    ...change,
  };
}

function adapter(paths: readonly string[]): AdapterDescription {
  const modules = paths.map((modulePath, at) => ({
    path: modulePath,
    rank: 4,
    alpha: 4,
    scale: 1,
    inFeatures: 8,
    outFeatures: 8,
    parameters: 64,
    normA: 1,
    normB: 1,
    normDelta: 1 + at,
    effectiveRank: at === 0 ? null : 2.5,
  }));
  return { parameters: 64 * paths.length, ranks: new Map([[4, paths.length]]), normA: 1, normB: 1, normDelta: 7.125, modules };
}

const VOID = new Set(["meta", "br", "link", "img", "hr", "input"]);

/** The elements of a page, each with its attributes and its raw text up to the next tag. Fails where one is not closed in order. */
function elements(html: string): { name: string; attributes: Record<string, string>; text: string }[] {
  const found: { name: string; attributes: Record<string, string>; text: string }[] = [];
  const open: string[] = [];
  const tag = /<(?:!doctype html|(\/?)([a-z][a-z0-9]*)((?:\s+[a-z-]+(?:="[^"<]*")?)*)\s*)>/g;
  let last = 0;
  for (let match = tag.exec(html); match; match = tag.exec(html)) {
    const between = html.slice(last, match.index);
    assert.ok(
      !between.includes("<"),
      `a < that begins no tag: ${between.slice(between.indexOf("<"), between.indexOf("<") + 60)}`,
    );
    const [, closing, name, attributes] = match;
    last = tag.lastIndex;
    if (!name) continue;
    if (closing) {
      assert.equal(open.pop(), name, `</${name}> closes another element`);
      continue;
    }
    const pairs = [...attributes!.matchAll(/([a-z-]+)(?:="([^"]*)")?/g)].map((pair) => [pair[1]!, pair[2] ?? ""]);
    // Text of script and style is not markup: it goes to the first end tag, as the HTML standard says.
    const raw = name === "script" || name === "style";
    const end = raw ? html.indexOf(`</${name}`, last) : html.indexOf("<", last);
    found.push({ name, attributes: Object.fromEntries(pairs), text: html.slice(last, end) });
    if (raw) {
      last = end;
      tag.lastIndex = last;
    }
    if (!VOID.has(name)) open.push(name);
  }
  assert.deepEqual(open, [], "elements that are not closed");
  return found;
}

const scriptsOf = (html: string) => elements(html).filter(({ name }) => name === "script");
const chartsIn = (html: string) => JSON.parse(scriptsOf(html).find(({ attributes }) => attributes["id"] === "chart-data")!.text);

test("hostile text stays text, wherever it comes from", async () => {
  const hostile = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    `"><svg onload='alert(1)'>`,
    "<!--<script>",
    "]]>\u0000\u001b[31m\u202eevil\ud800",
    "&lt;b&gt;{{alert(1)}}`",
  ].join(" ");
  const run = metrics(3, {
    samples: [{ type: "samples", time, step: 1, samples: [{ prompt: hostile, expected: hostile, text: hostile }] }],
    end: { type: "error", time, code: hostile, message: hostile },
  });
  run.runs[0]!.options = { base: hostile, data: hostile, [hostile]: hostile, nested: { [hostile]: [hostile] } };
  run.runs[0]!.lowrank = hostile;
  run.runs[0]!.environment = { [hostile]: hostile };
  const one: ReportedRun = { name: hostile, metrics: run, adapter: adapter([hostile, `model.layers.0.${hostile}`]) };
  const plain: ReportedRun = { name: "plain", metrics: metrics(3), adapter: adapter(["a", "model.layers.0.q"]) };
  for (const [runs, safe] of [
    [[one], [plain]],
    [
      [one, { ...one, name: `${hostile} 2` }],
      [plain, { ...plain, name: "plain 2" }],
    ],
  ] as const) {
    const html = await page(...runs);
    const all = elements(html);
    assert.ok(html.includes("&lt;/script&gt;&lt;script&gt;alert(1)"), "the text is not there at all");
    assert.equal(scriptsOf(html).length, scriptsOf(await page(...safe)).length);
    for (const { name, attributes } of all) {
      assert.ok(!["img", "svg", "link", "iframe"].includes(name), `an element ${name} came in`);
      for (const key of Object.keys(attributes))
        assert.ok(!key.startsWith("on") && !/^(src|href)$/.test(key), `attribute ${key}`);
    }
    assert.ok(!/[^\P{Cc}\n\t]|\u202e|\p{Cs}/u.test(html.replace(library.script, "")), "a character that steers");
    if (runs.length > 1)
      assert.ok(chartsIn(html)[0].series[0].label.startsWith(hostile.slice(0, 20)), "labels come back as they were");
  }
});

test("only the page's own scripts may run, and nothing may be fetched", async () => {
  const html = await page({ name: "run", metrics: metrics(2), adapter: null });
  const policy = elements(html).find(({ attributes }) => attributes["http-equiv"] === "Content-Security-Policy")!.attributes[
    "content"
  ]!;
  const run = scriptsOf(html).filter(({ attributes }) => attributes["type"] === undefined);
  const hashes = run.map(({ text }) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`);
  assert.equal(run.length, 2);
  assert.equal(policy, `default-src 'none'; style-src 'unsafe-inline'; script-src ${hashes.join(" ")}`);
  assert.ok(run[0]!.text.includes("Leon Sorokin") && run[0]!.text.includes("var uPlot="), "uPlot and its license");
});

test("a long run gives a page of bounded size that keeps the extremes", async () => {
  const long = metrics(50_000);
  long.steps[17_777]!.loss = 99;
  long.steps[43_456]!.loss = 0.001;
  long.evals = long.steps.map(({ step, loss }) => ({ type: "eval", time, step, loss, perplexity: null }));
  const word = "very long ".repeat(2000);
  long.samples = Array.from({ length: 100 }, (_, at) => ({
    type: "samples",
    time,
    step: at,
    samples: Array.from({ length: 40 }, (_, prompt) => ({ prompt: `${prompt} ${word}`, text: word })),
  }));
  long.runs[0]!.options = Object.fromEntries(Array.from({ length: 5000 }, (_, at) => [`option ${at}`, word]));
  const paths = Array.from({ length: 3000 }, (_, layer) => [`model.layers.${layer}.q`, `model.layers.${layer}.v${layer}`]).flat();
  const html = await page({ name: word, metrics: long, adapter: adapter(paths) });
  assert.ok(html.length < 3e6, `${html.length} characters`);
  const { series } = chartsIn(html)[0] as { series: { label: string; x: number[]; y: number[] }[] };
  for (const { x, y } of series) {
    assert.ok(x.length <= MAX_POINTS && x.length > MAX_POINTS / 2 && y.length === x.length, `${x.length} points`);
    assert.deepEqual([x[0], x.at(-1)], [1, 50_000]);
    assert.ok(
      x.every((step, at) => at === 0 || step > x[at - 1]!),
      "steps out of order",
    );
  }
  const each = series.find(({ label }) => label === "each step")!;
  assert.ok(each.x[each.y.indexOf(99)] === 17_778 && each.x[each.y.indexOf(0.001)] === 43_457, "an extreme is lost");
});

test("the figures of a task have charts and columns, of any name, and not too many", async () => {
  const own = metrics(3);
  own.evals = [1, 2, 3].map((step) => ({ type: "eval", time, step, loss: 1, perplexity: 2.7, f1: step / 4, "<b>": 0 }));
  const html = await page({ name: "run", metrics: own, adapter: null });
  const titles = elements(html).flatMap(({ name, text }) => (name === "figcaption" ? text : []));
  assert.ok(titles.includes("F1") && titles.includes("&lt;b&gt;") && !titles.includes("Perplexity"), titles.join());
  const drawn = chartsIn(html) as { id: string; series: { y: number[] }[] }[];
  assert.deepEqual(drawn.find(({ id }) => id === "figure-0")!.series[0]!.y, [0.25, 0.5, 0.75]);
  assert.match(html, /<th scope="col">f1<\/th>/);
  assert.match(html, /1\.0000 at step 3, perplexity 2\.70, f1 0\.7500/);
  const inherited = ["constructor", "toString", "__defineGetter__", "__proto__", ""];
  own.evals = inherited.map((name, i) => JSON.parse(`{"type":"eval","time":"${time}","step":${i + 1},"loss":1,"${name}":1}`));
  assert.equal(
    (chartsIn(await page({ name: "run", metrics: own, adapter: null })) as typeof drawn).filter(({ id }) => /^figure/.test(id))
      .length,
    5,
  );
  own.evals = Array.from({ length: 500 }, (_, step) => ({ type: "eval", time, step, loss: 1, [`figure ${step}`]: step }));
  assert.equal(
    chartsIn(await page({ name: "run", metrics: own, adapter: null })).filter(({ id }: { id: string }) => /^figure/.test(id))
      .length,
    8,
  );
});

test("numbers that are none are left out, short curves are kept whole", () => {
  const rows = [1, 2, 3, 4].map((step) => ({ step, value: [1, null, Number.NaN, 5][step - 1]! }));
  assert.deepEqual(
    curve(rows, ({ value }) => value),
    { x: [1, 4], y: [1, 5] },
  );
  const short = { x: [1, 2, 3], y: [9, 8, 7] };
  assert.deepEqual(thinned(short), short);
});

test("the smoothed curve has no pull of its first value and ends at the mean of its last steps", () => {
  const count = 1000;
  const x = Array.from({ length: count }, (_, at) => at + 1);
  const constant = smoothed({ x, y: x.map(() => 4) });
  for (const value of constant.y) assert.ok(Math.abs(value - 4) < 1e-12);
  const jump = smoothed({ x, y: x.map((step) => (step <= 500 ? 0 : 1)) });
  assert.ok(jump.y[499] === 0 && jump.y.at(-1)! > 0.999 && jump.y[510]! > 0.2 && jump.y[510]! < 0.8, "it follows");
});

test("runs are named by what distinguishes them", () => {
  assert.deepEqual(shortNames(["out/a/", "./out/b"]), ["a", "b"]);
  assert.deepEqual(shortNames(["x/run", "y/run", "run"]), ["x/run", "y/run", "run"]);
  assert.deepEqual(shortNames(["run", "run"]), ["run (1)", "run (2)"]);
});

test("a page without a step, and one of several runs, say what there is", async () => {
  const empty = await page({ name: "new", metrics: metrics(0, { start: null, runs: [] }), adapter: null });
  elements(empty);
  assert.match(empty, /No step is done yet/);
  const [slow, fast] = [metrics(4), metrics(4)];
  fast.runs[0]!.options = { base: "a/base", learningRate: 0.25, rank: 8 };
  fast.end = { type: "done", time, step: 4, stopped: false, early: false, result: 4, seconds: 8 };
  const both = await page(
    { name: "slow", metrics: slow, adapter: null },
    { name: "fast", metrics: fast, adapter: adapter(["h.0.q", "h.1.q"]) },
  );
  const rows = elements(both).filter(({ name, attributes }) => name === "tr" && attributes["class"] === "marked");
  assert.equal(rows.length, 1, "learningRate alone differs");
  assert.match(both, /<tr class="marked"><th scope="row">learningRate<\/th><td>0.5<\/td><td>0.25<\/td><\/tr>/);
  assert.match(both, /at work or cut off at step 4 of 4<\/td><td>finished, 4 steps</);
  assert.deepEqual(
    chartsIn(both)[0].series.map(({ label, run }: { label: string; run: number }) => [label, run]),
    [
      ["slow: training, mean of about 5 steps", 0],
      ["fast: training, mean of about 5 steps", 1],
    ],
  );
});

test("the report of a real run has its numbers; of a stopped one, those of its checkpoint", async () => {
  const output = path.join(root, "run");
  const stop = new AbortController();
  const losses: number[] = [];
  const options = {
    base: `${fixtures}/tiny-llama`,
    data: `${fixtures}/tiny-e2e/train.jsonl`,
    evalData: `${fixtures}/tiny-e2e/eval.jsonl`,
    evalEvery: 3,
    batchSize: 2,
    steps: 6,
    learningRate: 0.0123,
    targetModules: ["q_proj", "v_proj"],
    threads: 1,
  };
  for await (const event of finetune({ ...options, output, signal: stop.signal })) {
    if (event.type === "step") losses.push(event.loss);
    if (event.type === "step" && event.step === 4) stop.abort();
  }
  const file = await reportRuns({ folders: [output] });
  assert.equal(file, `${output}/report.html`);
  const stopped = readFileSync(file, "utf8");
  assert.match(stopped, /stopped at step 4 of 6/);
  assert.equal(stopped.match(/class="heat[ "]/g)?.length, 2 * 4, "two heat maps of four modules");

  let evaluation = 0;
  for await (const event of finetune({ output, resume: true })) {
    if (event.type === "step") losses.push(event.loss);
    if (event.type === "eval") evaluation = event.loss;
  }
  const html = readFileSync(await reportRuns({ folders: [output], output: path.join(root, "page.html") }), "utf8");
  elements(html);
  assert.match(html, /finished, 6 steps/);
  assert.equal(losses.length, 6);
  const [loss, rate] = chartsIn(html);
  assert.deepEqual(
    loss.series[0].y,
    losses.map((value) => Number(value.toPrecision(6))),
  );
  assert.deepEqual(loss.series[2].x, [3, 6]);
  assert.equal(rate.series[0].y[0], 0.0123);
  for (const text of [
    `${evaluation.toFixed(4)}</td>`,
    "<td>0.0123</td>",
    "3,584 (3.4 %)",
    "400 examples",
    "longest",
    "went on",
    `Node</th><td>${process.version}`,
  ]) {
    assert.ok(html.includes(text), text);
  }

  writeFileSync(`${root}/page.html`, "old");
  for (const [folders, code] of [
    [[root], "report/no-log"],
    [[], "report/runs"],
    [Array.from({ length: 9 }, () => output), "report/runs"],
  ] as const) {
    await assert.rejects(
      reportRuns({ folders, output: `${root}/page.html` }),
      (error: LowrankError) => error.code === code && error.next !== undefined,
    );
  }
  assert.equal(readFileSync(`${root}/page.html`, "utf8"), "old");
});

const described = (paths: readonly string[]): AdapterDescription => {
  const sizes = { rank: 2, alpha: 2, scale: 1, inFeatures: 4, outFeatures: 4, parameters: 16 };
  const modules = paths.map((path) => ({ path, ...sizes, normA: 1, normB: 1, normDelta: 1, effectiveRank: 1 }));
  return { parameters: 16 * paths.length, ranks: new Map([[2, paths.length]]), normA: 1, normB: 1, normDelta: 1, modules };
};

test("the heat maps of a model with two towers have a row for each layer of each", () => {
  const paths = ["vision_model.encoder.layers", "text_model.encoder.layers"].flatMap((stem) =>
    [0, 1].flatMap((layer) => ["q_proj", "v_proj"].map((name) => `${stem}.${layer}.self_attn.${name}`)),
  );
  const page = heatMaps(described([...paths, "text_projection"]));
  const rows = [...page.matchAll(/<th scope="row">([^<]*)</g)].map(([, name]) => name);
  const expected = ["vision_model 0", "vision_model 1", "text_model 0", "text_model 1", "outside"];
  assert.deepEqual(rows, [...expected, ...expected]);
  assert.equal(page.match(/class="heat[ "]/g)!.length, 2 * 9);
  assert.doesNotMatch(page, /not shown/);
  const [first] = [...heatMaps(described(["model.layers.3.q_proj"])).matchAll(/<th scope="row">([^<]*)</g)];
  assert.equal(first![1], "3");
});
