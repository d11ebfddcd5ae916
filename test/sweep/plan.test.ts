// The plan of a sweep: how long trials are, when they are compared, which fit into the time; and what is tried in which order.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { openBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { timeLimit } from "../../src/platform/node/time-limit.ts";
import { completeSweep } from "../../src/sweep/options.ts";
import { evalEvery, keptOf, phaseSeconds, planGrid, planSweep, roundSeconds, rungsOf } from "../../src/sweep/plan.ts";
import { gridOf, phasesOf, type Settings, settingsOptions, spaceOf, targetModules } from "../../src/sweep/space.ts";
import { refused } from "../helpers/assert.ts";
import { repository } from "../helpers/repository.ts";

const base = await openBase(nodeFiles, `${repository}models/embedded`, timeLimit);
const options = (more: object = {}) => completeSweep({ base: "b", data: "d", output: "o", ...more });
const measured = { open: 2, step: 1, evaluation: 5, steps: 180 };
const wanted = { counts: [5, 3, 3], seeds: 1, seconds: 1000, isFixed: false };
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

describe("rungs", () => {
  it("are a quarter, a half and all of the steps, each with an evaluation", () => {
    assert.deepEqual(rungsOf(180), [45, 90, 180]);
    assert.deepEqual(rungsOf(10), [3, 6, 10]);
    assert.deepEqual([rungsOf(1), rungsOf(2), rungsOf(3)], [[1], [1, 2], [1, 2, 3]]);
    for (let steps = 1; steps < 200; steps++)
      for (const rung of rungsOf(steps)) assert.ok(rung === steps || rung % evalEvery(steps) === 0, `${steps}: ${rung}`);
  });

  it("keep half of the settings, and two at least", () => {
    assert.deepEqual(
      [0, 1, 2].map((rung) => keptOf(5, rung)),
      [5, 3, 2],
    );
    assert.deepEqual(
      [0, 1, 2].map((rung) => keptOf(16, rung)),
      [16, 8, 4],
    );
    assert.deepEqual(
      [0, 1, 2].map((rung) => keptOf(1, rung)),
      [1, 1, 1],
    );
  });
});

describe("a plan", () => {
  it("has the longest trials that fit", () => {
    const plan = planSweep(measured, wanted);
    assert.ok(sum(plan.seconds) <= 0.85 * 1000);
    const longer = rungsOf(plan.steps + 1);
    assert.ok(sum(wanted.counts.map((count, i) => phaseSeconds(longer, count, i > 0, measured))) > 0.85 * 1000);
    assert.ok(plan.steps > 32 && plan.steps < 180, String(plan.steps));
  });

  it("is as long as was asked for where there is time", () => {
    const plan = planSweep(measured, { ...wanted, seconds: 36_000 });
    assert.deepEqual([plan.steps, plan.counts], [180, [5, 3, 3]]);
  });

  it("leaves out settings of the last phases first where even short trials do not fit", () => {
    const plan = planSweep({ ...measured, step: 5 }, { ...wanted, seconds: 1300 });
    assert.equal(plan.steps, 32);
    assert.equal(plan.counts[0], 5);
    assert.ok(plan.counts[2]! < 3 && plan.counts[2]! <= plan.counts[1]!, plan.counts.join(" "));
    const fixed = planSweep(measured, { ...wanted, seconds: 1200, isFixed: true });
    assert.equal(fixed.steps, 180);
    assert.ok(sum(fixed.counts) < 11);
  });

  it("is refused where two learning rates do not fit, with the time that they need", async () => {
    await refused(() => planSweep(measured, { ...wanted, seconds: 60 }), "sweep/budget", {
      subject: "minutes",
      expected: /^\d+(\.\d)? minutes/,
    });
  });

  it("counts rounds where several trials are trained at a time", () => {
    const rungs = [2, 4, 8];
    const one = { open: 1, step: 1, evaluation: 1, steps: 8 };
    // Up to each rung a trial takes 4, 4 and 7 seconds; 5, 3 and 2 of them are trained, with two seeds each.
    assert.equal(phaseSeconds(rungs, 5, false, one, { seeds: 2 }), 10 * 4 + 6 * 4 + 4 * 7);
    assert.equal(phaseSeconds(rungs, 5, false, one, { seeds: 2, groups: 4 }), 3 * 4 + 2 * 4 + 1 * 7);
    assert.equal(roundSeconds([3, 1, 2, 5, 4], 2), 3 + 5 + 4);
    assert.equal(roundSeconds([3, 1, 2], 1), 6);
    assert.equal(planGrid(measured, 12, 3, 8).seconds[0], 5 * (2 + 180 + 20));
    const [alone, together] = [planSweep(measured, wanted), planSweep(measured, { ...wanted, groups: 4 })];
    assert.ok(together.steps > alone.steps && sum(together.seconds) <= 0.85 * 1000, `${alone.steps} ${together.steps}`);
  });

  it("of a grid trains all to the end", () => {
    assert.deepEqual(planGrid(measured, 12, 3), { steps: 180, rungs: [180], counts: [12], seconds: [36 * (2 + 180 + 20)] });
  });
});

describe("the space", () => {
  const place = ({ method, rank, alpha, targets, learningRate }: Settings) =>
    [method, rank, alpha, targets, learningRate].join(" ");
  const score = (settings: Settings, loss: number) => ({ settings, loss });

  it("is chosen by the size of the base", () => {
    assert.deepEqual(spaceOf(options(), base), {
      learningRates: [3e-4, 9e-4, 3e-3, 9e-3, 3e-2],
      ranks: [2, 8, 32],
      alphaRatios: [2],
      targets: ["all-linear", "attention"],
      methods: ["lora"],
    });
    assert.deepEqual(spaceOf(options({ methods: ["full"] }), base).learningRates, [2e-5, 6e-5, 2e-4, 6e-4, 2e-3]);
  });

  it("is searched by learning rate first, then by one setting at a time, then beside the best", () => {
    const [first, second, third] = phasesOf(spaceOf(options({ methods: ["lora", "dora", "full"] }), base));
    const rates = first!.settings([]);
    assert.deepEqual(
      rates.map(place),
      [3e-3, 9e-4, 9e-3, 3e-4, 3e-2].map((rate) => `lora 8 16 all-linear ${rate}`),
    );
    const others = second!.settings([score(rates[2]!, 1)]);
    assert.deepEqual(others.map(place), [
      "lora 2 4 all-linear 0.009",
      "lora 8 16 all-linear 0.009",
      "lora 32 64 all-linear 0.009",
      "lora 8 16 attention 0.009",
      "dora 8 16 all-linear 0.009",
      "full    0.0009",
    ]);
    const [rank2, rank8, , attention] = others;
    const last = third!.settings([score(rank2!, 1), score(attention!, 2), score(rank8!, 3)]);
    assert.deepEqual(last.map(place), ["lora 2 4 attention 0.009", "lora 2 4 all-linear 0.016", "lora 2 4 all-linear 0.0052"]);
    assert.ok(others.length - 1 <= second!.count && last.length <= third!.count);
  });

  it("as a grid is every combination, full fine-tuning once for each learning rate", () => {
    const grid = gridOf(spaceOf(options({ learningRates: [1e-3, 1e-2], ranks: [4, 1], methods: ["lora", "full"] }), base));
    assert.equal(grid.length, 2 * 2 * 2 + 2);
    assert.equal(grid.filter(({ method }) => method === "full").length, 2);
  });

  it("has names for the layers of attention and the others", async () => {
    const { modules } = base;
    const attention = ["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `self_attn.${name}`);
    assert.deepEqual(targetModules("attention", modules), attention);
    assert.deepEqual(
      targetModules("mlp", modules),
      ["gate_proj", "up_proj", "down_proj"].map((name) => `mlp.${name}`),
    );
    assert.deepEqual(targetModules("q_proj,v_proj", modules), ["q_proj", "v_proj"]);
    assert.equal(targetModules("default", modules), null);
    await refused(
      () =>
        targetModules(
          "attention",
          modules.filter(({ path }) => path.includes("mlp")),
        ),
      "sweep/targets",
    );
    const full = { method: "full", rank: null, alpha: null, targets: null, learningRate: 1e-4 } as const;
    assert.deepEqual(settingsOptions(full, modules), { method: "full", learningRate: 1e-4 });
  });
});

it("the options of a sweep are checked, and those that it chooses itself are none of them", async () => {
  assert.deepEqual([options().minutes, options().evalSplit, options().epochs, options().schedule], [30, 0.1, 3, "cosine"]);
  assert.equal(options({ grid: true }).minutes, undefined);
  const { epochs, evalSplit } = options({ steps: 5, evalData: "e" });
  assert.deepEqual([epochs, evalSplit], [undefined, undefined]);
  for (const wrong of [{ rank: 8 }, { learningRate: 1 }, { ranks: [] }, { ranks: [0] }, { methods: ["magic"] }, { minutes: 0 }])
    await refused(() => options(wrong), "train/option");
});
