// What stands out of layers' inputs is found by a forward pass: its places, and the exact rows of the weights there.
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { initAdapter } from "../../src/adapters/init.ts";
import { layoutOf, thetaOf } from "../../src/adapters/layout.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { makeBatch } from "../../src/data/batch.ts";
import { readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { OUTLIERS, outlierInput } from "../../src/graph/store.ts";
import { loadBase } from "../../src/models/base.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { formsOf, memoryModes } from "../../src/train/execution.ts";
import { loraObjective } from "../../src/train/objective.ts";
import { findOutliers } from "../../src/train/outliers.ts";
import { trainingProgram } from "../../src/train/stages.ts";
import { loraGraph } from "../../src/train/training-graph.ts";
import { repository } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";

const base = await loadBase(nodeFiles, `${repository}models/embedded`);
const { checkpoint } = base;
const config = loraConfig({ rank: 4, alpha: 8, targetModules: "all-linear" });
const modules = matchModules(base.modules, config, base.config.modelType);
const ids = Int32Array.from({ length: 48 }, (_, i) => (i * 37) % base.config.vocabSize);
const batch = makeBatch([[{ ids, labels: ids }]], { padId: 0 });
const loss = lossGraph(base.config, { maxTargets: 47, maxLength: 48 });
const form = formsOf("int8", { dtypeOf: () => "float16", integers: true });
const openSession = openNodeSession;

test("every layer finds the columns of its input, and the weights' rows there are the checkpoint's own", async () => {
  const trained = { config, modules };
  const program = trainingProgram(loraGraph(loss, trained, false), layoutOf(trained), { keep: "all", form });
  const found = await findOutliers(program, { loss, checkpoint, openSession, first: async () => batch });
  const placesOf = (at: string) => [...found[names.find((one) => one.at === at && !one.of)!.name]!.data].map(Number);
  const names = Object.keys(found).map((name) => ({ name, ...outlierInput(name)! }));
  const layers = 6;
  assert.equal(names.filter(({ of }) => of === undefined).length, 4 * layers); // inputs of q k v, o, gate up, down
  assert.equal(names.filter(({ of }) => of !== undefined).length, 7 * layers);
  for (const { name, at, of } of names) {
    const places = placesOf(at);
    assert.equal(new Set(places).size, OUTLIERS);
    if (of === undefined) continue;
    const weight = await readWeights(nodeFiles, checkpoint, of);
    const [out, width] = weight.shape as [number, number];
    const values = toFloat32(weight);
    const expected = places.flatMap((place) => Array.from({ length: out }, (_, row) => values[row * width + place]!));
    assert.deepEqual([...found[name]!.data].map(Number), expected);
  }
});

test("a run in integers takes its first batch to find them, and says so without one", slow, async () => {
  const stages = { ...memoryModes.keep, form };
  const options = { checkpoint, loss, config, modules, dropout: 0, stages, openSession };
  await assert.rejects(loraObjective(options), { code: "train/option" });
  const theta = thetaOf({ config, modules, tensors: initAdapter(modules, config, 0) });
  const key = { seed: 0, step: 0, micro: 0 };
  const gradientOf = async (own: typeof options & { first?: () => Promise<typeof batch> }) => {
    const objective = await loraObjective(own);
    try {
      const { gradient } = await objective.lossAndGradient(batch, theta, batch.targets, key);
      return Float64Array.from(gradient);
    } finally {
      await objective.close();
    }
  };
  const exact = await gradientOf({ ...options, stages: { ...memoryModes.keep, form: () => null } });
  const integers = await gradientOf({ ...options, first: async () => batch });
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const cosine = dot(exact, integers) / Math.sqrt(dot(exact, exact) * dot(integers, integers));
  assert.ok(cosine > 0.995, String(cosine));
  assert.notDeepEqual(exact, integers);
});
