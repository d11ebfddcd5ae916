// DoRA on every family that has a golden: the graph with a random adapter computes what the merged checkpoint computes.
// slow
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { caseTask } from "../../scripts/oracle/case-task.ts";
import { batchPrefixes, readTensors } from "../../scripts/oracle/golden.ts";
import { mergeTargets } from "../../src/adapters/attach.ts";
import { loraConfig } from "../../src/adapters/config.ts";
import { firstTensors } from "../../src/adapters/init.ts";
import { layoutOf, partOf, thetaOf } from "../../src/adapters/layout.ts";
import { matchModules } from "../../src/adapters/match.ts";
import { mergeIntoCheckpoint } from "../../src/adapters/merge.ts";
import { storedName } from "../../src/formats/checkpoint.ts";
import { type Graph, nodesOf } from "../../src/graph/graph.ts";
import { type AnyBase, openBase } from "../../src/models/base.ts";
import { forwardGraph } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { openGraph } from "../../src/runtime/open-graph.ts";
import { baseFor } from "../../src/tasks/index.ts";
import { float32, type Tensor } from "../../src/tensor.ts";
import { adaptedGraph } from "../../src/train/training-graph.ts";
import { caseFolder } from "../helpers/golden-rows.ts";

const place = await mkdtemp(path.join(tmpdir(), "lowrank-dora-families-"));
after(() => rm(place, { recursive: true }));

const families = readdirSync(caseFolder("")).filter((name) => !name.startsWith("lora-"));

async function outputs({ checkpoint }: AnyBase, graph: Graph, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await openGraph(graph, weightFiles(checkpoint), { openSession: openNodeSession, threads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.close();
  }
}

for (const name of families) {
  test(`DoRA on ${name}`, async () => {
    const folder = caseFolder(name);
    const opened = await openBase(nodeFiles, `${folder}/base`);
    const meta = JSON.parse(readFileSync(`${folder}/meta.json`, "utf8")) as { task: string };
    const task = caseTask(meta.task, opened);
    const base = baseFor(opened, task.task);
    const { checkpoint, modules, config: model } = base;
    // On Mixtral all-linear has experts, which DoRA does not adapt (as in PEFT).
    const targetModules = model.modelType === "mixtral" ? ["q_proj", "k_proj", "v_proj", "o_proj"] : "all-linear";
    const config = loraConfig({ rank: 3, alpha: 4, targetModules, initLoraWeights: false, useDora: true });
    const adapted = matchModules(modules, config, model.modelType).filter(({ path: at }) => !/score|classifier/.test(at));
    const stored = (weight: string) => storedName(checkpoint, weight);
    const tensors = await firstTensors(base, config, adapted, 5);
    for (const { magnitude } of tensors.values())
      for (let i = 0; i < magnitude!.length; i++) magnitude![i]! *= 1 + Math.sin(i) / 4;
    const adapter = { config, modules: adapted, tensors };

    const forward = forwardGraph(model);
    const io = await readTensors(`${folder}/io.safetensors`);
    const given = task.batch(io, batchPrefixes(io)[0]!, model).feeds;
    const read = nodesOf(forward).flatMap(({ op, attributes }) => (op === "input" ? String(attributes["name"]) : []));
    const all = Object.fromEntries(read.map((name) => [name, given[name]!]));
    const layout = layoutOf(adapter);
    const theta = thetaOf(adapter);
    const own = Object.fromEntries(layout.map((entry) => [entry.key, float32(entry.shape, partOf(theta, entry))]));
    const got = await outputs(base, adaptedGraph(forward, adapter).graph, { ...all, ...own });

    const options = { checkpoint, targets: mergeTargets(adapter, modules, stored), outFolder: `${place}/${name}` };
    await mergeIntoCheckpoint(nodeFiles, options);
    const merged = await outputs(await openBase(nodeFiles, options.outFolder), forward, all);
    const plain = await outputs(base, forward, all);
    const tolerance = model.dtype === "bfloat16" || model.dtype === "float16" ? 0.3 : 1e-4;
    let changed = 0;
    for (const [output, { data }] of Object.entries(merged)) {
      for (let i = 0; i < data.length; i++) {
        const [ours, theirs] = [Number(got[output]!.data[i]), Number(data[i])];
        assert.ok(Math.abs(ours - theirs) <= tolerance * (1 + Math.abs(theirs)), `${output}[${i}]: ${ours}, ${theirs}`);
        changed = Math.max(changed, Math.abs(ours - Number(plain[output]!.data[i])));
      }
    }
    assert.ok(changed > 1e-2, `the adapter changes what is computed by ${changed}`);
  });
}
