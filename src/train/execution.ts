// How a run's graph is executed: what is kept between the passes, and in which form the frozen weights are. `auto` takes the fastest that fits.
import type { ThetaEntry } from "../adapters/layout.ts";
import type { BatchSize } from "../data/types.ts";
import { LowrankError } from "../errors.ts";
import { type Graph, nodesOf } from "../graph/graph.ts";
import { BLOCK } from "../graph/ops/packed.ts";
import { baseDtypes } from "../graph/pack.ts";
import { type Program, whole } from "../graph/stages.ts";
import { type ChooseForm, SMALL } from "../graph/store.ts";
import { type DeviceName, devices } from "../runtime/devices.ts";
import type { Task } from "../tasks/task.ts";
import { cacheBytes, type MemoryEstimate, type ProgramUse, peakMemory } from "./memory.ts";
import type { RunOptions } from "./options.ts";
import { type StageOptions, trainingProgram } from "./stages.ts";

/** The execution modes, the fastest first. */
export const memoryModes = {
  /** Everything of the forward pass stays for the backward pass. */
  keep: { keep: "all" },
  /** Products and attention stay; what lies between is computed again. */
  products: { keep: "products" },
  /** Each layer is computed again from its input. */
  recompute: { keep: "none" },
  /** The same, with weights read from their files at every step: the checkpoint's, or those of the cache of converted ones. */
  stream: { keep: "none", streamed: true },
} satisfies Record<string, StageOptions>;

export type MemoryMode = keyof typeof memoryModes;
export const memoryModeNames = ["auto", ...(Object.keys(memoryModes) as MemoryMode[])] as const;
export const executionDtypes = ["auto", ...baseDtypes] as const;

/**
 * Places of a batch that are computed at once: all where its rows meet in the loss, and where the sum of gradients would be one more
 * copy of the model.
 */
export const passTokensOf = ({ meeting }: Pick<Task, "meeting">, method: RunOptions["method"], device: DeviceName): number =>
  meeting || method === "full" ? Number.POSITIVE_INFINITY : devices[device].passTokens;

/** What a run's options say about it. */
export interface ExecutionChoice {
  memory: (typeof memoryModeNames)[number];
  baseDtype: (typeof executionDtypes)[number];
}

/** A way to run a training graph. */
export interface Execution {
  memory: MemoryMode;
  baseDtype: Exclude<ExecutionChoice["baseDtype"], "auto">;
  program: Program;
  /** Whether weights are read anew at every step. */
  streamed: boolean;
  estimate: MemoryEstimate;
  /** Bytes of converted weights that the cache keeps on disk. */
  cache: number;
  /** Whether the weights lose digits: another run with them computes other numbers. */
  isRounded: boolean;
}

/** What is run, and on what. */
export interface ExecutionNeeds {
  graph: Graph;
  entries: readonly ThetaEntry[];
  trainable: number;
  /** What a weight is stored in. */
  dtypeOf: (name: string) => string | null | undefined;
  /** The same where its bytes can be used as they lie (`plainDType`); `dtypeOf` if absent. */
  plainDTypeOf?: (name: string) => string | null;
  /** Whether products of integers are faster here. */
  integers?: boolean;
  sizes: () => Iterable<BatchSize>;
  /** Bytes beside the run's batches that count as well. */
  beside?: (estimate: MemoryEstimate) => MemoryEstimate;
  /** Bytes that the process can have; no limit if absent. */
  available?: number;
  /** What computes; the processor if absent. */
  device?: DeviceName;
}

/**
 * The execution of a run. `auto` takes the first in order of speed that fits into what is available; among forms those that change
 * no number: float32, or the 16 bits that the weights are stored in. Where nothing fits it is the smallest.
 */
export function chooseExecution(choice: ExecutionChoice, needs: ExecutionNeeds): Execution {
  const isSixteen = allSixteenBits(needs) && devices[needs.device ?? "cpu"].forms;
  checkDtype(choice.baseDtype, needs.device ?? "cpu");
  const { plainDTypeOf = needs.dtypeOf } = needs;
  let smallest: Execution | undefined;
  for (const { memory, baseDtype } of candidates(choice, isSixteen)) {
    const mode: StageOptions = memoryModes[memory];
    // What streams is read as it is stored: the same numbers in fewer bytes.
    const isAsStored = mode.streamed && baseDtype === "float32" && devices[needs.device ?? "cpu"].forms;
    const form = isAsStored ? storedForm(plainDTypeOf) : formsOf(baseDtype, needs);
    const { streamed = false, ...stages }: StageOptions = { ...mode, form };
    const program = programOf(needs, `${memory} ${baseDtype}`, { ...stages, streamed });
    const isRounded = baseDtype !== "float32" && !(baseDtype === "bfloat16" && isSixteen);
    const estimate = estimateOf(program, needs, { streamed, isSixteen });
    const execution = {
      memory,
      baseDtype,
      program,
      streamed,
      isRounded,
      estimate,
      cache: cacheBytes(program, streamed, plainDTypeOf),
    };
    if (needs.available === undefined || execution.estimate.total <= needs.available) return execution;
    if (!smallest || execution.estimate.total < smallest.estimate.total) smallest = execution;
  }
  return smallest!;
}

/** Programs by the graphs they are made of: a plan asks for many sizes of one graph. */
const programs = new WeakMap<Graph, Map<string, Program>>();

function programOf({ graph, entries }: ExecutionNeeds, key: string, stages: StageOptions): Program {
  const known = programs.get(graph) ?? new Map<string, Program>();
  programs.set(graph, known);
  const program = known.get(key) ?? trainingProgram(graph, entries, stages);
  known.set(key, program);
  return program;
}

/** The estimate of a run in one piece, as engines run it that know no stages; they compute in float32 and keep everything. */
export function wholeEstimate({ memory, baseDtype }: ExecutionChoice, needs: ExecutionNeeds): MemoryEstimate {
  const given = Object.entries({ memory, baseDtype }).find(
    ([, value]) => value !== "auto" && value !== "float32" && value !== "keep",
  );
  if (given) {
    throw new LowrankError("train/option", "this engine runs the graph in one piece", {
      subject: given[0],
      expected: "auto",
      got: given[1],
      next: `Leave ${given[0]} out here, or train on Node.`,
    });
  }
  return estimateOf(whole(needs.graph), needs, { inWorker: true });
}

type Use = Pick<ProgramUse, "streamed" | "inWorker" | "isSixteen">;

function estimateOf(program: Program, { trainable, sizes, beside }: ExecutionNeeds, use: Use): MemoryEstimate {
  const estimate = peakMemory(program, { trainable, ...use }, sizes());
  return beside ? beside(estimate) : estimate;
}

/** Every mode with every form that the choice leaves open, the fastest first. */
function candidates({ memory, baseDtype }: ExecutionChoice, isSixteen: boolean): Pick<Execution, "memory" | "baseDtype">[] {
  const modes = memory === "auto" ? (Object.keys(memoryModes) as MemoryMode[]) : [memory];
  const exact = isSixteen ? (["float32", "bfloat16"] as const) : (["float32"] as const);
  const dtypes = baseDtype === "auto" ? exact : [baseDtype];
  return modes.flatMap((mode) => dtypes.map((one) => ({ memory: mode, baseDtype: one })));
}

function checkDtype(got: ExecutionChoice["baseDtype"], device: DeviceName): void {
  if (devices[device].forms || got === "auto" || got === "float32") return;
  throw new LowrankError("train/option", `on ${device} the base is kept in float32`, {
    subject: "baseDtype",
    expected: "auto or float32",
    got,
    next: "Leave out baseDtype, or train on the processor (device cpu).",
  });
}

/** Whether all matrices of the base are stored in 16 bits, and so lose nothing in them. */
function allSixteenBits({ graph, dtypeOf }: ExecutionNeeds): boolean {
  const matrices = nodesOf(graph).filter(({ op, outputs: [leaf] }) => op === "weight" && leaf!.shape.length === 2);
  return matrices.length > 0 && matrices.every(({ attributes }) => isSixteenBits(dtypeOf(String(attributes["name"]))));
}

/** Weights in the 16 bits that they are stored in, others in float32: as exact as the checkpoint. */
export const storedForm =
  (dtypeOf: (name: string) => string | null | undefined): ChooseForm =>
  ({ name, shape: [rows, columns] }) => {
    const dtype = dtypeOf(name);
    return rows * columns >= SMALL && isSixteenBits(dtype) ? dtype : null;
  };

const isSixteenBits = (dtype: string | null | undefined): dtype is "bfloat16" | "float16" =>
  dtype === "bfloat16" || dtype === "float16";

/**
 * The form of each weight for a `--base-dtype`: matrices whose rows are whole blocks of 32. `bfloat16` leaves 16 bits as they are;
 * `int8` multiplies linear layers as integers where the processor gains by it (`integers`), and keeps other tables in blocks of 8 bits.
 */
export function formsOf(
  baseDtype: Execution["baseDtype"],
  { dtypeOf, integers }: Pick<ExecutionNeeds, "dtypeOf" | "integers">,
): ChooseForm | undefined {
  if (baseDtype === "float32") return undefined;
  return ({ name, shape: [rows, columns], role }) => {
    if (rows * columns < SMALL || columns % BLOCK !== 0) return null;
    if (baseDtype === "int8" && integers)
      return role === "output" ? "int8rows" : role === "inner" && rows % 32 === 0 ? "int8rotated" : "int8";
    if (baseDtype === "int8") return "int8";
    if (baseDtype === "int4") return role === "inner" ? "int4" : "int8";
    const dtype = dtypeOf(name);
    return isSixteenBits(dtype) ? dtype : "bfloat16";
  };
}
