// npm run test:browser: the embedded model trained and run in Chromium, on both builds of ONNX Runtime Web, against Node.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createLowrank } from "../../src/core.ts";
import { readImage } from "../../src/index.ts";
import { nodePlatform } from "../../src/node.ts";
import { inBrowser } from "./browser.ts";
import { type Decoded, type Outcome, STEPS, type Task, trainAndGenerate } from "./run.ts";

/** Largest difference of a loss to Node's, relative to losses above 1. */
const bounds = { wasm: 1e-5, webgpu: 1e-4 } as const;
const wanted = process.argv.slice(2);
const engines = (Object.keys(bounds) as (keyof typeof bounds)[]).filter(
  (engine) => wanted.length === 0 || wanted.includes(engine),
);

const model = readdirSync("models/embedded").filter((name) => /\.(json|safetensors)$/.test(name));
const files = [...model.map((name) => `models/embedded/${name}`), "models/demo/train.jsonl"];
const prompts = readFileSync("models/demo/test.jsonl", "utf8")
  .split("\n", 2)
  .map((line) => JSON.parse(line).messages[0].content as string);
const folder = "test/fixtures/images/files";
/** The largest difference of a channel of a pixel: JPEG and lossy WebP leave the rounding to the decoder. */
const imageBounds: Record<string, number> = {
  "alpha.png": 0,
  "gray.png": 0,
  "palette.png": 0,
  "wide.png": 0,
  "photo.jpg": 8,
  "photo.webp": 8,
};
const images = Object.keys(imageBounds).map((name) => `${folder}/${name}`);

const output = mkdtempSync(path.join(tmpdir(), "lowrank-browser-"));
const node = await trainAndGenerate(
  createLowrank(nodePlatform),
  { base: "embedded", data: "models/demo/train.jsonl", output },
  prompts,
);
rmSync(output, { recursive: true });
const results = await inBrowser(
  engines.map((engine): Task => ({ engine, files, prompts, images })),
  ({ engine }, text) => process.stderr.write(`${engine}: ${text}\n`),
);

let [passed, failed] = [0, 0];
function check(name: string, holds: () => void): void {
  try {
    holds();
    passed++;
    console.log(`✔ ${name}`);
  } catch (error) {
    failed++;
    console.log(`✖ ${name}\n  ${(error as Error).message.replaceAll("\n", "\n  ")}`);
  }
}

/** The largest difference of two values, relative to those above 1. */
const furthest = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!) / Math.max(1, Math.abs(value))));
const seconds = ({ trainSeconds, generateSeconds }: Outcome) =>
  `${trainSeconds.toFixed(1)} s to train, ${generateSeconds.toFixed(1)} s to generate`;

check("Node: the loss falls, and the adapter changes the text", () => {
  assert.equal(node.losses.length, STEPS);
  assert.ok(node.losses.at(-1)! < node.losses[0]! / 2, `${node.losses[0]} to ${node.losses.at(-1)}`);
  assert.notDeepEqual(node.after, node.before);
});
console.log(`  ${seconds(node)}; losses ${node.losses.map((loss) => loss.toFixed(4)).join(" ")}`);

for (const [i, engine] of engines.entries()) {
  const result = results[i]!;
  if ("failure" in result) {
    check(`${engine}: runs`, () => assert.fail(result.failure));
    continue;
  }
  const { outcome } = result;
  const difference = furthest(node.losses, outcome.losses);
  check(`${engine}: the losses of ${STEPS} steps are Node's`, () => {
    assert.equal(outcome.losses.length, STEPS);
    assert.ok(difference <= bounds[engine], `${difference} away, more than ${bounds[engine]}`);
  });
  check(`${engine}: the text before training is Node's`, () => assert.deepEqual(outcome.before, node.before));
  check(`${engine}: the text after training is Node's`, () => assert.deepEqual(outcome.after, node.after));
  const norms = furthest(node.gradientNorms, outcome.gradientNorms);
  console.log(
    `  ${seconds(outcome)}; losses differ by ${difference.toExponential(1)} at most, gradient norms by ${norms.toExponential(1)}`,
  );
  for (const [name, bound] of Object.entries(imageBounds))
    await checkImage(engine, name, result.images[`${folder}/${name}`]!, bound);
}

async function checkImage(engine: string, name: string, { data, ...shape }: Decoded, bound: number): Promise<void> {
  const { width, height, channels, data: expected } = await readImage(`${folder}/${name}`);
  const difference = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - data[i]!)), 0);
  check(`${engine}: ${name} is decoded as by Node, within ${bound} of 255`, () => {
    assert.deepEqual(shape, { width, height, channels });
    assert.ok(difference <= bound, `${difference} away`);
  });
}

console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
