// Which device computes: by name, or the fastest of those that are there. What runs on a graphics card itself is in test/gpu.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { LowrankError } from "../../src/errors.ts";
import { check } from "../../src/graph/graph.ts";
import { input, weight } from "../../src/graph/ops/leaves.ts";
import { linear, matmul } from "../../src/graph/ops/linear.ts";
import { whole } from "../../src/graph/stages.ts";
import { storeWeights } from "../../src/graph/store.ts";
import { type OnDevice, onDevice } from "../../src/platform/devices.ts";
import { nodeMachine } from "../../src/platform/node/engine/machine.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { nodeDevices, openNodeSession } from "../../src/platform/node/session.ts";
import type { Devices } from "../../src/platform/platform.ts";
import { checkForms } from "../../src/runtime/devices.ts";
import { runProgram } from "../../src/runtime/program-session.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { float32 } from "../../src/tensor.ts";

/** The engine, each run slowed down. */
const slow: OpenSession = async (program, options) => {
  const session = await openNodeSession(program, options);
  const run: typeof session.run = async (...given) => {
    await setTimeout(300);
    return session.run(...given);
  };
  return { ...session, run };
};

const withCard = (openSession: OpenSession, open: Devices["open"]): OnDevice => ({
  openSession,
  devices: { found: () => ["webgpu"], open },
});

test("auto takes a device that is clearly faster, and no other", async () => {
  const fast = await onDevice(
    withCard(slow, async () => openNodeSession),
    "auto",
  );
  assert.deepEqual([fast.device, fast.openSession], ["webgpu", openNodeSession]);
  const own = await onDevice(
    withCard(openNodeSession, async () => slow),
    "auto",
  );
  assert.deepEqual([own.device, own.openSession], [undefined, openNodeSession]);
});

test("auto does without a device that does not start, and starts none where none is found", async () => {
  const fails = async () => Promise.reject(new LowrankError("runtime/device", "does not start"));
  const platform = withCard(openNodeSession, fails);
  assert.equal(await onDevice(platform, "auto"), platform);
  await assert.rejects(onDevice(platform, "webgpu"), { code: "runtime/device" });
  const without = { openSession: slow, devices: { found: () => [], open: fails } };
  assert.equal(await onDevice(without, "auto"), without);
});

test("a platform without other devices refuses them, and takes its own", async () => {
  const platform = { openSession: openNodeSession, device: "webgpu" as const };
  for (const choice of [undefined, "auto", "webgpu"] as const) assert.equal(await onDevice(platform, choice), platform);
  await assert.rejects(onDevice(platform, "cpu"), { code: "runtime/device", expected: "webgpu", got: "cpu" });
});

test("CUDA without ONNX Runtime's library for it is refused with the command that fetches it", async (t) => {
  if (nodeDevices.found().includes("cuda")) return t.skip("the library is there");
  await assert.rejects(nodeDevices.open("cuda"), { code: "runtime/device", next: /install\.js/ });
});

test("forms of weights are refused where only float32 is computed with", () => {
  const x = input("x", "float32", ["rows", 128]);
  const graph = check({ outputs: { y: linear(x, weight("w", [256, 128]), "w") } });
  checkForms(whole(graph), "there", "Leave it out.");
  assert.throws(() => checkForms(whole(storeWeights(graph, () => "int8")), "there", "Leave it out."), {
    code: "runtime/base-dtype",
  });
});

test("products without transposed and scaled factors are the same", async () => {
  const [a, b] = [input("a", "float32", ["n", 3, 4]), input("b", "float32", ["n", 5, 3])];
  const graph = check({ outputs: { y: matmul(a, b, { transA: true, transB: true, alpha: 0.3 }) } });
  const values = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i));
  const feeds = { a: float32([2, 3, 4], values(24)), b: float32([2, 5, 3], values(30)) };
  const results: number[][] = [];
  for (const isPlain of [false, true]) {
    const session = await runProgram(whole(graph), { machine: { ...nodeMachine, isPlain }, files: nodeFiles });
    results.push([...(await session.run(feeds))["y"]!.data].map(Number));
    await session.close();
  }
  assert.equal(results[0]!.length, 40);
  for (const [i, value] of results[0]!.entries()) assert.ok(Math.abs(value - results[1]![i]!) < 1e-6);
});
