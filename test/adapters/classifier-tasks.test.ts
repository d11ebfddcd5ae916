// Adapters for tasks with a classifier: PEFT trains the head in full, and all-linear leaves it out.
import assert from "node:assert/strict";
import { test } from "node:test";
import { loraConfig } from "../../src/adapters/config.ts";
import { matchModules, resolveConfig } from "../../src/adapters/match.ts";
import { savedWeights } from "../../src/adapters/saved.ts";
import { forwardGraph, modelConfig, modulesOf } from "../../src/models/registry.ts";

const modulesWith = (keys: object) =>
  modulesOf(forwardGraph(modelConfig({ hidden_size: 24, num_attention_heads: 4, num_hidden_layers: 1, num_labels: 5, ...keys })));

test("a task of classes saves the head, whatever it is called, and adapts it neither by name nor with all-linear", () => {
  for (const [model_type, kind, head, hasBias] of [
    ["bert", "SequenceClassification", "classifier", true],
    ["bert", "TokenClassification", "classifier", true],
    ["llama", "SequenceClassification", "score", false],
    ["llama", "TokenClassification", "score", true],
  ] as const) {
    const name = model_type === "bert" ? "Bert" : "Llama";
    const modules = modulesWith({ model_type, architectures: [`${name}For${kind}`] });
    const taskType = kind === "TokenClassification" ? "TOKEN_CLS" : "SEQ_CLS";
    const saved = savedWeights(modules, loraConfig({ taskType })).map((weight) => weight.name);
    assert.deepEqual(saved, [`${head}.weight`, ...(hasBias ? [`${head}.bias`] : [])]);
    for (const targetModules of ["all-linear", ["query", "q_proj", head]] as const) {
      const config = loraConfig({
        taskType,
        targetModules: typeof targetModules === "string" ? targetModules : [...targetModules],
      });
      if (typeof targetModules !== "string")
        config.targetModules = targetModules.filter((one) => one === head || modules.some(({ path }) => path.endsWith(one)));
      const matched = matchModules(modules, config, model_type);
      assert.ok(matched.length > 0 && matched.every(({ path }) => path !== head), `${kind} ${targetModules}`);
      assert.deepEqual(resolveConfig(config, modules, matched, model_type).modulesToSave, ["classifier", "score"]);
    }
    const all = resolveConfig(loraConfig({ taskType, targetModules: "all-linear" }), modules, [], model_type).targetModules;
    assert.ok(Array.isArray(all) && !all.includes(head));
  }
});
