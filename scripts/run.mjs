// node scripts/run.mjs FILE.ts [ARGUMENT…]: compiles the repository (compile.mjs) and runs one of its TypeScript files.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { compile, compiled } from "./compile.mjs";

const [, , file] = process.argv;
if (!file?.endsWith(".ts")) throw new Error("usage: node scripts/run.mjs FILE.ts [ARGUMENT…]");
// Stack traces name lines of the sources, in child processes too.
process.setSourceMapsEnabled(true);
process.env["NODE_OPTIONS"] = `${process.env["NODE_OPTIONS"] ?? ""} --enable-source-maps`.trim();
await compile();
const program = compiled(path.resolve(file));
process.argv.splice(1, 2, program);
await import(pathToFileURL(program).href);
