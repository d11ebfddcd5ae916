// A golden of kind "mixed": rows of one batch with different adapters or none, and several adapters at once.
import { z } from "zod";
import { adaptableSession } from "../../src/adapters/adaptable.ts";
import { fitAdapter } from "../../src/adapters/attach.ts";
import { mixtureOf, weightFeeds } from "../../src/adapters/mixture.ts";
import { readAdapter } from "../../src/adapters/peft-files.ts";
import { check } from "../../src/graph/graph.ts";
import { openBase } from "../../src/models/base.ts";
import { forwardGraph } from "../../src/models/registry.ts";
import { weightFiles } from "../../src/models/weights.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { caseTask, forwardFeeds } from "./case-task.ts";
import { type Finding, limits, near } from "./compare.ts";
import { parseMeta, readTensors } from "./golden.ts";

const mixedMeta = z.object({ adapters: z.array(z.string()).min(1), adapter_names: z.array(z.string()).min(1) });

/** Compares the logits of each adapter, of the base, of the mixed rows and of all adapters together: one session, other weights. */
export async function runMixedCase(
  folder: string,
  given: unknown,
  { openSession = openNodeSession }: { openSession?: OpenSession } = {},
): Promise<Finding[]> {
  const { adapters: names, adapter_names: rows } = parseMeta(mixedMeta, given);
  const base = await openBase(nodeFiles, `${folder}/base`);
  const task = caseTask("causal", base);
  const io = await readTensors(`${folder}/io.safetensors`);
  const adapters = [];
  for (const name of names) {
    adapters.push(fitAdapter(await readAdapter(nodeFiles, `${folder}/adapters/${name}`), base.modules));
  }
  const graph = check(forwardGraph(base.config));
  const { session, useMixture, close } = adaptableSession(graph, weightFiles(base.checkpoint), { openSession });
  try {
    await useMixture(mixtureOf(adapters));
    const opened = await session();
    const feeds = forwardFeeds(task, task.batch(io, "", base.config));
    const width = feeds["inputIds"]!.shape[1]!;
    const weights = (of: (name: string, row: string) => boolean) =>
      weightFeeds(Float32Array.from(rows.flatMap((row) => names.map((name) => Number(of(name, row))))), rows.length, width);
    const kinds: Record<string, Record<string, (typeof feeds)[string]>> = {
      base: weights(() => false),
      ...Object.fromEntries(names.map((alone) => [alone, weights((name) => name === alone)])),
      mixed: weights((name, row) => name === row),
      all_active: weights(() => true),
    };
    const findings: Finding[] = [];
    for (const [kind, { "adapterWeights.batch": _, ...own }] of Object.entries(kinds)) {
      const { logits } = await opened.run({ ...feeds, ...own });
      const [got, want] = [logits!, io.get(`logits_${kind}`)!].map((each) => task.defined!(each, io, "", base.config));
      findings.push(near(kind, new Map([["logits", got!]]), new Map([["logits", want!]]), limits.outputs));
    }
    return findings;
  } finally {
    await close();
  }
}
