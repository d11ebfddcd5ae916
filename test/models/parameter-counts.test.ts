// Parameters of real model shapes, from config.json alone: PEFT's get_nb_trainable_parameters on the same configs.
// slow
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { layoutOf, lengthOfTheta } from "../../src/adapters/layout.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { countParameters, forwardGraph, modelConfig, modelTypes, modulesOf } from "../../src/models/registry.ts";
import { fixtures } from "../helpers/repository.ts";

interface Row {
  name: string;
  config: { model_type: string };
  r: number;
  target_modules: string[] | string | null;
  base_parameters: number;
  adapted_modules: number;
  trainable_parameters: number;
}

const all: Row[] = JSON.parse(readFileSync(`${fixtures}/parameter-counts.json`, "utf8"));
const rows = all.filter(({ config }) => modelTypes.includes(config.model_type));

for (const row of rows) {
  const { name, r, target_modules: targetModules } = row;
  test(`${name}, rank ${r}, targets ${targetModules ?? "by default"}`, () => {
    const config = modelConfig(row.config);
    const graph = forwardGraph(config);
    const lora = loraConfig({ rank: r, targetModules });
    const adapted = matchModules(modulesOf(graph), lora, config.modelType);
    const trainable = lengthOfTheta(layoutOf({ config: lora, modules: adapted }));
    assert.deepEqual(
      { base_parameters: countParameters(config), adapted_modules: adapted.length, trainable_parameters: trainable },
      {
        base_parameters: row.base_parameters,
        adapted_modules: row.adapted_modules,
        trainable_parameters: row.trainable_parameters,
      },
    );
  });
}

test("every row is counted", () => {
  assert.deepEqual(
    all.filter(({ config }) => !modelTypes.includes(config.model_type)),
    [],
  );
});
