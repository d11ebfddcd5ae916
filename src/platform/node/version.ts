// The version of this program, from its package.json, and what it runs on.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism, cpus, totalmem } from "node:os";
import { bytes } from "../../units.ts";

export const version: string = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")).version;

/** What a run's speed and last bits depend on beside its options, in words. */
export function environment(): Record<string, string> {
  const engine: { version: string } = createRequire(import.meta.url)("onnxruntime-node/package.json");
  return {
    "ONNX Runtime": engine.version,
    Node: process.version,
    system: `${process.platform} ${process.arch}`,
    processor: `${availableParallelism()} × ${cpus()[0]?.model.trim() ?? "unknown"}`,
    "memory of the machine": bytes(totalmem()),
  };
}
