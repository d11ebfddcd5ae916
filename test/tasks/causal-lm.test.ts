// What a language model measures: the mean loss over all targets, whatever batches they came in, and e to its power.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inMemory } from "../../src/data/store.ts";
import { causalLm } from "../../src/tasks/causal-lm/index.ts";
import { near } from "../helpers/assert.ts";
import { toyBatch, toyObjective, toyRows, toyTheta } from "../helpers/toy.ts";

test("perplexity is e to the mean loss of the targets, and is what evaluations log", async () => {
  const rows = toyRows(6);
  const scoreOf = async (batches: number[][][]) => {
    const engine = { openSession: () => assert.fail("nothing is computed") };
    const measure = causalLm.measure({ examples: inMemory([]), labels: [], engine });
    for (const batch of batches.map(toyBatch)) {
      await measure.add({ batch, rows: [], results: await toyObjective().evaluate(batch, toyTheta()) });
    }
    return measure.score();
  };
  const score = await scoreOf([rows.slice(0, 1), rows.slice(1)]);
  assert.equal(score.perplexity, Math.exp(score.loss));
  near((await scoreOf([rows])).loss, score.loss, 1e-12);
  assert.deepEqual(causalLm.figures!(score), { perplexity: score.perplexity });
});
