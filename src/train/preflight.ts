// What is checked before any weight is read: the output folder, and whether memory and disk suffice for the plan.

import { ADAPTER_WEIGHTS_NAME } from "../adapters/peft-files.ts";
import { LowrankError } from "../errors.ts";
import type { Files } from "../files.ts";
import { WEIGHTS_NAME } from "../formats/checkpoint.ts";
import type { Platform } from "../platform/platform.ts";
import { resumable } from "./checkpoint.ts";
import type { MemoryEstimate } from "./memory.ts";
import type { RunOptions } from "./options.ts";
import { differencesFromKept, RUN_NAME, resumeCommand } from "./run-file.ts";

/** The estimate can be this far off: beyond it a run is refused, within it there is a warning. */
const MARGIN = 0.2;
/** Disk sizes are known; the rest is for tokenizer files, logs, and what other programs write meanwhile. */
const DISK_MARGIN = 0.1;

/** Makes the output folder; fails if it is the base's own. */
export async function makeOutput(files: Files, { base, output }: Pick<RunOptions, "base" | "output">): Promise<void> {
  await files.makeFolder(output);
  if ((await files.realPath(output)) === (await files.realPath(base))) {
    throw new LowrankError("train/output", "the output folder is the base checkpoint's own", {
      subject: output,
      expected: "another folder",
      next: "Choose another output folder.",
    });
  }
}

/**
 * The checkpoint that the run goes on from, or null. Fails now if the output folder can't be written, holds a run that isn't to be
 * resumed, or files that are not a run's (these `force` accepts).
 */
export async function checkOutput(files: Files, options: RunOptions): Promise<string | null> {
  const { output, resume, force } = options;
  let found: string | null;
  try {
    found = await resumable(files, output, resume);
  } catch (error) {
    throw (!resume && (await heldRun(files, options))) || error;
  }
  if (found === null && !force) await checkForeign(files, output);
  const probe = `${output}/.writable`;
  await files.write(probe, new Uint8Array());
  await files.remove(probe);
  return found;
}

/** The error for a folder whose run isn't to be resumed: whether it is the run that was asked for. Null if it holds no options. */
async function heldRun(files: Files, options: RunOptions): Promise<LowrankError | null> {
  const { output } = options;
  const differing = await differencesFromKept(files, options);
  if (differing === null) return null;
  const [message, got, next] =
    differing.length === 0
      ? ["the folder holds this very run", "a run with the same options", "To resume it: "]
      : [
          "the folder holds another run",
          `a run with other options: ${differing.slice(0, 8).join("; ")}`,
          "Train into another folder, or remove this one. Or leave the run's options as they are and resume it: ",
        ];
  const expected = "a folder without checkpoints";
  return new LowrankError("train/output", message!, { subject: output, expected, got, next: `${next}${resumeCommand(output)}.` });
}

/** Refuses a folder with a result, or with files but no run.json: what a run that never began left may be there. */
async function checkForeign(files: Files, output: string): Promise<void> {
  const names = (await files.list(output)).filter((name) => !name.startsWith("."));
  const result = names.some((name) => name === ADAPTER_WEIGHTS_NAME || name === WEIGHTS_NAME);
  if (names.length === 0 || (names.includes(RUN_NAME) && !result)) return;
  throw new LowrankError("train/output", result ? "the folder holds a trained model" : "the folder holds other files", {
    subject: output,
    expected: "a new or an empty folder",
    got: `${names.slice(0, 8).join(", ")}${names.length > 8 ? ", …" : ""}`,
    next: "Choose another output folder, or write into this one anyway (--force, force): files of the same name are replaced.",
  });
}

/** What a run asks of the machine, in bytes. */
export interface Needs {
  memory: MemoryEstimate;
  /** What the process uses already, as part of the estimate. */
  used: number;
  disk: number;
}

/** Bytes that a run can have in all: what is free, and what the process has already. Undefined where the host does not say. */
export function availableMemory({
  memoryLimits,
  memoryBytes,
}: Pick<Platform, "memoryLimits" | "memoryBytes">): number | undefined {
  const limits = memoryLimits?.();
  return limits && Math.min(limits.total, limits.available + (memoryBytes?.() ?? 0));
}

/**
 * Throws `train/memory` or `train/disk` if the run clearly can't fit, unless `force` is true. Returns warnings where it may
 * not fit.
 */
export async function checkMachine(
  needs: Needs,
  { output, force }: Pick<RunOptions, "output" | "force">,
  { memoryLimits, freeDisk }: Pick<Platform, "memoryLimits" | "freeDisk">,
): Promise<string[]> {
  const warnings: string[] = [];
  const limits = memoryLimits?.();
  if (limits) {
    const { total } = needs.memory;
    const more = Math.max(0, total - needs.used);
    const facts = `about ${size(total)} at its peak (${size(needs.memory.weights)} of weights, ${size(needs.memory.activations)} of activations)`;
    const there = `${size(limits.available)} free, ${size(limits.total)} in all`;
    const isRefused = total * (1 - MARGIN) > limits.total || more * (1 - MARGIN) > limits.available;
    if (isRefused && !force) {
      throw new LowrankError("train/memory", "the run needs more memory than there is", {
        subject: "memory",
        expected: facts,
        got: there,
        next: `${lighter(needs.memory)}, or try anyway (--force, force). lowrank plan estimates the effect of a change.`,
      });
    }
    if (isRefused || more > limits.available) warnings.push(`memory may not suffice: the run needs ${facts}; ${there}`);
  }
  const free = await freeDisk?.(output);
  if (free !== undefined && needs.disk * (1 + DISK_MARGIN) > free) {
    const isRefused = needs.disk > free && !force;
    if (isRefused) {
      throw new LowrankError("train/disk", "the run needs more disk than is free", {
        subject: output,
        expected: `${size(needs.disk)} for checkpoints and the result`,
        got: `${size(free)} free`,
        next: "Choose an output folder on another disk, keep fewer checkpoints (--keep-checkpoints), or try anyway (--force).",
      });
    }
    warnings.push(`disk may not suffice: the run writes ${size(needs.disk)}; ${size(free)} free`);
  }
  return warnings;
}

/** What to change, by what the memory goes to. */
const lighter = ({ weights, activations, trained }: MemoryEstimate): string =>
  activations > weights + trained
    ? "Use shorter examples (--max-length), less that is kept (--memory auto), or a smaller batch where it is computed as a whole (--batch-size)"
    : trained > weights
      ? "Train an adapter (--method lora) or one of lower rank (--rank)"
      : "Use a smaller base model";

const size = (bytes: number): string => `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 0)} GB`;
