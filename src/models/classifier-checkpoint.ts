// What a checkpoint becomes when a classifier is put on its model, as Transformers saves one: the class, the names, the labels.
import type { Files } from "../files.ts";
import { type Checkpoint, storedName } from "../formats/checkpoint.ts";
import type { AnyBase } from "./base.ts";
import { type ConfigJson, readConfigJson } from "./config-text.ts";
import { usualProblemType } from "./heads/index.ts";
import { weightsIn } from "./module.ts";
import { architectureOf, forwardGraph } from "./registry.ts";

/**
 * The checkpoint of a base under the new head that its config asks for (`uninitializedHead`), and its config.json. The tensors are those
 * that the classifier has: heads of other tasks are left out, an old head too. Names get the model's first word ("bert.") where the
 * checkpoint lacks it, because Transformers reads none without it beside a head. Of config.json, which class it is and its labels
 * change. Null if the base keeps the head that it has, or is no classifier.
 */
export async function classifierCheckpoint(
  files: Files,
  { checkpoint, config }: AnyBase,
): Promise<{ checkpoint: Checkpoint; config: ConfigJson } | null> {
  if (config.uninitializedHead === null) return null;
  const named = new Map<string, string>(); // stored name → the model's
  for (const { name } of weightsIn(forwardGraph(config))) {
    if (!name.startsWith(`${config.uninitializedHead}.`)) named.set(storedName(checkpoint, name), name);
  }
  const tensors: Checkpoint["tensors"] = new Map();
  const aliases = new Map<string, string>();
  for (const [stored, entry] of checkpoint.tensors) {
    const name = named.get(stored);
    if (name === undefined) continue;
    const first = name.slice(0, name.indexOf(".") + 1);
    const written = stored.startsWith(first) ? stored : first + stored;
    tensors.set(written, entry);
    if (written !== name) aliases.set(name, written);
  }
  const json = await readConfigJson(files, checkpoint.folder);
  json.delete("num_labels");
  json.set("architectures", [architectureOf(config)!]);
  const { problemType, labels } = config;
  const said = json.get("problem_type") ?? usualProblemType(labels);
  if (problemType !== null && problemType !== said) json.set("problem_type", problemType);
  json.set("id2label", new Map(config.labels.map((label, i) => [String(i), label])));
  json.set("label2id", new Map(config.labels.map((label, i) => [label, i])));
  return { checkpoint: { ...checkpoint, tensors, aliases }, config: json };
}
