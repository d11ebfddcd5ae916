// The loss of preferences against its definition, computed here from logits: every option, and output layers of every kind.
// slow
import assert from "node:assert/strict";
import { describe, it, test } from "node:test";
import { makeBatch } from "../../src/data/batch.ts";
import { type Batch, IGNORE } from "../../src/data/types.ts";
import { readWeights } from "../../src/formats/checkpoint.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { openBase } from "../../src/models/base.ts";
import { decoderInputs } from "../../src/models/layers/blocks.ts";
import { type DecoderModel, forward, logitsOf } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openGraph } from "../../src/runtime/open-graph.ts";
import { pairFeeds, withReference } from "../../src/tasks/preference/data.ts";
import { lossSettings, preferenceLoss } from "../../src/tasks/preference/loss.ts";
import type { Tensor } from "../../src/tensor.ts";
import { fullObjective } from "../../src/train/objective.ts";
import { assertRefusal, near } from "../helpers/assert.ts";

const engine = { openSession: openNodeSession };

/** Prompt lengths, and those of the chosen and the rejected answers behind them. */
const pairs = [
  { prompt: 3, chosen: 4, rejected: 2 },
  { prompt: 1, chosen: 2, rejected: 6 },
  { prompt: 4, chosen: 3, rejected: 3 },
];

function batchIn(vocab: number): Batch {
  let drawn = 7;
  const ids = (length: number) =>
    Array.from({ length }, () => {
      drawn = (drawn * 31 + 17) % 9973;
      return 3 + (drawn % (vocab - 3));
    });
  const prompts = pairs.map(({ prompt }) => ids(prompt));
  const texts = (["chosen", "rejected"] as const).flatMap((side) =>
    pairs.map((pair, i) => {
      const whole = [...prompts[i]!, ...ids(pair[side])];
      return { ids: Int32Array.from(whole), labels: Int32Array.from(whole, (id, at) => (at < pair.prompt ? IGNORE : id)) };
    }),
  );
  const { rows, feeds, tokens } = makeBatch(texts, { padId: 0 });
  return { feeds: { ...feeds, ...pairFeeds(pairs.length, rows.width, feeds["lossRows"]!) }, targets: pairs.length, tokens };
}

/** Σ log p of each text's targets, and how many it has. */
function logpsFrom({ data, shape }: Tensor, { feeds }: Batch): { sums: number[]; counts: number[] } {
  const vocab = shape[1]!;
  const width = feeds["inputIds"]!.shape[1]!;
  const sums = new Array<number>(2 * pairs.length).fill(0);
  const counts = [...sums];
  for (const [i, place] of [...(feeds["lossRows"]!.data as Int32Array)].entries()) {
    const logits = (data as Float32Array).subarray(place * vocab, (place + 1) * vocab);
    const text = Math.floor(place / width);
    sums[text]! += logits[Number(feeds["lossLabels"]!.data[i])]! - Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
    counts[text]!++;
  }
  return { sums, counts };
}

const options = [{}, { beta: 0.7, labelSmoothing: 0.25 }, { beta: 0.3, preferenceLoss: "ipo" }, { labelSmoothing: 0.5 }] as const;

/** DPO's equation 7 with conservative DPO's smoothing, or IPO's equation 17, over means of tokens. */
function lossOf(ratios: readonly number[], counts: readonly number[], given: (typeof options)[number]): number {
  const { beta, preferenceLoss: kind, labelSmoothing } = lossSettings(given);
  return pairs.reduce((sum, _, i) => {
    const [chosen, rejected] = [i, i + pairs.length];
    if (kind === "ipo")
      return sum + (ratios[chosen]! / counts[chosen]! - ratios[rejected]! / counts[rejected]! - 1 / (2 * beta)) ** 2;
    const h = beta * (ratios[chosen]! - ratios[rejected]!);
    return sum + (1 - labelSmoothing) * Math.log1p(Math.exp(-h)) + labelSmoothing * Math.log1p(Math.exp(h));
  }, 0);
}

describe("loss, rewards and log-probabilities, with the output layer fused and as a layer of its own", () => {
  for (const name of ["llama-dpo", "gpt2-conv1d", "gemma2", "idefics"]) {
    it(name, async () => {
      const { config, checkpoint } = await openBase(nodeFiles, `test/fixtures/cases/${name}/base`);
      const { hidden, output } = forward(config as DecoderModel, decoderInputs());
      const outputs = { logits: logitsOf(hidden!, output!) };
      const base = await openGraph({ outputs }, weightFiles(checkpoint), engine);
      const plain = batchIn(config.vocabSize);
      const read = new Set(["inputIds", "positionIds", "attentionMask", "segmentIds"]);
      const { logits } = await base.run(Object.fromEntries(Object.entries(plain.feeds).filter(([input]) => read.has(input))));
      await base.close();
      const { sums, counts } = logpsFrom(logits!, plain);
      const reference = Float32Array.from(sums, (sum, i) => sum + Math.sin(1 + i));
      const ratios = sums.map((sum, i) => sum - reference[i]!);
      const batch = withReference(plain, reference);

      for (const given of options) {
        const loss = preferenceLoss(config, { maxTargets: 600, maxLength: 16 }, given);
        const fused = await openGraph(loss, weightFiles(checkpoint), engine);
        const full = await fullObjective({ checkpoint, loss, ...engine });
        const theta = new Float32Array(full.entries.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0));
        for (const { key, offset } of full.entries) theta.set(toFloat32(await readWeights(nodeFiles, checkpoint, key)), offset);
        const both = { fused: await fused.run(batch.feeds), unfused: await full.evaluate(batch, theta) };
        for (const [how, results] of Object.entries(both)) {
          const what = `${name}, ${JSON.stringify(given)}, ${how}`;
          near(results["logps"]!, sums, { atol: 1e-4, rtol: 1e-5 }, `${what}: log-probabilities`);
          const { beta = 0.1 } = given as { beta?: number };
          near(
            results["rewards"]!,
            ratios.map((ratio) => beta * ratio),
            1e-4,
            `${what}: rewards`,
          );
          near(Number(results["loss"]!.data[0]), lossOf(ratios, counts, given), { atol: 1e-4, rtol: 1e-4 }, `${what}: loss`);
        }
        await fused.close();
        await full.close();
      }
    });
  }
});

test("options out of range, and smoothing with IPO, are refused", () => {
  const refusal = (given: object) => {
    try {
      lossSettings(given as Record<string, unknown>);
    } catch (error) {
      return error;
    }
    return assert.fail(`${JSON.stringify(given)} is accepted`);
  };
  assertRefusal(refusal({ beta: 0 }), "train/option", { subject: "beta", got: "0", expected: />0/ });
  assertRefusal(refusal({ labelSmoothing: 0.6 }), "train/option", { subject: "labelSmoothing", expected: /0\.5/ });
  assertRefusal(refusal({ preferenceLoss: "hinge" }), "train/option", { subject: "preferenceLoss", expected: /sigmoid.*ipo/ });
  assertRefusal(refusal({ preferenceLoss: "ipo", labelSmoothing: 0.1 }), "train/option", { subject: "labelSmoothing" });
  assert.deepEqual(lossSettings({ rank: 8 }), { beta: 0.1, preferenceLoss: "sigmoid", labelSmoothing: 0 });
});
