// Combining and resizing adapters, beside what the goldens of test/fixtures/algebra compare with PEFT.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type CombinationType, combinationTypes } from "../../src/adapters/combinations.ts";
import { combine } from "../../src/adapters/combine.ts";
import { type LoraConfig, loraConfig } from "../../src/adapters/config.ts";
import { pathMatcher, scaleFinder } from "../../src/adapters/match.ts";
import type { Adapter } from "../../src/adapters/peft-files.ts";
import { matchBudget } from "../../src/adapters/regex.ts";
import { truncateAdapter } from "../../src/adapters/resize.ts";
import { normal, purpose } from "../../src/random.ts";
import { near, refusedSync } from "../helpers/assert.ts";

const [IN, OUT] = [12, 10];

interface Given extends Partial<Omit<Adapter, "config">> {
  paths?: string[];
  seed?: number;
  config?: Partial<LoraConfig>;
}

function adapter({ paths = ["a.q", "a.v"], seed = 1, config: fields = {}, ...rest }: Given = {}): Adapter {
  const config = loraConfig({ rank: 3, alpha: 6, targetModules: ["q", "v"], ...fields });
  const { of } = scaleFinder(config, matchBudget());
  const modules = paths.map((path) => ({ path, ...of(path), inFeatures: IN, outFeatures: OUT }));
  const tensors = modules.map(({ path, rank }, i) => {
    const values = (size: number, stream: number) => normal(seed, [purpose.init, i, stream], size);
    return [path, { loraA: values(rank * IN, 0), loraB: values(OUT * rank, 1) }] as const;
  });
  return { config, modules, tensors: new Map(tensors), ...rest };
}

/** scale · B·A of a module; zeros if the adapter lacks it. */
function delta({ modules, tensors }: Adapter, path: string): Float64Array {
  const out = new Float64Array(OUT * IN);
  const { rank, scale } = modules.find((module) => module.path === path) ?? { rank: 0, scale: 0 };
  const { loraA, loraB } = tensors.get(path) ?? { loraA: [], loraB: [] };
  for (let i = 0; i < out.length; i++) {
    for (let r = 0; r < rank; r++) out[i]! += scale * loraB[Math.floor(i / IN) * rank + r]! * loraA[r * IN + (i % IN)]!;
  }
  return out;
}

const [a, b] = [adapter(), adapter({ seed: 2, paths: ["a.v", "a.o"], config: { alpha: 2, targetModules: ["v", "o"] } })];

test("cat is exact, and so is svd at a rank that holds the sum; a module has the ranks of the adapters that have it", () => {
  for (const options of [{ combinationType: "cat" }, { combinationType: "svd", svdRank: 6 }] as const) {
    const both = combine([a, b], { ...options, weights: [0.7, -0.4] });
    assert.deepEqual(
      both.modules.map(({ path, rank, scale }) => [path, rank, scale]),
      [
        ["a.q", 3, 1],
        ["a.v", 6, 1],
        ["a.o", 3, 1],
      ],
    );
    for (const path of ["a.q", "a.v", "a.o"]) {
      const wanted = delta(a, path).map((value, i) => 0.7 * value - 0.4 * delta(b, path)[i]!);
      near(delta(both, path), wanted, 1e-5, path);
    }
  }
});

test("what is written of ranks and targets selects the modules that the result has, with their ranks", () => {
  const layers = ["m.layers.0.q", "m.layers.1.q", "m.layers.10.q"];
  const narrow = (path: string, layer: number, seed: number) =>
    adapter({ paths: [path], seed, config: { rank: seed, targetModules: ["q"], layersToTransform: [layer] } });
  const pairs: [Adapter, Adapter, unknown][] = [
    [a, b, ["q", "v", "o"]],
    [a, a, ["q", "v"]],
    [narrow(layers[0]!, 0, 1), narrow(layers[2]!, 10, 2), [layers[0], layers[2]]],
    [
      adapter({ paths: ["a.q"], config: { targetModules: "a\\.q" } }),
      adapter({ paths: ["a.o"], config: { targetModules: ".*o" } }),
      "(a\\.q)|(.*o)",
    ],
  ];
  for (const [one, other, targets] of pairs) {
    const { config, modules } = combine([one, other], { combinationType: "cat" });
    assert.deepEqual(config.targetModules, targets);
    const { isTargeted } = pathMatcher(config, matchBudget());
    const { of } = scaleFinder(config, matchBudget());
    const base = modules[0]!.path.startsWith("a.") ? ["a.q", "a.v", "a.o"] : layers;
    const written = base.filter(isTargeted).map((path) => [path, of(path).rank, of(path).scale]);
    const made = modules.map(({ path, rank, scale }) => [path, rank, scale]);
    assert.deepEqual(written.sort(), made.sort());
  }
});

test("dare keeps a share of the elements, divided by it, and draws by the seed alone", () => {
  const wide: Given = { paths: ["a.q"], config: { rank: 400, alpha: 400 } };
  const [one, two] = [adapter(wide), adapter({ ...wide, seed: 2 })];
  const made = (seed: number) =>
    combine([one, two], { combinationType: "dare_linear", density: 0.3, weights: [1, 0], seed }).tensors.get("a.q")!;
  const [kept, again, other] = [made(1), made(1), made(2)];
  assert.deepEqual(kept, again);
  assert.notDeepEqual(kept, other);
  for (const name of ["loraA", "loraB"] as const) {
    const whole = one.tensors.get("a.q")![name];
    const share = kept[name].filter((value) => value !== 0).length / whole.length;
    assert.ok(Math.abs(share - 0.3) < 0.04, `${name}: ${share}`);
    near(
      kept[name],
      whole.map((value, i) => (kept[name][i] === 0 ? 0 : value / 0.3)),
      { rtol: 1e-6 },
    );
  }
  // Each adapter, module and factor has numbers of its own.
  const zeros = (values: Float32Array) => [...values].map((value) => value === 0);
  assert.notDeepEqual(zeros(kept.loraA.subarray(0, 4000)), zeros(kept.loraB.subarray(0, 4000)));
});

test("every type combines, and one adapter alone is scaled by its weight", () => {
  for (const combinationType of combinationTypes) {
    const density = /ties|dare|prune/.test(combinationType) ? { density: 0.5 } : {};
    const both = combine([a, adapter({ seed: 3 })], { combinationType, ...density });
    assert.deepEqual(
      both.modules.map(({ path, rank }) => [path, rank]),
      ["a.q", "a.v"].map((path) => [path, combinationType === "cat" ? 6 : 3]),
    );
    assert.ok(both.modules.every(({ path }) => delta(both, path).every(Number.isFinite)));
    const alone = combine([a], { combinationType, ...density, weights: [-2] });
    near(
      delta(alone, "a.q"),
      delta(a, "a.q").map((value) => -2 * value),
      1e-4,
    );
  }
});

test("a rank-stabilised scale is in the factors of the result, whose own scale is 1", () => {
  const stable = adapter({ config: { useRslora: true } });
  const alone = combine([stable], { combinationType: "linear" });
  assert.deepEqual([alone.config.useRslora, alone.modules[0]!.scale], [false, 1]);
  near(delta(alone, "a.q"), delta(stable, "a.q"), 1e-5);
});

test("a head that one adapter has trained stays, with its classes", () => {
  const saved = new Map([["score.weight", { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }]]);
  const head: Given = {
    saved,
    labels: ["no", "yes"],
    task: "sequence-classification",
    config: { modulesToSave: ["score"], taskType: "SEQ_CLS" },
  };
  const both = combine([a, adapter({ ...head, baseFingerprint: "3:0123456789abcdef" })]);
  assert.deepEqual(
    [both.saved, both.labels, both.config.modulesToSave, both.config.taskType],
    [saved, ["no", "yes"], ["score"], "SEQ_CLS"],
  );
  assert.deepEqual([both.task, both.baseFingerprint], ["sequence-classification", "3:0123456789abcdef"]);
  refusedSync(() => combine([adapter(head), adapter(head)]), "combine/saved", { subject: "score.weight" });
});

test("a head that files describe is that of the adapter that has one, and the same in all that do", () => {
  const headed = (pooling: "mean" | "cls") =>
    adapter({
      head: { head: "embedding", pooling, prompts: {}, promptName: null },
      task: "sentence-embedding",
      config: { taskType: "FEATURE_EXTRACTION" },
    });
  const rows = { saved: new Map([["e.weight", { shape: [1, 2], rows: [0], data: Float32Array.of(1, 2) }]]) };
  const [cls, mean] = [headed("cls"), headed("mean")];
  const classifier = adapter({
    saved: new Map([["score.weight", { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) }]]),
    config: { taskType: "SEQ_CLS" },
  });
  for (const all of [
    [a, cls],
    [cls, a],
    [adapter(rows), cls],
    [cls, headed("cls")],
  ]) {
    const { head, task, config } = combine(all);
    assert.deepEqual([head, task, config.taskType], [cls.head, "sentence-embedding", "FEATURE_EXTRACTION"]);
  }
  for (const all of [
    [cls, mean],
    [a, mean, cls],
    [cls, classifier],
  ])
    refusedSync(() => combine(all), "combine/heads");
  assert.equal(combine([adapter({ ...rows, task: "causal-lm" }), classifier]).config.taskType, "SEQ_CLS");
});

test("biases of adapted modules stay, of an adapter that has all modules of the result", () => {
  const biased = (bias: LoraConfig["bias"], paths: string[]) =>
    adapter({
      paths,
      saved: new Map(paths.map((path) => [`${path}.bias`, { shape: [OUT], data: new Float32Array(OUT) }])),
      config: { bias },
    });
  const all = combine([adapter({ paths: ["a.v"], seed: 2 }), biased("lora_only", ["a.q", "a.v"])]);
  assert.deepEqual([all.config.bias, [...all.saved!.keys()]], ["lora_only", ["a.q.bias", "a.v.bias"]]);
  refusedSync(() => combine([biased("lora_only", ["a.q"]), a]), "combine/biases", { subject: "a.v" });
  assert.equal(combine([biased("all", ["a.q"]), a]).config.bias, "all");
});

test("what PEFT refuses is refused, and options that would do nothing", () => {
  const options = (type: CombinationType, more: object = {}) => ({ combinationType: type, ...more });
  const other = adapter({ config: { rank: 2 } });
  for (const type of ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"] as const) {
    const density = type === "linear" ? {} : { density: 0.5 };
    refusedSync(() => combine([a, other], options(type, density)), "combine/ranks", {
      got: "3, 2",
      next: /lowrank resize --rank 2/,
    });
  }
  const uneven = adapter({ config: { rankPattern: { q: 2 } } });
  refusedSync(() => combine([a, uneven], options("linear")), "combine/ranks");
  refusedSync(() => combine([a, adapter({ config: { targetModules: ".*(q|v)" } })]), "combine/targets");
  refusedSync(() => combine([a, adapter({ config: { useDora: true } })]), "combine/method", { got: "DoRA" });
  const larger = { ...a, modules: a.modules.map((module) => ({ ...module, outFeatures: 20 })) };
  refusedSync(() => combine([a, larger]), "combine/shape", { subject: "a.q" });
  const based = ["3:0123456789abcdef", "3:fedcba9876543210"].map((baseFingerprint) => adapter({ baseFingerprint }));
  refusedSync(() => combine(based), "combine/bases", { next: /--any-base/ });
  assert.ok(combine(based, { anyBase: true }));
  const replicated = (end: number) =>
    adapter({
      config: {
        layerReplication: [
          [0, 2],
          [1, end],
        ],
      },
    });
  for (const others of [
    [a, replicated(2)],
    [replicated(3), replicated(2)],
  ]) {
    refusedSync(() => combine(others, { anyBase: true }), "combine/layers", { got: "[[0,2],[1,2]]" });
  }
  assert.deepEqual(combine([replicated(2), replicated(2)]).config.layerReplication, [
    [0, 2],
    [1, 2],
  ]);
  for (const [given, subject] of [
    [options("ties"), "density"],
    [options("ties", { density: 0 }), "density"],
    [options("dare_linear", { density: 1.5 }), "density"],
    [options("svd", { density: 0.5 }), "density"],
    [options("cat", { svdRank: 4 }), "svdRank"],
    [options("svd", { svdRank: 0 }), "svdRank"],
    [options("linear", { majoritySignMethod: "total" }), "majoritySignMethod"],
    [options("svd", { weights: [1] }), "weights"],
    [options("svd", { weights: [1, Number.NaN] }), "weights"],
    [options("sum" as CombinationType), "combinationType"],
  ] as const) {
    refusedSync(() => combine([a, adapter({ seed: 2 })], given), "combine/option", { subject });
  }
  refusedSync(() => combine([]), "combine/option", { subject: "adapters" });
});

test("resizing keeps what it says: the error of each module and of all is that of the updates", () => {
  const given = adapter({
    paths: ["a.q", "a.v", "b.q"],
    config: { rank: 8, alpha: 12, rankPattern: { "b.q": 5 }, useRslora: true },
  });
  for (const options of [{ rank: 3 }, { energy: 0.8 }, { rank: 100 }, { energy: 1 }]) {
    const resized = truncateAdapter(given, options);
    let [lost, all] = [0, 0];
    for (const { path, rank, error } of resized.modules) {
      const [before, after] = [delta(given, path), delta(resized.adapter, path)];
      const [off, size] = [Math.hypot(...before.map((value, i) => value - after[i]!)), Math.hypot(...before)];
      near(off / size, error, 1e-6, `${path}, rank ${rank}`);
      if (options.energy !== undefined) assert.ok(error <= Math.sqrt(1 - options.energy) + 1e-9);
      else assert.equal(rank, Math.min(options.rank!, path === "b.q" ? 5 : 8));
      lost += off ** 2;
      all += size ** 2;
    }
    near(resized.error, Math.sqrt(lost / all), 1e-6);
    const { of } = scaleFinder(resized.adapter.config, matchBudget());
    for (const { path, rank, scale } of resized.adapter.modules) assert.deepEqual([of(path).rank, of(path).scale], [rank, scale]);
  }
  for (const options of [{}, { rank: 2, energy: 0.9 }, { rank: 0 }, { rank: 1.5 }, { energy: 0 }, { energy: 1.1 }]) {
    refusedSync(() => truncateAdapter(given, options), "resize/option");
  }
});

test("of a method that has more than two factors, the rest stays", () => {
  const plain = adapter({ config: { useDora: true } });
  const magnitude = normal(9, [purpose.init], OUT);
  const tensors = new Map([...plain.tensors].map(([path, factors]) => [path, { ...factors, magnitude }]));
  const { adapter: resized } = truncateAdapter({ ...plain, tensors }, { rank: 1 });
  assert.deepEqual([resized.config.useDora, resized.tensors.get("a.q")!["magnitude"]], [true, magnitude]);
});
