// npm run evidence -- FOLDER… [--study NAME]: what grids of `lowrank sweep` say of the findings of "LoRA Without Regret" (Schulman et al. 2025) and of
// section 7 of Hu et al. 2021, as tables and plots between the marks of the study in docs/evidence.md.
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { describeAdapter } from "../src/adapters/describe.ts";
import { symmetricEigen } from "../src/adapters/eigen.ts";
import { type Adapter, readAdapter } from "../src/adapters/peft-files.ts";
import { truncateProduct } from "../src/adapters/svd.ts";
import { combined, dot, gram, matrixRows } from "../src/adapters/vectors.ts";
import { findTensor } from "../src/formats/checkpoint.ts";
import { readRows } from "../src/formats/stored.ts";
import { loadBase } from "../src/index.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { normal } from "../src/random.ts";
import { readSweep, trialName } from "../src/sweep/record.ts";
import { readMetrics } from "../src/train/run-log.ts";
import { grouped } from "../src/units.ts";
import { median } from "./median.ts";
import { plotted } from "./plot.ts";

const PAGE = "docs/evidence.md";
/** Steps that a point of a training curve is the mean of. */
const WINDOW = 10;

interface Run {
  folder: string;
  method: string;
  rank: number;
  targets: string;
  learningRate: number;
  seed: number;
  trainable: number;
  loss: number;
}

/** The runs of a sweep that came to their end. */
async function runsOf(sweep: string): Promise<Run[]> {
  const { trials, plan } = await readSweep(nodeFiles, sweep);
  return trials.flatMap(({ settings, seed, trainable, losses }, i) => {
    const last = losses.find(({ step }) => step === plan?.steps);
    if (!last || trainable === null) return [];
    const { method, rank, targets, learningRate } = settings;
    const place = { folder: `${sweep}/${trialName(i)}`, method, rank: rank ?? 0, targets: targets ?? "every weight" };
    return [{ ...place, learningRate, seed, trainable, loss: last.loss }];
  });
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { study: { type: "string", default: "embedded" } },
});
const { study } = values;
const runs = (await Promise.all(positionals.map(runsOf))).flat();
const groupsOf = <K>(all: readonly Run[], key: (run: Run) => K): Map<K, Run[]> => {
  const groups = new Map<K, Run[]>();
  for (const run of all) groups.set(key(run), [...(groups.get(key(run)) ?? []), run]);
  return groups;
};
const nameOf = ({ method, rank }: Run): string => (method === "full" ? "full" : `rank ${rank}`);
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

/** The loss at each learning rate, rising, of the first seed: another one has another order of the records, which would bend the curve. */
function curveOf(group: readonly Run[]): [rate: number, loss: number][] {
  const first = Math.min(...group.map(({ seed }) => seed));
  const own = group.filter(({ seed }) => seed === first).map((run): [number, number] => [run.learningRate, run.loss]);
  return own.sort(([a], [b]) => a - b);
}

/** The best of a curve, and the learning rate at the lowest point of the parabola through it and its neighbours (in logarithms). */
function bestOf(curve: readonly (readonly [number, number])[]): {
  rate: number;
  loss: number;
  fitted: number;
  isAtBorder: boolean;
} {
  const at = curve.reduce((best, [, loss], i) => (loss < curve[best]![1] ? i : best), 0);
  const [rate, loss] = curve[at]!;
  const [before, after] = [curve[at - 1], curve[at + 1]];
  if (!before || !after) return { rate, loss, fitted: rate, isAtBorder: true };
  const [x0, x1, x2] = [before[0], rate, after[0]].map(Math.log) as [number, number, number];
  const [d0, d2] = [(before[1] - loss) / (x0 - x1), (after[1] - loss) / (x2 - x1)];
  const curvature = (d2 - d0) / (x2 - x0);
  const slope = d0 - curvature * (x0 - x1);
  return { rate, loss, fitted: Math.exp(x1 - slope / (2 * curvature)), isAtBorder: false };
}

const number = (value: number): string => String(Number(value.toPrecision(2)));
const isWhole = ({ method, targets }: Run): boolean => method === "full" || targets === "all-linear";
const sections: string[] = [];
const save = (name: string, svg: string): string => {
  writeFileSync(`docs/images/evidence-${study}-${name}.svg`, svg);
  return `![${name}](images/evidence-${study}-${name}.svg)`;
};

// 1. Learning rates.
const byMethod = [...groupsOf(runs.filter(isWhole), nameOf)].sort(([, a], [, b]) => a[0]!.trainable - b[0]!.trainable);
const bests = byMethod.map(([name, group]) => ({ name, group, curve: curveOf(group), ...bestOf(curveOf(group)) }));
const full = bests.find(({ name }) => name === "full");
sections.push(
  "### Learning rates",
  table(
    ["", "trained parameters", "best rate tried", "of the fit", "times that of full", "loss"],
    bests.map(({ name, group, rate, fitted, loss, isAtBorder }) => [
      name,
      grouped(group[0]!.trainable),
      `${number(rate)}${isAtBorder ? " (at the border)" : ""}`,
      isAtBorder ? "–" : number(fitted),
      full && !isAtBorder && !full.isAtBorder ? number(fitted / full.fitted) : "–",
      loss.toFixed(4),
    ]),
  ),
  save(
    "rates",
    plotted({
      title: "all layers",
      x: "learning rate",
      y: "held-out loss",
      logY: true,
      lines: bests.map(({ name, curve }) => ({
        label: name,
        isOurs: name !== "full",
        points: curve,
      })),
    }),
  ),
);

// 2. Which layers, at equal parameters.
const lora = runs.filter(({ method }) => method !== "full");
const byTargets = [...groupsOf(lora, ({ targets }) => targets)].map(([targets, group]) => {
  const ranks = [...groupsOf(group, ({ rank }) => rank)].sort(([a], [b]) => a - b);
  return { targets, points: ranks.map(([rank, same]) => ({ rank, trainable: same[0]!.trainable, ...bestOf(curveOf(same)) })) };
});
sections.push(
  "### Layers",
  table(
    ["layers", "rank", "trained parameters", "best loss"],
    byTargets.flatMap(({ targets, points }) =>
      points.map(({ rank, trainable, loss }) => [targets, String(rank), grouped(trainable), loss.toFixed(4)]),
    ),
  ),
  save(
    "layers",
    plotted({
      title: "by layers",
      x: "trained parameters",
      y: "best held-out loss",
      logY: true,
      lines: byTargets.map(({ targets, points }) => ({
        label: targets,
        isOurs: targets === "all-linear",
        points: points.map(({ trainable, loss }) => [trainable, loss] as const),
      })),
    }),
  ),
);

// 3. Seeds: what has been run with more than one, at equal rates.
const settings = groupsOf(runs, (run) => `${nameOf(run)}, ${run.targets}, ${run.learningRate}`);
const repeated = [...settings.values()].filter((same) => same.length > 1).sort(([a], [b]) => a!.trainable - b!.trainable);
if (repeated.length > 0) {
  const seeds = [...new Set(repeated.flat().map(({ seed }) => seed))].sort((a, b) => a - b);
  sections.push(
    "### Seeds",
    table(
      ["", "layers", "learning rate", ...seeds.map((seed) => `seed ${seed}`), "mean"],
      repeated.map((same) => [
        nameOf(same[0]!),
        same[0]!.targets,
        number(same[0]!.learningRate),
        ...seeds.map((seed) => same.find((run) => run.seed === seed)?.loss.toFixed(4) ?? ""),
        (same.reduce((sum, { loss }) => sum + loss, 0) / same.length).toFixed(4),
      ]),
    ),
  );
}

// 4. Capacity: the loss of training along the way, at the best rate.
const curves = await Promise.all(
  bests.map(async ({ name, group, rate }) => {
    const best = group.find(({ learningRate }) => learningRate === rate)!;
    const steps = (await readMetrics(nodeFiles, best.folder))!.steps.map(({ loss }) => loss);
    const points = Array.from({ length: Math.floor(steps.length / WINDOW) }, (_, i): [number, number] => [
      WINDOW * (i + 1),
      steps.slice(i * WINDOW, (i + 1) * WINDOW).reduce((sum, loss) => sum + loss / WINDOW, 0),
    ]);
    return { name, points };
  }),
);
sections.push(
  "### Along the way",
  table(
    ["step", ...curves.map(({ name }) => name)],
    curves[0]!.points.map(([step], i) => [String(step), ...curves.map(({ points }) => points[i]?.[1].toFixed(4) ?? "")]),
  ),
  save(
    "steps",
    plotted({
      title: "training loss",
      x: "step",
      y: `mean of ${WINDOW} steps, each at its best rate`,
      logY: true,
      lines: curves.map(({ name, points }) => ({ label: name, isOurs: name !== "full", points })),
    }),
  ),
);

// 5. Directions: Hu et al. 7.2 and 7.3.
const adapterAt = (name: string, seed?: number): Promise<Adapter> => {
  const { group, rate } = bests.find((one) => one.name === name)!;
  const own = group.filter((run) => run.learningRate === rate);
  return readAdapter(nodeFiles, (own.find((run) => run.seed === seed) ?? own[0]!).folder);
};
/** The right singular vectors of A, unit rows, those of the largest values first. */
function rightVectors(loraA: Float32Array, rank: number): Float64Array[] {
  const rows = matrixRows(loraA, rank);
  const products = gram(rows);
  const { values, vectors } = symmetricEigen(
    Array.from({ length: rank }, (_, i) => products.slice(i * rank, (i + 1) * rank)),
    { vectors: true },
  );
  const length = loraA.length / rank;
  return vectors(rank).map((vector, i) => combined(rows, vector, length).map((value) => value / Math.sqrt(values[i]!)));
}
/** φ(A, B, i, j) = ‖Uᵢᵀ·Uⱼ‖² / min(i, j): 1 where one space lies in the other. */
const overlap = (a: readonly Float64Array[], b: readonly Float64Array[]): number =>
  a.reduce((sum, u) => sum + b.reduce((inner, v) => inner + dot(u, v) ** 2, 0), 0) / Math.min(a.length, b.length);

const [small, large] = ["rank 8", "rank 64"].map((name) => bests.some((one) => one.name === name) && name);
if (small && large) {
  const [eight, wide] = [await adapterAt(small), await adapterAt(large)];
  const rowsOf = (adapter: Adapter) =>
    new Map(adapter.modules.map(({ path, rank }) => [path, rightVectors(adapter.tensors.get(path)!.loraA, rank)]));
  const [of8, of64] = [rowsOf(eight), rowsOf(wide)];
  const kinds = [...new Set(eight.modules.map(({ path }) => path.replace(/^.*\./, "")))];
  const ends = (path: string, kind: string) => path.endsWith(`.${kind}`);
  const mean = (numbers: readonly number[]) => numbers.reduce((sum, one) => sum + one / numbers.length, 0);
  const at = (kind: string, i: number, j: number) =>
    mean(
      [...of8]
        .filter(([path]) => ends(path, kind))
        .map(([path, vectors]) => overlap(vectors.slice(0, i), of64.get(path)!.slice(0, j))),
    );
  const drawn = (kind: string, i: number, j: number) => {
    const { inFeatures } = eight.modules.find(({ path }) => ends(path, kind))!;
    const random = (seed: number, rank: number) =>
      rightVectors(normal(seed, [0, 0, 0], new Float32Array(rank * inFeatures)), rank);
    return overlap(random(1, 8).slice(0, i), random(2, 64).slice(0, j));
  };
  const base = await loadBase("embedded").catch(() => null);
  const source = study === "embedded" ? base : await loadBase(String(process.env["EVIDENCE_BASE"]));
  const described = describeAdapter(wide).modules;
  const amplified = new Map<string, number[]>();
  for (const { path, rank, scale } of eight.modules) {
    const { loraA, loraB } = eight.tensors.get(path)!;
    const { values: singular, truncated } = truncateProduct({ loraA, loraB, rank });
    const { loraA: rightRows, loraB: left, rank: kept } = truncated(rank);
    const norms = singular.slice(0, kept);
    const outs = left.length / kept;
    const weight = await readRows(nodeFiles, findTensor(source!.checkpoint, `${path}.weight`));
    const rows = matrixRows(weight, outs);
    // UᵀWV, whose norm is how much of W lies along the directions of the update.
    let along = 0;
    for (const v of matrixRows(rightRows, kept)) {
      const image = Float64Array.from(rows, (row) => dot(row, v));
      for (let k = 0; k < kept; k++) {
        let product = 0;
        for (let i = 0; i < outs; i++) product += (left[i * kept + k]! / norms[k]!) * image[i]!;
        along += product ** 2;
      }
    }
    const kind = path.replace(/^.*\./, "");
    const update = scale * Math.sqrt(norms.reduce((sum, value) => sum + value ** 2, 0));
    amplified.set(kind, [...(amplified.get(kind) ?? []), update / Math.sqrt(along)]);
  }
  sections.push(
    "### Directions",
    "φ is the share of the first directions of A at rank 8 that lies in those at rank 64, trained with another seed (means over layers); beside it that of random matrices.",
    table(
      [
        "module",
        "φ(1, 1)",
        "φ(1, 64)",
        "φ(8, 8)",
        "φ(8, 64)",
        "random φ(1, 64)",
        "random φ(8, 64)",
        "effective rank at 64",
        "amplification at 8",
      ],
      kinds.map((kind) => [
        kind,
        ...(
          [
            [1, 1],
            [1, 64],
            [8, 8],
            [8, 64],
          ] as const
        ).map(([i, j]) => at(kind, i, j).toFixed(2)),
        drawn(kind, 1, 64).toFixed(2),
        drawn(kind, 8, 64).toFixed(2),
        median(described.filter(({ path }) => ends(path, kind)).map(({ effectiveRank }) => effectiveRank ?? 0)).toFixed(1),
        median(amplified.get(kind)!).toFixed(1),
      ]),
    ),
  );
}

const [begin, end] = [`<!-- ${study}: made by bench/evidence.ts -->`, `<!-- end of ${study} -->`];
const page = readFileSync(PAGE, "utf8");
const [head, tail] = [page.indexOf(begin), page.indexOf(end)];
if (head < 0 || tail < 0) throw new Error(`${PAGE} lacks the marks ${begin} and ${end}`);
writeFileSync(PAGE, `${page.slice(0, head)}${begin}\n\n${sections.join("\n\n")}\n\n${page.slice(tail)}`);
console.log(sections.filter((text) => !text.startsWith("!")).join("\n\n"));
