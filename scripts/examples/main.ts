// npm run examples: each example as a user runs it, one after another; `-- --short` trains only a few steps in each, two examples at a time.
// An example that asserts what was learnt ends with an error "not learnt: …", which in a short run means that it came to its end.
import { spawn } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { compiled } from "../compile.mjs";

const { values } = parseArgs({ options: { short: { type: "boolean", default: false } } });
const SHORT = "build/short-examples";

const names = readdirSync("examples").filter((name) => name.endsWith(".ts"));
if (values.short) {
  await build({
    entryPoints: names.map((name) => `examples/${name}`),
    outdir: SHORT,
    bundle: true,
    platform: "node",
    format: "esm",
    packages: "external",
    logLevel: "warning",
    plugins: [{ name: "few steps", setup: ({ onResolve }) => onResolve({ filter: /^lowrank$/ }, fewSteps) }],
  });
}

/** Resolves the import "lowrank" of an example. */
function fewSteps({ importer }: { importer: string }): { path: string; external?: boolean } {
  const file = path.resolve("scripts/examples/few-steps.ts");
  return importer === file ? { path: "lowrank", external: true } : { path: file };
}

/** Runs an example to its end, then prints what it printed; throws if it failed. */
async function runExample(name: string): Promise<void> {
  const program = values.short ? `${SHORT}/${name.replace(/\.ts$/, ".js")}` : compiled(`examples/${name}`);
  const env = { ...process.env, ...(values.short && { LOWRANK_THREADS: "1" }) }; // two examples at a time
  const child = spawn(process.execPath, [program], { env, stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (part: string) => (text += part));
  const status = await new Promise((resolve) => child.on("close", resolve));
  const isAtItsEnd = status === 0 || (values.short && /^Error: not learnt: /m.test(text));
  console.log(`── examples/${name}\n${text}`);
  if (!isAtItsEnd) throw new Error(`examples/${name} ended with status ${status}`);
}

rmSync("example-output", { recursive: true, force: true });
async function lane(): Promise<void> {
  for (let name = names.shift(); name; name = names.shift()) await runExample(name);
}
await Promise.all(Array.from({ length: values.short ? 2 : 1 }, lane));
