// What adapters cost in an open model: the first one, a swap, detaching, and many that are held at once. `swap.ts MODEL_DIR [--rank 8]
// [--adapters 100]`. Prints one line of JSON: milliseconds, and megabytes of the process beside what the adapters' values take.
import { parseArgs } from "node:util";
import { loraConfig } from "../src/adapters/config.ts";
import { initAdapter } from "../src/adapters/init.ts";
import { matchModules } from "../src/adapters/match.ts";
import type { Adapter } from "../src/adapters/peft-files.ts";
import { generateText, loadBase, openGenerator } from "../src/index.ts";
import { median } from "./median.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rank: { type: "string", default: "8" }, adapters: { type: "string", default: "100" } },
});
const [rank, count] = [Number(values.rank), Number(values.adapters)];
const folder = positionals[0]!;
const base = await loadBase(folder);
const config = loraConfig({ rank, alpha: 2 * rank, targetModules: "all-linear", initLoraWeights: false });
const modules = matchModules(base.modules, config, base.config.modelType);
const adapterOf = (seed: number): Adapter => ({ config, modules, tensors: initAdapter(modules, config, seed) });
const bytesOf = ({ tensors }: Adapter): number =>
  [...tensors.values()].reduce((sum, own) => sum + Object.values(own).reduce((n, { byteLength }) => n + byteLength, 0), 0);
const megabytes = (): number => process.memoryUsage.rss() / 1e6;
const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now();
  await work();
  return performance.now() - start;
};

const generator = await openGenerator(folder);
const answer = () => generateText(generator, "The Punter is a place", { maxNewTokens: 4 });
await answer();
const alone = megabytes();
const [a, b] = [adapterOf(1), adapterOf(2)];
const first = await timed(() => generator.useAdapter(a));
await answer();
const [swaps, detached]: [number[], number[]] = [[], []];
for (let i = 0; i < 10; i++) {
  swaps.push(await timed(() => generator.useAdapter(i % 2 === 0 ? b : a)));
  await answer();
}
for (let i = 0; i < 3; i++) {
  detached.push(await timed(() => generator.useAdapter(null)));
  await generator.useAdapter(a);
}
const swapped = megabytes();
const held = Array.from({ length: count }, (_, seed) => adapterOf(seed));
for (const adapter of held) await generator.useAdapter(adapter);
await answer();
const own = held.reduce((sum, adapter) => sum + bytesOf(adapter), 0) / 1e6;
console.log(
  JSON.stringify({
    first_ms: first,
    swap_ms: median(swaps),
    swap_worst_ms: Math.max(...swaps),
    detach_ms: median(detached),
    rss_alone_mb: alone,
    rss_swapped_mb: swapped,
    adapters: count,
    adapters_mb: own,
    rss_held_mb: megabytes(),
  }),
);
await generator.close();
