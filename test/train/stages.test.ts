// A training graph in stages: where it is cut, that equal layers share an executable, and which execution fits into how much memory.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import type { InitialKind } from "../../src/adapters/initializations.ts";
import { layoutOf, lengthOfTheta } from "../../src/adapters/layout.ts";
import { type Program, schedule } from "../../src/graph/stages.ts";
import { lower } from "../../src/onnx/lower.ts";
import { lossGraph } from "../../src/tasks/common/losses.ts";
import { chooseExecution, type ExecutionNeeds, memoryModes } from "../../src/train/execution.ts";
import { trainingMemory } from "../../src/train/memory.ts";
import { trainingProgram } from "../../src/train/stages.ts";
import { inputsOf, isAtBorder, loraGraph } from "../../src/train/training-graph.ts";
import { tinyConfig, tinyModules } from "../helpers/tiny-decoder.ts";

const LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/** An adapter on every linear layer of a tiny Qwen2, or of some of its layers. */
function trainedOf(layers: number, dropout = 0, layersToTransform: number[] | null = null, initLoraWeights: InitialKind = true) {
  const model = tinyConfig("qwen2", layers);
  const options = { rank: 2, alpha: 4, targetModules: LINEAR, layersToTransform, initLoraWeights };
  const trained = { config: loraConfig({ ...options, dropout }), modules: tinyModules(model, options) };
  const graph = loraGraph(lossGraph(model, { maxTargets: 8, maxLength: 8 }), trained, dropout > 0);
  return { graph, entries: layoutOf(trained), trainable: lengthOfTheta(layoutOf(trained)) };
}

const modelsOf = ({ stages }: Program): Set<string> =>
  new Set(
    stages.map(({ graph, inputs }) => {
      const leaves = inputs.map(({ leaf }) => leaf);
      return Buffer.from(lower(graph, () => assert.fail("a stage is given its weights"), leaves)).toString("latin1");
    }),
  );

const shown = [0, 0.1].flatMap((dropout) => Object.entries(memoryModes).map(([name, stages]) => ({ dropout, name, stages })));
for (const { dropout, name, stages } of shown) {
  test(`${name}, dropout ${dropout}: deeper models have more stages of the same kinds`, () => {
    const [few, many] = [4, 9].map((layers) => {
      const { graph, entries } = trainedOf(layers, dropout);
      return trainingProgram(graph, entries, stages);
    }) as [Program, Program];
    assert.equal(many.stages.length - few.stages.length, 2 * 2 * 5, "attention and MLP, forward and backward, of five layers");
    assert.equal(modelsOf(many).size, modelsOf(few).size);
    assert.ok(modelsOf(many).size < many.stages.length / 2);
  });
}

test("what is taken off the base is a leaf as what is trained: stages are as many, and of the same kinds", () => {
  for (const [name, stages] of Object.entries(memoryModes)) {
    const [plain, few, many] = [trainedOf(4), trainedOf(4, 0, null, "pissa"), trainedOf(9, 0, null, "pissa")].map(
      ({ graph, entries }) => trainingProgram(graph, entries, stages),
    ) as [Program, Program, Program];
    assert.equal(few.stages.length, plain.stages.length, name);
    assert.equal(modelsOf(many).size, modelsOf(few).size, name);
  }
});

test("a run for the loss alone has no backward stage", () => {
  const { graph, entries } = trainedOf(4);
  const program = trainingProgram(graph, entries, memoryModes.keep);
  const all = schedule(program, [...program.results.keys()]);
  const loss = schedule(program, ["loss"]);
  assert.ok(loss.steps.length <= all.steps.length / 2 + 2, `${loss.steps.length} of ${all.steps.length}`);
  const made = loss.steps.flatMap(({ wanted }) => wanted).length;
  assert.ok(made < loss.steps.length + 8, "nothing is kept for a backward pass");
});

test("there is no backward pass below the lowest adapter", () => {
  for (const [name, stages] of Object.entries(memoryModes)) {
    const [all, upper] = [null, [7, 8]].map((layers) => {
      const { graph, entries } = trainedOf(9, 0, layers);
      const program = trainingProgram(graph, entries, stages);
      const names = [...program.results.keys()].filter((result) => !isAtBorder(result));
      return schedule(program, names).steps.length;
    }) as [number, number];
    // Attention and MLP of seven layers; those of the lowest adapted layer pass no gradient on.
    assert.equal(all - upper, 2 * 7, name);
  }
});

test("what a worker is fed is there three times", () => {
  const { graph, entries, trainable } = trainedOf(2, 0.1);
  const program = trainingProgram(graph, entries, memoryModes.keep);
  const lengths = { batch: 2, seq: 8, targets: 14 };
  const [here, inWorker] = [false, true].map((inWorker) => trainingMemory(program, { trainable, inWorker }, lengths).activations);
  const [pool] = inputsOf(graph).pools;
  assert.equal(inWorker! - here!, 2 * 4 * 16 * Number(pool!.outputs[0]!.shape[1]));
});

test("the fastest execution that fits is taken, and rounding only where it is asked for", () => {
  const sizes = () => [{ rows: 512, width: 64, targets: 512 * 63 }];
  const needs: ExecutionNeeds = { ...trainedOf(6), dtypeOf: () => "bfloat16", sizes };
  const auto = { memory: "auto", baseDtype: "auto" } as const;
  const free = chooseExecution(auto, needs);
  assert.deepEqual([free.memory, free.baseDtype, free.isRounded], ["keep", "float32", false]);
  const totals = (Object.keys(memoryModes) as (keyof typeof memoryModes)[]).map(
    (memory) => chooseExecution({ memory, baseDtype: "float32" }, needs).estimate.total,
  );
  assert.ok(
    totals.every((total, i) => i === 0 || total <= totals[i - 1]!),
    totals.join(", "),
  );
  const [asStored, inFloat32] = (["bfloat16", "float32"] as const).map((baseDtype) => {
    return chooseExecution({ memory: "stream", baseDtype }, needs).estimate.total;
  });
  assert.equal(inFloat32, asStored, "16 bits stream as they are stored");
  const least = chooseExecution(auto, { ...needs, available: 1 });
  assert.ok(least.estimate.total <= Math.min(...totals) && !least.isRounded);
  assert.ok(chooseExecution({ memory: "auto", baseDtype: "int8" }, needs).isRounded);
  const stored = { ...needs, dtypeOf: () => "float32" };
  assert.equal(chooseExecution(auto, { ...stored, available: 1 }).baseDtype, "float32");
});

test("a device that knows no forms keeps the base in float32, and refuses the others by name", () => {
  const sizes = () => [{ rows: 512, width: 64, targets: 512 * 63 }];
  const needs: ExecutionNeeds = { ...trainedOf(2), dtypeOf: () => "bfloat16", sizes, available: 1, device: "webgpu" };
  assert.equal(chooseExecution({ memory: "auto", baseDtype: "auto" }, needs).baseDtype, "float32");
  for (const baseDtype of ["bfloat16", "int8", "int4"] as const) {
    assert.throws(() => chooseExecution({ memory: "auto", baseDtype }, needs), { code: "train/option", got: baseDtype });
  }
});
