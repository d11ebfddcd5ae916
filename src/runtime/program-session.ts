// A session that runs a program stage by stage: values stay with the engine until their last reader, equal stages share an executable.
import { stopwatch } from "../clock.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { bytesOf } from "../formats/dtypes.ts";
import { isPlain } from "../formats/stored.ts";
import { type ElementType, nodesOf } from "../graph/graph.ts";
import { givenWeights, type Program, type Stage, type StagePlan, type StageSource, schedule } from "../graph/stages.ts";
import { inFolder } from "../onnx/emitter.ts";
import { lower } from "../onnx/lower.ts";
import type { Tensor } from "../tensor.ts";
import { engineError, isOutOfMemory } from "./engine-error.ts";
import { readGiven } from "./given.ts";
import { type Executable, type Handle, type Machine, taskQueue, type Wanted } from "./machine.ts";
import type { PartCache } from "./part-cache.ts";
import { noWeights, type Session, type SessionOptions, type SessionRun } from "./session.ts";
import { openWeights, type Weights } from "./weights.ts";

export interface ProgramOptions extends SessionOptions {
  machine: Machine;
  /** What puts weights into their forms, if not the machine. */
  host?: Machine;
  files: Files;
  /** Where converted weights are kept. */
  cache?: PartCache;
}

/** Opens the executables and reads the weights that the stages are given. */
export async function runProgram(given: Program, options: ProgramOptions): Promise<Session> {
  const program = areInPlace(given, options.weights) ? given : givenWeights(given);
  const { machine, weights: source = noWeights, onWaited } = options;
  const { stages, results } = program;
  const [executables, frozen] = await together(
    compileStages(stages, options).catch(fail),
    openWeights(stages, options.streamed ?? false, { ...options, source }).catch(failInMemory),
  );
  const fed = new Set(
    stages.flatMap(({ inputs }) => inputs.flatMap(({ source }) => (source.kind === "feed" ? [source.name] : []))),
  );
  /** Inputs that stay from run to run. */
  const bound = new Map<string, Handle>();
  /** Places of outputs that are written to shared memory. */
  const places = new Map<string, Handle>();
  const schedules = new Map<string, StagePlan>();

  const tensorOf = ({ dtype, shape, data }: Tensor): Handle => machine.tensor(dtype as ElementType, shape, bytesOf(data));
  const bindOne = (name: string, tensor: Handle) => {
    const before = bound.get(name);
    if (before !== undefined) machine.free(before);
    bound.set(name, tensor);
  };

  async function run(feeds: Record<string, Tensor>, { fetches, carry = {} }: SessionRun): Promise<Record<string, Tensor>> {
    const asked = fetches ?? [...results.keys()].filter((name) => !(name in carry));
    const names = [...new Set([...asked, ...Object.keys(carry)])];
    const key = names.join("\n");
    const plan = schedules.get(key) ?? schedule(program, names);
    schedules.set(key, plan);

    const own = new Map(
      Object.entries(feeds)
        .filter(([name]) => fed.has(name))
        .map(([name, tensor]) => [name, tensorOf(tensor)]),
    );
    const values = new Map<number, Handle>();
    const returned = asked.filter((name) => !places.has(name));
    const isRead = new Set(plan.results.flatMap(({ name, value }) => (returned.includes(name) ? [value] : [])));
    const placed = new Map(plan.results.flatMap(({ name, value }) => (places.has(name) ? [[value, places.get(name)!]] : [])));
    const handleOf = (source: StageSource, weights: ReadonlyMap<string, Handle>): Handle => {
      if (source.kind === "weight") return weights.get(source.name)!;
      if (source.kind === "value") return values.get(source.value) ?? placed.get(source.value)!;
      const found = own.get(source.name) ?? bound.get(source.name);
      if (found === undefined) throw new Error(`the input ${source.name} is not fed`);
      return found;
    };
    const order = plan.steps.map(({ stage }) => stage);
    const streaming = frozen.run(order, feeds);
    try {
      for (const [at, { stage, wanted, freed }] of plan.steps.entries()) {
        const waited = onWaited && stopwatch();
        const weights = await streaming.of(at);
        if (waited) onWaited(waited());
        const inputs = stages[stage]!.inputs.map(({ source }) => handleOf(source, weights));
        const outputs = wanted.map(
          ({ index, value }): Wanted => ({ index, place: placed.get(value), isRead: isRead.has(value) }),
        );
        const made = await executables[stage]!.run(inputs, outputs);
        streaming.done(at);
        wanted.forEach(({ value }, i) => {
          if (!placed.has(value)) values.set(value, made[i]!);
        });
        for (const value of freed) {
          machine.free(values.get(value)!);
          values.delete(value);
        }
      }
      const read = plan.results.flatMap(({ name, value }) =>
        returned.includes(name) ? [[name, machine.read(values.get(value)!)] as const] : [],
      );
      for (const { name, value } of plan.results) {
        const input = carry[name];
        if (input === undefined) continue;
        bindOne(input, values.get(value)!);
        values.delete(value);
      }
      return Object.fromEntries(read);
    } finally {
      streaming.end();
      for (const handle of values.values()) machine.free(handle);
      for (const handle of own.values()) machine.free(handle);
    }
  }

  let isClosed = false;
  const turn = taskQueue();
  /** One run at a time, in the order in which they are asked for. */
  const next = <T>(work: () => Promise<T>): Promise<T> =>
    turn(() => {
      if (isClosed) throw new Error("the session is closed");
      return work();
    }).catch(fail);
  return {
    run: (feeds, options = {}) => next(() => run(feeds, options)),
    bind: (feeds) =>
      next(async () => {
        for (const [name, tensor] of Object.entries(feeds)) {
          if (!fed.has(name)) continue;
          const own = tensorOf({ ...tensor, data: tensor.data.slice() });
          bindOne(name, (await machine.move?.(tensor.dtype as ElementType, tensor.shape, own)) ?? own);
        }
      }),
    share: (inputs, outputs) =>
      next(async () => {
        for (const [name, tensor] of Object.entries(inputs)) bindOne(name, tensorOf(tensor));
        for (const [name, tensor] of Object.entries(outputs)) places.set(name, tensorOf(tensor));
      }),
    close: () =>
      next(async () => {
        isClosed = true;
        for (const executable of new Set(executables)) executable.close();
        await frozen.close();
        for (const handle of [...bound.values(), ...places.values()]) machine.free(handle);
        for (const map of [bound, places]) map.clear();
      }),
  };
}

/** Both, made at the same time; if one fails, the other is closed. */
async function together(compiling: Promise<Executable[]>, reading: Promise<Weights>): Promise<[Executable[], Weights]> {
  try {
    return await Promise.all([compiling, reading]);
  } catch (error) {
    const [compiled, read] = await Promise.allSettled([compiling, reading]);
    if (compiled.status === "fulfilled") for (const one of new Set(compiled.value)) one.close();
    if (read.status === "fulfilled") await read.value.close();
    throw error;
  }
}

/** Whether the engine can read the weights that stages have as their own: their bytes are numbers, in files. */
const areInPlace = ({ stages }: Program, weights = noWeights): boolean =>
  stages.every(({ graph }) =>
    nodesOf(graph).every(
      ({ op, attributes: { name, of } }) =>
        op !== "weight" || of !== undefined || isPlain(inFolder(weights.folder, weights.locate(String(name)))),
    ),
  );

const fail = (error: unknown): never => {
  throw error instanceof LowrankError ? error : engineError(error instanceof Error ? error.message : String(error));
};

/** `fail` where memory is short; what a caller's function has thrown stays as it is. */
const failInMemory = (error: unknown): never => {
  if (error instanceof Error && isOutOfMemory(error.message)) fail(error);
  throw error;
};

interface CompiledStage {
  model: Uint8Array;
  executable: Executable;
}

/** An executable for each stage; stages whose models are the same bytes share one. */
async function compileStages(stages: readonly Stage[], options: ProgramOptions): Promise<Executable[]> {
  const known: CompiledStage[] = [];
  try {
    return await compileInto(known, stages, options);
  } catch (error) {
    for (const { executable } of known) executable.close();
    throw error;
  }
}

async function compileInto(known: CompiledStage[], stages: readonly Stage[], options: ProgramOptions): Promise<Executable[]> {
  const { machine, weights, threads, profile } = options;
  const executables: Executable[] = [];
  for (const { graph, inputs, outputs } of stages) {
    const leaves = inputs.map(({ leaf }) => leaf);
    const model = lower(graph, (weights ?? noWeights).locate, leaves, !machine.isPlain);
    let executable = known.find((other) => sameBytes(other.model, model))?.executable;
    if (!executable) {
      const given = await readGiven(graph, { ...options, source: weights ?? noWeights });
      const compiled = await machine
        .compile(model, {
          inputs: leaves.map(({ node }) => String(node.attributes["name"])),
          outputs: outputs.map(({ name }) => name),
          weightsFolder: weights?.folder || undefined,
          threads,
          weights: given.handles,
          profile: profile && `${profile}-${known.length}`,
        })
        .catch((error: unknown) => {
          given.close();
          throw error;
        });
      given.packed();
      executable = {
        run: compiled.run,
        close() {
          compiled.close();
          given.close();
        },
      };
      known.push({ model, executable });
    }
    executables.push(executable);
  }
  return executables;
}

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, i) => byte === b[i]);
