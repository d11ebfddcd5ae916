// The repository's TypeScript compiled to build/, the one form in which tests, their child processes, scripts and benchmarks run.
// Bundled with shared chunks (esbuild): 700 small files take longer to load than to compile.
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

/** Absolute path of the repository, ending with a slash. */
export const repository = fileURLToPath(new URL("../", import.meta.url));

const BUILD = "build";
/** Chunks are named by their content. Those of an older compile are kept this long, for programs that are still running. */
const KEEP_CHUNKS_MS = 15 * 60_000;

/** Folders in which every TypeScript file is a program or part of one. */
const FOLDERS = ["test", "scripts", "fuzz", "bench", "examples"];
/** Source files that a test or a script starts or imports by path. */
const PROGRAMS = ["src/cli/main.ts"];
/** Checkpoints and sources for copies, and the page of the browser's test, which has a build of its own. */
const EXCLUDED = /\.d\.ts$|^test\/(fixtures|browser\/page)\//;

/** Absolute path of a compiled file, from the path of its source in the repository. @param {string} source */
export function compiled(source) {
  return path.join(repository, BUILD, path.relative(repository, path.resolve(repository, source)).replace(/\.ts$/, ".js"));
}

/** Whether the process was started to run this module, given its `import.meta.url`. @param {string} url */
export const isProgram = (url) => process.argv[1] === compiled(fileURLToPath(url));

/** @returns {string[]} */
function entryPoints() {
  const inFolder = (/** @type {string} */ folder) => {
    try {
      return readdirSync(path.join(repository, folder), { recursive: true, encoding: "utf8" });
    } catch {
      return []; // a copy of the sources may lack it
    }
  };
  const found = FOLDERS.flatMap((folder) => inFolder(folder).map((name) => path.posix.join(folder, name.replaceAll("\\", "/"))));
  return [...found.filter((name) => name.endsWith(".ts") && !EXCLUDED.test(name)), ...PROGRAMS];
}

/** Compiles everything; throws, with esbuild's messages on standard error, if a file does not parse or an import is missing. */
export async function compile() {
  const { build } = await import("esbuild");
  const { outputFiles } = await build({
    write: false,
    absWorkingDir: repository,
    entryPoints: entryPoints(),
    outdir: BUILD,
    outbase: ".",
    chunkNames: "chunks/[hash]",
    bundle: true,
    splitting: true,
    packages: "external",
    format: "esm",
    platform: "node",
    target: "node20",
    sourcemap: "linked",
    sourcesContent: false,
    logLevel: "warning",
    plugins: [{ name: "import.meta of the source", setup: keepImportMeta }],
  });
  for (const { path: file, contents } of outputFiles) replace(file, contents);
  removeChunks(new Set(outputFiles.map(({ path: file }) => file)));
}

/** Writes a file at once and only if it differs: other programs may be reading it. @param {string} file @param {Uint8Array} contents */
function replace(file, contents) {
  if (existsSync(file) && readFileSync(file).equals(contents)) return;
  mkdirSync(path.dirname(file), { recursive: true });
  const partial = `${file}.${process.pid}`;
  writeFileSync(partial, contents);
  renameSync(partial, file);
}

/** Removes older chunks than those given. @param {Set<string>} current */
function removeChunks(current) {
  const folder = path.join(repository, BUILD, "chunks");
  for (const name of readdirSync(folder)) {
    const file = path.join(folder, name);
    if (!current.has(file) && Date.now() - statSync(file).mtimeMs > KEEP_CHUNKS_MS) rmSync(file, { force: true });
  }
}

/** `import.meta.url` is the source file's, wherever its code ends up, so that paths relative to it are right. @param {import("esbuild").PluginBuild} build */
function keepImportMeta(build) {
  build.onLoad({ filter: /\.(ts|mjs)$/, namespace: "file" }, ({ path: file }) => {
    if (file.includes("node_modules")) return undefined;
    const text = readFileSync(file, "utf8");
    const url = JSON.stringify(pathToFileURL(file).href);
    return { contents: text.replace(/import\.meta\.url/g, () => url), loader: file.endsWith(".ts") ? "ts" : "js" };
  });
}
