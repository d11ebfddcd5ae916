// models/vision.ts and encoder.ts: patches against the convolution they stand for, and masks that hide padding.
// slow

import assert from "node:assert/strict";
import { test } from "node:test";
import { withInputs } from "../../src/adapters/beside.ts";
import { mulDims } from "../../src/graph/dims.ts";
import { check, type Graph, type Value } from "../../src/graph/graph.ts";
import { input } from "../../src/graph/ops/leaves.ts";
import { reshape } from "../../src/graph/ops/shape.ts";
import { whole } from "../../src/graph/stages.ts";
import { mixHeads, noMask, paddingMask } from "../../src/models/layers/encoder.ts";
import { clipVisionConfig, embedPatches, patchCount, pixelInput, withClassToken } from "../../src/models/layers/vision.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { normal, purpose } from "../../src/random.ts";
import { float32, int32, sizeOf, type Tensor } from "../../src/tensor.ts";
import { near } from "../helpers/assert.ts";

const random = (seed: number, shape: number[]) =>
  float32(shape, normal(seed, [purpose.init, 0, 0], new Float32Array(sizeOf(shape))));

async function run(outputs: Graph["outputs"], feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const graph = whole(check({ outputs }));
  const session = await openNodeSession(graph);
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

test("patches are the convolution whose step is its kernel, and pixels that fill no patch are left out", async () => {
  const c = { imageSize: [7, 10] as [number, number], patchSize: [3, 2] as [number, number], channels: 2 };
  const [batch, hidden, down, across] = [2, 4, 2, 5];
  assert.equal(patchCount(c), down * across);
  const pixels = random(1, [batch, 2, 7, 10]);
  const kernel = random(2, [hidden, 2, 3, 2]);
  const patches = { y: embedPatches(pixelInput(c), "patches", false, { ...c, hiddenSize: hidden }) };
  const { y } = withInputs(
    { outputs: patches },
    new Map([["patches.weight", input("kernel", "float32", [hidden, 2, 3, 2])]]),
  ).outputs;
  const { data } = (await run({ y: y! }, { pixelValues: pixels, kernel }))["y"]!;
  let at = 0;
  for (let b = 0; b < batch; b++) {
    for (let row = 0; row < down; row++) {
      for (let column = 0; column < across; column++) {
        for (let h = 0; h < hidden; h++) {
          let sum = 0;
          for (let channel = 0; channel < 2; channel++) {
            for (let i = 0; i < 3; i++) {
              for (let j = 0; j < 2; j++) {
                const pixel = ((b * 2 + channel) * 7 + row * 3 + i) * 10 + column * 2 + j;
                sum += Number(pixels.data[pixel]) * Number(kernel.data[((h * 2 + channel) * 3 + i) * 2 + j]);
              }
            }
          }
          assert.ok(Math.abs(Number(data[at++]) - sum) < 1e-5);
        }
      }
    }
  }
  assert.equal(data.length, at);
});

test("a class token stands before the patches of every image, and positions are added to all", async () => {
  const parts = { patches: ["batch", 3, 2], token: [2], positions: [4, 2] } as const;
  const [patches, token, positions] = Object.entries(parts).map(([name, shape]) => input(name, "float32", shape));
  const y = withClassToken(reshape(patches!, [mulDims("batch", 3), 2]), token!, positions!, "batch");
  const feeds = {
    patches: float32(
      [2, 3, 2],
      Float32Array.from({ length: 12 }, (_, i) => i),
    ),
    token: float32([2], Float32Array.of(100, 200)),
    positions: float32([4, 2], Float32Array.of(0.5, 0.5, 0, 0, 0, 0, 0, 0)),
  };
  const { data } = (await run({ y }, feeds))["y"]!;
  assert.deepEqual([...(data as Float32Array)], [100.5, 200.5, 0, 1, 2, 3, 4, 5, 100.5, 200.5, 6, 7, 8, 9, 10, 11]);
});

test("padding changes nothing of what the other tokens see", async () => {
  const [width, heads] = [6, 2];
  const states = (name: string) => input(name, "float32", ["batch*seq", width]);
  const attended = (mask: Value) => {
    const mixed = mixHeads(states("q"), states("k"), states("v"), { heads, mask });
    return reshape(mixed, ["batch", "seq", width]);
  };
  const attentionMask = input("attentionMask", "int32", ["batch", "seq"]);
  const rows = ["q", "k", "v"].map((name, i): [string, Tensor] => [name, random(i, [5, width])]);
  const cut = rows.map(([name, { data }]): [string, Tensor] => [
    name,
    float32([3, width], (data as Float32Array).slice(0, 3 * width)),
  ]);
  const masked = await run(
    { y: attended(paddingMask(attentionMask)) },
    { ...Object.fromEntries(rows), attentionMask: int32([1, 5], Int32Array.of(1, 1, 1, 0, 0)) },
  );
  // The mask's shape alone is read.
  const short = await run(
    { y: attended(noMask("batch", "seq")), shape: attentionMask },
    { ...Object.fromEntries(cut), attentionMask: int32([1, 3], new Int32Array(3)) },
  );
  const expected = short["y"]!.data as Float32Array;
  near((masked["y"]!.data as Float32Array).slice(0, expected.length), expected, 1e-6);
});

test("a vision_config's keys are read with Transformers' defaults, and what contradicts is named", () => {
  const defaults = clipVisionConfig({}, "config.json");
  assert.deepEqual(defaults, {
    imageSize: [224, 224],
    patchSize: [32, 32],
    channels: 3,
    hiddenSize: 768,
    layers: 12,
    heads: 12,
    intermediateSize: 3072,
    activation: "quickGelu",
    layerNormEps: 1e-5,
  });
  assert.deepEqual(clipVisionConfig({ image_size: [32, 64], patch_size: 16 }, "config.json").imageSize, [32, 64]);
  assert.throws(() => clipVisionConfig({ image_size: 16 }, "config.json"), {
    code: "model/config",
    message: /vision_config.patch_size/,
  });
  assert.throws(() => clipVisionConfig({ hidden_size: 770 }, "config.json"), { code: "model/config" });
  assert.throws(() => clipVisionConfig({ hidden_act: "cubic" }, "config.json"), { code: "model/unsupported" });
});
