// A golden of kind "algebra": several adapters of one base, and what PEFT's add_weighted_adapter made of them.
import { z } from "zod";
import { combinationTypes, majoritySignMethods } from "../../src/adapters/combinations.ts";
import { combine } from "../../src/adapters/combine.ts";
import { type Adapter, readAdapter, writeAdapter } from "../../src/adapters/peft-files.ts";
import { LowrankError } from "../../src/errors.ts";
import { toFloat32 } from "../../src/formats/float.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { Tensor } from "../../src/tensor.ts";
import { type Finding, limits, near, oneLine, same } from "./compare.ts";
import { parseMeta, readTensors } from "./golden.ts";
import { inTemporaryFolder } from "./temporary.ts";

const result = z.object({
  id: z.string(),
  adapters: z.array(z.string()).min(1),
  weights: z.array(z.number()),
  combination_type: z.enum(combinationTypes),
  options: z.strictObject({
    density: z.number().optional(),
    svd_rank: z.int().optional(),
    majority_sign_method: z.enum(majoritySignMethods).optional(),
  }),
  rank: z.int().optional(),
  modules: z.array(z.string()).optional(),
  error: z.string().optional(),
});
const algebraMeta = z.object({ adapters: z.array(z.string()).min(1), results: z.array(result).min(1) });
type Result = z.output<typeof result>;

/** PEFT's errors, and the codes of ours. */
const errors: [RegExp, string][] = [
  [/same r value/, "combine/ranks"],
  [/same target modules type/, "combine/targets"],
  [/modules_to_save/, "combine/saved"],
  [/Density should be/, "combine/option"],
  [/does not support targeting nn\.Parameter/, "lora/unsupported"],
];

/** Compares every combination of a case: as it is made, and as its folder is read again. */
export async function runAlgebraCase(folder: string, given: unknown): Promise<Finding[]> {
  const meta = parseMeta(algebraMeta, given);
  const deltas = await readTensors(`${folder}/deltas.safetensors`);
  const adapters = new Map<string, Adapter>();
  for (const name of meta.adapters) adapters.set(name, await readAdapter(nodeFiles, `${folder}/adapters/${name}`));
  const own = [...adapters].map(([name, adapter]) => compared(`adapter ${name}`, adapter, name, deltas));
  const findings: Finding[] = [];
  for (const each of meta.results) findings.push(...(await resultOf(each, adapters, deltas)));
  const wrong = [...own, ...findings].filter(({ ok }) => !ok);
  const worst = findings.reduce((most, { text }) => Math.max(most, Number(text) || 0), 0);
  const count = meta.results.length;
  return wrong.length > 0 ? wrong : [{ what: "combinations", ok: true, text: `${count} within ${worst.toExponential(1)}` }];
}

async function resultOf(wanted: Result, adapters: ReadonlyMap<string, Adapter>, deltas: ReadonlyMap<string, Tensor>) {
  const { id, options, error, weights, combination_type: combinationType } = wanted;
  const { density, svd_rank: svdRank, majority_sign_method: majoritySignMethod } = options;
  const made = () =>
    combine(
      wanted.adapters.map((name) => adapters.get(name)!),
      {
        weights,
        combinationType,
        ...(density !== undefined && { density }),
        ...(svdRank !== undefined && { svdRank }),
        ...(majoritySignMethod && { majoritySignMethod }),
      },
    );
  if (error !== undefined) return [refused(id, error, made)];
  try {
    const combined = made();
    const again = await inTemporaryFolder(async (out) => {
      await writeAdapter(nodeFiles, out, combined);
      return readAdapter(nodeFiles, out);
    });
    return [
      compared(id, combined, id, deltas),
      compared(`${id}, read again`, again, id, deltas),
      same(`rank of ${id}`, [Math.max(...again.modules.map(({ rank }) => rank))], [wanted.rank]),
      same(`modules of ${id}`, again.modules.map(({ path }) => path).sort(), [...(wanted.modules ?? [])].sort()),
    ];
  } catch (thrown) {
    return [{ what: id, ok: false, text: oneLine(thrown) }];
  }
}

function refused(id: string, error: string, made: () => Adapter): Finding {
  const code = errors.find(([pattern]) => pattern.test(error))?.[1];
  try {
    made();
    return { what: id, ok: false, text: `PEFT refuses this: ${error}` };
  } catch (thrown) {
    const ok = thrown instanceof LowrankError && (code === undefined || thrown.code === code);
    return { what: id, ok, text: ok ? "" : `${oneLine(thrown)}, not ${error}` };
  }
}

function compared(what: string, adapter: Adapter, id: string, deltas: ReadonlyMap<string, Tensor>): Finding {
  const wanted = [...deltas].filter(([name]) => name.startsWith(`${id}/`));
  const got = new Map(adapter.modules.map(({ path }) => [path, deltaOf(adapter, path)]));
  return near(
    what,
    got,
    new Map(wanted.map(([name, tensor]) => [name.slice(id.length + 1), toFloat32(tensor)])),
    limits.combined,
  );
}

/** scale · B·A of a module, in the layout of the base's weight. */
export function deltaOf({ config, modules, tensors }: Adapter, path: string): Float64Array {
  const { rank, scale, inFeatures, outFeatures, isEmbedding } = modules.find((module) => module.path === path)!;
  const { loraA, loraB } = tensors.get(path)!;
  const byInputs = isEmbedding || config.fanInFanOut;
  const delta = new Float64Array(inFeatures * outFeatures);
  for (let out = 0; out < outFeatures; out++) {
    for (let column = 0; column < inFeatures; column++) {
      let sum = 0;
      for (let r = 0; r < rank; r++) sum += loraB[out * rank + r]! * loraA[r * inFeatures + column]!;
      delta[byInputs ? column * outFeatures + out : out * inFeatures + column] = scale * sum;
    }
  }
  return delta;
}
