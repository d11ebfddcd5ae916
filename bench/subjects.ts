// What is measured: folders of models, some of them written first, the built program, and what an installation takes.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { openCheckpoint } from "../src/formats/checkpoint.ts";
import { nodeFiles } from "../src/platform/node/files.ts";
import { sizeOf } from "../src/tensor.ts";
import type { Install, ModelFacts } from "./results.ts";
import { isShape } from "./shapes.ts";
import { writeModel } from "./write-model.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

export const machineName = (threads: string): string => `${os.cpus()[0]?.model.trim() ?? os.arch()}, ${threads} threads`;

export const commitName = (): string => {
  const git = (...args: string[]) => execFileSync("git", args, { cwd: root, encoding: "utf8" }).trim();
  try {
    return `${git("rev-parse", "--short", "HEAD")}${git("status", "--porcelain", "src") ? " with changes" : ""}`;
  } catch {
    return "";
  }
};

export type Subject = ModelFacts & { folder: string };

/** A folder, or a shape (`1b`, or `1b@4` with 4 layers), which is written into `work` unless it is there. */
export async function subjectOf(name: string, work: string): Promise<Subject> {
  const [shape, layers] = name.split("@") as [string, string?];
  const isFolder = existsSync(`${name}/config.json`);
  const folder = isFolder ? name : path.join(work, name);
  if (!existsSync(`${folder}/config.json`)) {
    if (!isShape(shape)) throw new Error(`${name} is neither the folder of a model nor a shape`);
    console.error(`writing ${folder}`);
    await writeModel(folder, shape, { layers: layers === undefined ? undefined : Number(layers) });
  }
  const { config, tensors } = await openCheckpoint(nodeFiles, folder);
  const all = [...tensors.values()];
  return {
    folder,
    model: isFolder ? path.basename(path.resolve(folder)) : name,
    parameters: all.reduce((sum, tensor) => sum + sizeOf(tensor.shape), 0),
    layers: Number(config["num_hidden_layers"]),
    bytes: all.reduce((sum, { length }) => sum + length, 0),
  };
}

/**
 * A program of this folder over the built package, as users run it: what it imports of src is imported from dist. Returns its file.
 */
export async function builtProgram(name: string): Promise<string> {
  const outfile = path.join(root, "dist", `bench-${name}.mjs`);
  const fromDist = {
    name: "from-dist",
    setup: ({ onResolve }: Parameters<NonNullable<Parameters<typeof build>[0]["plugins"]>[number]["setup"]>[0]) =>
      onResolve({ filter: /^\.\.\/src\/.*\.ts$/ }, ({ path: file }) => ({
        path: file.replace(/^\.\.\/src\//, "./").replace(/\.ts$/, ".js"),
        external: true,
      })),
  };
  const entryPoints = [path.join(root, "bench", `${name}.ts`)];
  await build({ entryPoints, outfile, bundle: true, platform: "node", format: "esm", packages: "external", plugins: [fromDist] });
  return outfile;
}

/** What files and folders take on the disk, each counted once. */
function diskMegabytes(folders: readonly string[]): number {
  const lines = execFileSync("du", ["-sckL", ...folders], { encoding: "utf8" })
    .trim()
    .split("\n");
  return Math.round(Number.parseInt(lines.at(-1)!, 10) / 1024);
}

/** The package with what `npm install lowrank` brings. */
export function ourInstall(): Omit<Install, "machine" | "phase"> {
  const listed = execFileSync("npm", ["ls", "--omit=dev", "--omit=peer", "--all", "--parseable"], {
    cwd: root,
    encoding: "utf8",
  });
  const [, ...folders] = listed.trim().split("\n");
  const onlyOnce = folders.filter((folder) => !folders.some((other) => folder.startsWith(`${other}/`)));
  const { version, dependencies } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
  const megabytes = diskMegabytes([...onlyOnce, `${root}/dist`, `${root}/models`]);
  const packages = { lowrank: version, "onnxruntime-node": dependencies["onnxruntime-node"] };
  return { side: "lowrank", megabytes, gpuMegabytes: 0, packages };
}

const PEER_SCRIPT = `
import glob, importlib.metadata as m, json, sysconfig
at = sysconfig.get_paths()["purelib"]
gpu = [f for p in ("nvidia", "triton", "torch/lib/*cuda*", "torch/lib/*nvshmem*") for f in glob.glob(at + "/" + p)]
print(json.dumps([at, gpu, {p: m.version(p) for p in ("torch", "transformers", "peft")}]))`;

/** All of the peer's site-packages. */
export function peerInstall(python: string): Omit<Install, "machine" | "phase"> {
  const [folder, gpu, packages] = JSON.parse(execFileSync(python, ["-c", PEER_SCRIPT], { encoding: "utf8" }));
  const gpuMegabytes = gpu.length > 0 ? diskMegabytes(gpu) : 0;
  return { side: "peft", megabytes: diskMegabytes([folder]), gpuMegabytes, packages };
}
