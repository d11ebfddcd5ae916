// What the table of hostile cases is made of: a place of its own for each case, with bases and data to damage, and an engine that computes nothing.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { main } from "../../src/cli/program.ts";
import { finetune } from "../../src/commands/train/finetune.ts";
import { LowrankError } from "../../src/errors.ts";
import type { Files } from "../../src/files.ts";
import type { FinetuneEvent, FinetuneOptions } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { timeLimitOf } from "../../src/platform/node/time-limit.ts";
import type { Platform } from "../../src/platform/platform.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { float32 } from "../../src/tensor.ts";
import { collect } from "./assert.ts";
import { fixtures } from "./repository.ts";

export interface Case {
  name: string;
  /** The code of the error that it ends with; "accepted" where the input is accepted, or passed over in a way that `work` checks. */
  ends: string;
  /** What the error has to name besides. */
  message?: RegExp;
  work(place: Place): Promise<unknown>;
}

/** Good records, 40 of them. */
export const goodData = `${fixtures}/tiny-e2e/eval.jsonl`;
export const goodBase = `${fixtures}/tiny-llama`;

type Json = Record<string, unknown>;
type Content = string | Uint8Array | ((json: Json) => unknown);

export interface Place {
  /** A path in the case's own folder. */
  at(name: string): string;
  /** Writes a file there, and gives its path. */
  file(name: string, content: string | Uint8Array): string;
  /** A copy of the good base in which files are replaced, or changed as JSON. */
  base(changes?: Record<string, Content>): string;
  /** A named pipe, which nobody writes to. */
  pipe(name: string): string;
  /** Two steps over the good data with an engine that computes nothing, unless `options` and `platform` say otherwise. */
  train(options?: object, platform?: Partial<Platform>): Promise<FinetuneEvent[]>;
  /** The command line; an error that it prints is thrown. */
  lowrank(...args: string[]): Promise<void>;
}

/** A place, and how to leave it. */
export function makePlace(): Place & { leave(): void } {
  const root = mkdtempSync(path.join(tmpdir(), "lowrank-hostile-"));
  const at = (name: string) => path.join(root, name);
  const file = (name: string, content: string | Uint8Array) => {
    mkdirSync(path.dirname(at(name)), { recursive: true });
    writeFileSync(at(name), content);
    return at(name);
  };
  return {
    at,
    file,
    base(changes = {}) {
      const folder = at("base");
      cpSync(goodBase, folder, { recursive: true });
      for (const [name, change] of Object.entries(changes)) {
        if (typeof change !== "function") writeFileSync(`${folder}/${name}`, change);
        else writeFileSync(`${folder}/${name}`, JSON.stringify(change(JSON.parse(readFileSync(`${folder}/${name}`, "utf8")))));
      }
      return folder;
    },
    pipe(name) {
      execFileSync("mkfifo", [at(name)]);
      return at(name);
    },
    train: (options = {}, platform = {}) =>
      collect(finetune({ ...training(at("output")), ...options } as FinetuneOptions, { ...offline(), ...platform })),
    lowrank: (...args) => commandLine(args),
    leave: () => rmSync(root, { recursive: true, force: true }),
  };
}

const training = (output: string) => ({ base: goodBase, data: goodData, output, steps: 2, learningRate: 1e-3 });
/** With a tenth of the usual time for a text, MAX_TEXT_MS. */
const offline = (): Platform => ({ files: nodeFiles, openSession: engine(), timeLimit: timeLimitOf(400) });

/**
 * An engine that answers its `run`-th run (from 1) with this loss, or fails as `answer` does. Its gradient is a function of
 * the parameters alone, so that runs can be compared to the bit.
 */
export function engine(answer: (run: number, isTraining: boolean) => number = () => 1): OpenSession {
  return async () => {
    let shared: [parameter: Float32Array, gradient: Float32Array][] = [];
    let runs = 0;
    return {
      run: async (_, options = {}) => {
        const loss = answer(++runs, options.fetches?.some((name) => name.startsWith("gradient ")) ?? true);
        for (const [parameter, gradient] of shared) gradient.set(parameter.map((value) => 0.1 * value + 0.01));
        return { loss: float32([], Float32Array.of(loss)) };
      },
      share: async (inputs, outputs) => {
        const gradients = Object.values(outputs);
        shared = Object.values(inputs).map(({ data }, i) => [data as Float32Array, gradients[i]!.data as Float32Array]);
      },
      bind: async () => {},
      close: async () => {},
    };
  };
}

/** Files in which the calls of `method` go through `instead`, which may throw what a system call would. */
export function filesWith<M extends keyof Files>(method: M, instead: (real: Files[M]) => Files[M]): Files {
  return { ...nodeFiles, [method]: instead(nodeFiles[method]) };
}

/** Runs the command in this process; stands for what its standard error says. */
async function commandLine(args: string[]): Promise<void> {
  const write = process.stderr.write;
  let errors = "";
  process.stderr.write = (text: string | Uint8Array) => {
    errors += text;
    return true;
  };
  try {
    const status = await main([...args, "--json"]);
    if (status === 0) return;
  } finally {
    process.stderr.write = write;
  }
  const { error, message, ...facts } = JSON.parse(errors.trimEnd().split("\n").at(-1)!) as Record<string, string>;
  throw new LowrankError(error!, message!, facts);
}

/** Sets properties of an object for the time of `work`. */
export async function withReplaced<T extends object, R>(object: T, changes: Partial<T>, work: () => Promise<R>): Promise<R> {
  const kept = Object.fromEntries(Object.keys(changes).map((name) => [name, Object.getOwnPropertyDescriptor(object, name)]));
  for (const [name, value] of Object.entries(changes))
    Object.defineProperty(object, name, { value, configurable: true, writable: true });
  try {
    return await work();
  } finally {
    for (const [name, descriptor] of Object.entries(kept)) {
      if (descriptor) Object.defineProperty(object, name, descriptor);
      else delete (object as Record<string, unknown>)[name];
    }
  }
}

/** How many examples the data gave, by the event that says it. */
export function examplesOf(events: readonly FinetuneEvent[]): number {
  const prepared = events.find((event) => event.type === "prepared");
  return prepared?.type === "prepared" ? prepared.train.count : Number.NaN;
}
