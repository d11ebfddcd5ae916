// The ways in which an adapter can begin, by PEFT's init_lora_weights: values that are drawn, or computed from the frozen weight. PEFT
// 0.21.2, tuners/lora/layer.py. What has an embedding's factors begin is the same for all.
import { orthonormal, topFactors } from "./qr.ts";
import { approximateMatrix, type Factors, truncateMatrix } from "./svd.ts";
import { dot } from "./vectors.ts";

/** What an initialization is called in init_lora_weights. */
export type InitialKind = boolean | "gaussian" | "orthogonal" | "pissa" | `pissa_niter_${number}` | "olora" | "eva";

/** A linear layer's frozen weight, [out, in], and what its adapter is. */
export interface FrozenLayer {
  weight: Float32Array;
  inFeatures: number;
  outFeatures: number;
  rank: number;
  scale: number;
}

/** How values are drawn (init.ts). `stream` keeps the tensors of a module apart. */
export interface Draws {
  zeros(size: number): Float32Array;
  /** Uniform in ±bound. */
  uniform(size: number, bound: number, stream: number): Float32Array;
  normal(size: number, deviation: number, stream: number): Float32Array;
}

/** A linear layer as far as first values depend on its sizes. */
type Sizes = Pick<FrozenLayer, "inFeatures" | "outFeatures" | "rank">;
type FirstFactors = Pick<Factors, "loraA" | "loraB">;

/** A row of the table. */
export interface Initialization {
  /** What help says of it. */
  about: string;
  /** Whether it is the one that init_lora_weights names. */
  is(kind: InitialKind): boolean;
  /** First factors of a linear layer; those that `fromWeight` computes are zero here. */
  draw(sizes: Sizes, draws: Draws): FirstFactors;
  /** First factors of a linear layer from its weight. Their product is subtracted from the base: W is W − s·B·A from then on. */
  fromWeight?(layer: FrozenLayer, kind: InitialKind, seed: number): FirstFactors;
  /** Whether every load gives the same factors, so that what is subtracted need not be stored. */
  isRepeatable?: boolean;
  /** Whether the layers' inputs choose A and the ranks (eva.ts), before training. */
  fromInputs?: boolean;
  /** What a rank must be. */
  rank?: { expected: string; holds(sizes: Sizes): boolean };
}

const zeros = ({ inFeatures, outFeatures, rank }: Sizes, draws: Draws): FirstFactors => ({
  loraA: draws.zeros(rank * inFeatures),
  loraB: draws.zeros(outFeatures * rank),
});

// kaiming_uniform_ with a = sqrt(5) has the bound 1/sqrt(columns); a new torch.nn.Linear starts with it.
const uniformA = ({ inFeatures, rank }: Sizes, { uniform }: Draws) => uniform(rank * inFeatures, 1 / Math.sqrt(inFeatures), 0);

const withinWeight = {
  expected: "at most the smaller side of the weight",
  holds: ({ rank, inFeatures, outFeatures }: Sizes) => rank <= Math.min(inFeatures, outFeatures),
};

/** PiSSA: sqrt(S/s) on both sides of the largest singular values, and zeros where the weight has fewer. Meng et al. 2024. */
function principal({ scale, rank, inFeatures, outFeatures }: FrozenLayer, top: Factors): FirstFactors {
  const first = { loraA: new Float32Array(rank * inFeatures), loraB: new Float32Array(outFeatures * rank) };
  for (let r = 0; r < top.rank; r++) {
    // B is U·S and A is Vᵀ: the product of the lengths is S.
    const row = top.loraA.subarray(r * inFeatures, (r + 1) * inFeatures);
    const column = Float32Array.from({ length: outFeatures }, (_, i) => top.loraB[i * top.rank + r]!);
    const [a, b] = [Math.sqrt(dot(row, row)), Math.sqrt(dot(column, column))];
    const root = Math.sqrt((a * b) / scale);
    if (root === 0) continue;
    first.loraA.set(
      row.map((value) => (value / a) * root),
      r * inFeatures,
    );
    for (let i = 0; i < outFeatures; i++) first.loraB[i * rank + r] = (column[i]! / b) * root;
  }
  return first;
}

/** Of an eigenpair: singular vectors are as exact as those of a decomposition in float32. */
const AS_FLOAT32 = 1e-10;
const ITERATIONS = /^pissa_niter_(\d{1,4})$/;

/** By what is shown of init_lora_weights in help. */
export const initializations: Record<string, Initialization> = {
  true: {
    about: "A uniform, B zero",
    is: (kind) => kind === true,
    draw: (sizes, draws) => ({ ...zeros(sizes, draws), loraA: uniformA(sizes, draws) }),
  },
  gaussian: {
    about: "A normal, B zero",
    is: (kind) => kind === "gaussian",
    draw: (sizes, draws) => ({ ...zeros(sizes, draws), loraA: draws.normal(sizes.rank * sizes.inFeatures, 1 / sizes.rank, 0) }),
  },
  orthogonal: {
    about: "A and B random with B·A zero, of an even rank",
    is: (kind) => kind === "orthogonal",
    rank: { expected: "an even rank", holds: ({ rank }) => rank % 2 === 0 },
    /** The rows of a random orthogonal Q [rank, rank] in turn: A = (X·Q₀)ᵀ/10 and B = Y·Q₁/10, with Q₁·Q₀ᵀ = 0. */
    draw({ inFeatures, outFeatures, rank }, { normal }) {
      const half = rank / 2;
      const q = orthonormal(normal(rank * rank, 1, 2), rank);
      const along = (size: number, stream: number, odd: 0 | 1) => {
        const x = normal(size * half, 1, stream); // [size, half]
        return (i: number, r: number) => {
          let sum = 0;
          for (let k = 0; k < half; k++) sum += x[i * half + k]! * q[(2 * k + odd) * rank + r]!;
          return sum / 10;
        };
      };
      const [a, b] = [along(inFeatures, 0, 0), along(outFeatures, 1, 1)];
      return {
        loraA: Float32Array.from({ length: rank * inFeatures }, (_, i) => a(i % inFeatures, Math.floor(i / inFeatures))),
        loraB: Float32Array.from({ length: outFeatures * rank }, (_, i) => b(Math.floor(i / rank), i % rank)),
      };
    },
  },
  pissa: {
    about: "the largest singular values of each weight, which is reduced by them",
    is: (kind) => kind === "pissa",
    rank: withinWeight,
    draw: zeros,
    fromWeight: (layer) =>
      principal(layer, truncateMatrix(layer.weight, layer.outFeatures, layer.inFeatures, layer.rank, AS_FLOAT32)),
    isRepeatable: true,
  },
  pissa_niter_N: {
    about: "the same, approximated in N steps",
    is: (kind) => typeof kind === "string" && ITERATIONS.test(kind),
    rank: withinWeight,
    draw: zeros,
    fromWeight(layer, kind, seed) {
      const iterations = Number(ITERATIONS.exec(String(kind))![1]);
      const { weight, outFeatures, inFeatures, rank } = layer;
      return principal(layer, approximateMatrix(weight, outFeatures, inFeatures, rank, { iterations, seed }));
    },
  },
  olora: {
    about: "from the QR decomposition of each weight, which is reduced by it",
    is: (kind) => kind === "olora",
    rank: withinWeight,
    draw: zeros,
    fromWeight: ({ weight, outFeatures, inFeatures, rank }) => topFactors(weight, outFeatures, inFeatures, rank),
    isRepeatable: true,
  },
  eva: {
    about: "A along what the layers' inputs vary most in, ranks where that explains most, B zero",
    is: (kind) => kind === "eva",
    draw: (sizes, draws) => ({ ...zeros(sizes, draws), loraA: uniformA(sizes, draws) }),
    fromInputs: true,
  },
  false: {
    about: "both uniform",
    is: (kind) => kind === false,
    draw: (sizes, draws) => ({
      loraA: uniformA(sizes, draws),
      loraB: draws.uniform(sizes.outFeatures * sizes.rank, 1 / Math.sqrt(sizes.rank), 1),
    }),
  },
};

const rows = Object.values(initializations);
/** Their names, for errors. */
export const initialKinds = `one of ${Object.keys(initializations).join(", ")}`;

/** The row of an init_lora_weights. */
export const initializationOf = (kind: InitialKind): Initialization => rows.find(({ is }) => is(kind))!;

/** What init_lora_weights of a file or an option names, in the spelling of the table; undefined if there is no such row. */
export function initialKind(given: unknown): InitialKind | undefined {
  // PEFT compares these two in lower case.
  const lower = typeof given === "string" ? given.toLowerCase() : given;
  const kind = (lower === "gaussian" || lower === "olora" ? lower : given) as InitialKind;
  return rows.some(({ is }) => is(kind)) ? kind : undefined;
}

/** Of an embedding A is zero and B normal, whatever the kind: so PEFT begins; `false` leaves A normal too. */
export function drawEmbedding(kind: InitialKind, { inFeatures, outFeatures, rank }: Sizes, { zeros, normal }: Draws) {
  const sizeOfA = rank * inFeatures;
  return { loraA: kind === false ? normal(sizeOfA, 1, 0) : zeros(sizeOfA), loraB: normal(outFeatures * rank, 1, 1) };
}
