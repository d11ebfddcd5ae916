// npm run test:gpu: goldens, training and generation on a graphics card, against PEFT's numbers and the processor's. Without a card that
// starts it fails. -- NAME… runs those of test/fixtures/cases, -- all every one; --device cuda runs them there.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { runOracle } from "../../scripts/oracle/run.ts";
import { createLowrank, LowrankError } from "../../src/core.ts";
import { nodePlatform } from "../../src/node.ts";
import { onDevice } from "../../src/platform/devices.ts";
import type { Platform } from "../../src/platform/platform.ts";
import { deviceChoices } from "../../src/runtime/devices.ts";
import { type Outcome, trainAndGenerate } from "../browser/run.ts";

/** Goldens of different layers and heads, whose gradients are compared in four executions. */
const CASES = [
  "llama-gqa-tied",
  "llama-bf16-sharded",
  "gpt2-conv1d",
  "qwen2moe-shared",
  "bert-seqcls",
  "vit-imgcls",
  "lora-dora",
];
/** Largest difference of a loss, and of the norm of a gradient, to the processor's, relative to those above 1. */
const BOUND = 1e-4;

let failures = 0;
function check(name: string, holds: () => void): void {
  try {
    holds();
    console.log(`✔ ${name}`);
  } catch (error) {
    failures++;
    console.log(`✖ ${name}\n  ${(error as Error).message.replaceAll("\n", "\n  ")}`);
  }
}

async function outcomeOn(platform: Platform): Promise<Outcome> {
  const output = mkdtempSync(path.join(tmpdir(), "lowrank-gpu-"));
  const prompts = readFileSync("models/demo/test.jsonl", "utf8").split("\n", 2);
  try {
    return await trainAndGenerate(
      createLowrank(platform),
      { base: "embedded", data: "models/demo/train.jsonl", output },
      prompts.map((line) => JSON.parse(line).messages[0].content as string),
    );
  } finally {
    rmSync(output, { recursive: true });
  }
}

/** The largest difference of two values, relative to those above 1. */
const furthest = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i]!) / Math.max(1, Math.abs(value))));

async function main(): Promise<void> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { device: { type: "string", default: "webgpu" } },
  });
  const device = deviceChoices.find((known) => known === values.device);
  assert.ok(device, `--device is one of ${deviceChoices.join(", ")}`);
  const platform = await onDevice(nodePlatform, device);

  const names = positionals.length > 0 ? positionals : CASES;
  for (const name of names[0] === "all" ? [""] : names) {
    const { failed, passed } = await runOracle(`test/fixtures/cases/${name}`, platform, console.log);
    failures += passed === 0 ? 1 : failed;
  }

  const [cpu, there] = [await outcomeOn(nodePlatform), await outcomeOn(platform)];
  check(`${device}: the losses and gradients of ${cpu.losses.length} steps with dropout are the processor's`, () => {
    assert.ok(cpu.losses.at(-1)! < cpu.losses[0]! / 2, "the loss falls");
    for (const kind of ["losses", "gradientNorms"] as const) {
      const difference = furthest(cpu[kind], there[kind]);
      console.log(`  ${kind} differ by ${difference.toExponential(1)} at most`);
      assert.ok(difference <= BOUND, `${kind}: ${difference} away, more than ${BOUND}`);
    }
  });
  check(`${device}: texts before training are the processor's`, () => assert.deepEqual(there.before, cpu.before));
  check(`${device}: texts after training are the processor's`, () => {
    assert.notDeepEqual(cpu.after, cpu.before);
    assert.deepEqual(there.after, cpu.after);
  });
}

await main().catch((error) => {
  failures++;
  console.error(error instanceof LowrankError ? error.describe() : error);
});
console.log(failures === 0 ? "passed" : `${failures} failed`);
process.exitCode = failures === 0 ? 0 : 1;
