// One short training run of the built package in a process of its own, for check-plan.ts: its argument is the options of
// `finetune` as JSON. Prints one JSON line: what was estimated, and the most memory that the process held.
import { readFileSync } from "node:fs";
import { finetune } from "../dist/index.js";

/** Peak resident memory in bytes. Linux's own record starts with the program; getrusage's counts the parent's before it. */
function peakBytes() {
  try {
    const found = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    return Number(found?.[1]) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

let memory;
let trainable = 0;
const seconds = [];
let last = performance.now();
for await (const event of finetune(JSON.parse(process.argv[2] ?? ""))) {
  if (event.type === "prepared") ({ memory, trainable } = event);
  if (event.type === "step") seconds.push((performance.now() - last) / 1000);
  last = performance.now();
}
console.log(JSON.stringify({ memory, trainable, peak: peakBytes(), stepSeconds: seconds.at(-1) }));
