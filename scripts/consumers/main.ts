// npm run test:consumers: what lowrank converts, read by the programs that it is for, and their next tokens against ours.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { convert } from "../../src/commands/convert/convert.ts";
import { mergeAdapter } from "../../src/commands/merge/merge.ts";
import { LowrankError } from "../../src/errors.ts";
import { openNodeSession } from "../../src/platform/node/session.ts";
import { compiled } from "../compile.mjs";
import { type Case, files, makeCases, ownLogs, type Request, requestOf } from "./cases.ts";
import { type Encoded, encoderDifference, makeEncoders } from "./encoders.ts";

/** Packages of npm, with the option that names an installation. */
const nodePackages = {
  "node-llama-cpp": "3.21.1",
  "@huggingface/transformers": "4.3.2",
};
const PYTHON_PACKAGES = [
  "mlx-lm==0.32.2",
  "mlx[cpu]==0.32.4",
  "peft==0.21.2",
  "transformers==5.23.0",
  "torch",
  "onnxruntime==1.30.0",
  "numpy",
  "safetensors",
];
/** Log probabilities below this are not compared: consumers round them to 0. */
const LEAST = -15;
const here = "scripts/consumers";

const { values } = parseArgs({
  options: {
    base: { type: "string", default: "models/embedded" },
    adapter: { type: "string" },
    only: { type: "string" },
    by: { type: "string" },
    "node-llama-cpp": { type: "string" },
    "transformers-js": { type: "string" },
    python: { type: "string", multiple: true },
    keep: { type: "string" },
  },
});

const work = values.keep ?? mkdtempSync(path.join(tmpdir(), "lowrank-consumers-"));
mkdirSync(work, { recursive: true });

/** What a consumer reads of a case, and how it is asked. */
interface Consumer {
  name: string;
  /** How far its log probabilities may be from ours; llama.cpp's bound is the model's. */
  bound?: number;
  /** It is compared with our numbers of the merged model, whose weights were rounded to the base's dtype. */
  isMerged?: true;
  /** It is compared with our numbers of the base. */
  isBare?: true;
  /** It is asked about the first model alone. */
  isOnce?: true;
  /** Why it is not asked; undefined if it is. */
  skipped(): string | undefined;
  /** Makes what it reads, and asks it. Returns what it prints. */
  ask(given: Case, folder: string, request: string, out: string): Promise<Answer>;
}

/** What a consumer prints: token ids of the texts, and how many of the greedy texts are ours, where it makes them by itself. */
interface Answer {
  version: string;
  ids?: number[][];
  greedy?: string;
}

const json = <Printed = Answer>(command: string, args: string[]): Printed => {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 28 });
  if (error || status !== 0) throw new Error(error?.message ?? (stderr.trim().split("\n").at(-1) || `exit status ${status}`));
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
};

/** The folder of a package: one that is given, or installed here. */
function nodeModule(name: keyof typeof nodePackages, given: string | undefined): string {
  if (given) return given;
  const folder = path.join(work, "node_modules", name);
  if (!existsSync(folder)) {
    const wanted = `${name}@${nodePackages[name]}`;
    console.log(`installing ${wanted}`);
    execFileSync("npm", ["install", "--no-save", "--no-audit", "--no-fund", "--prefix", work, wanted], { stdio: "ignore" });
  }
  return folder;
}
const llamaModule = (): string => nodeModule("node-llama-cpp", values["node-llama-cpp"]);
const script = <Printed = Answer>(name: string, ...args: string[]): Printed =>
  json<Printed>(process.execPath, [compiled(path.join(here, name)), ...args]);
const askLlama = (model: string, adapter: string, request: string, out: string) =>
  script("llama.ts", llamaModule(), model, adapter, request, out);

const has = (python: string, name: string): boolean =>
  spawnSync(python, ["-c", `import importlib.util, sys; sys.exit(importlib.util.find_spec("${name}") is None)`]).status === 0;

/** The Python that has a package: one that is given, or of an environment that is made here. */
function pythonWith(name: string): string | undefined {
  const made = path.join(work, "venv/bin/python");
  if (!existsSync(made) && !values.python) {
    if (spawnSync("python3", ["-m", "venv", path.join(work, "venv")]).status !== 0) return undefined;
    console.log(`installing ${PYTHON_PACKAGES.join(", ")}`);
    spawnSync(made, ["-m", "pip", "install", "--quiet", ...PYTHON_PACKAGES], { stdio: "ignore" });
  }
  return [...(values.python ?? []), made].find((python) => has(python, name));
}
const askPython = (
  kind: "mlx" | "onnx" | "peft",
  module: string,
  { base }: Pick<Case, "base">,
  adapter: string,
  request: string,
  out: string,
) => json(pythonWith(module)!, [path.join(here, "logits.py"), kind, base, adapter, request, out]);
const without = (module: string) => () => (pythonWith(module) ? undefined : `no Python with ${module}`);

const mergeOnce = async ({ base, adapter }: Case, output: string): Promise<void> => {
  if (!existsSync(output)) await mergeAdapter(files, { base, adapter, output, anyBase: true, certify: "none" });
};

/** The base as an ONNX model, alone or under the adapter. */
const onnxRuntime = (name: string, isAdapted: boolean): Consumer => ({
  name,
  bound: 1e-3,
  ...(!isAdapted && { isBare: true as const }),
  skipped: without("onnxruntime"),
  async ask({ base, adapter }, folder, request, out) {
    const [model, parameters] = [`${folder}/base.onnx`, isAdapted ? `${folder}/adapter.onnx_adapter` : "-"];
    if (!existsSync(model)) await convert(files, { input: base, output: model });
    if (isAdapted) await convert(files, { input: adapter, output: parameters, base, anyBase: true });
    return askPython("onnx", "onnxruntime", { base: model }, parameters, request, out);
  },
});

/** The merged model in transformers.js' folder. */
const inJavaScript = (dtype: "f32" | "f16" | "q8" | "q4", name: string, bound: number): Consumer => ({
  name: `transformers.js, merged model in ${dtype}`,
  bound,
  isMerged: true,
  ...(dtype !== "f32" && { isOnce: true as const }),
  skipped: () => undefined,
  async ask(given, folder, request, out) {
    const output = `${folder}/merged-${dtype}`;
    await mergeOnce(given, `${folder}/merged`);
    await convert(files, { input: `${folder}/merged`, output, to: "transformers.js", dtype }, { openSession: openNodeSession });
    const module = nodeModule("@huggingface/transformers", values["transformers-js"]);
    return script("transformers-js.ts", module, output, name, request, out);
  },
});

/** lowrank itself in fewer bits: what they cost this model, whoever computes. */
const ourselves = (baseDtype: "int8" | "int4"): Consumer => ({
  name: `lowrank, base in ${baseDtype}`,
  bound: Number.POSITIVE_INFINITY,
  isOnce: true,
  skipped: () => undefined,
  async ask({ base, adapter }, _, request, out) {
    const { sequences }: Request = JSON.parse(readFileSync(request, "utf8"));
    writeFileSync(out, new Uint8Array((await ownLogs(base, adapter, sequences, baseDtype)).buffer));
    return { version: "this one" };
  },
});

/** The merged model as a GGUF file. */
const merged = (dtype: "f32" | "q8_0", bound?: number): Consumer => ({
  name: `llama.cpp, merged model in ${dtype}`,
  isMerged: true,
  ...(bound !== undefined && { bound, isOnce: true as const }),
  skipped: () => undefined,
  async ask(given, folder, request, out) {
    const output = `${folder}/merged`;
    await mergeOnce(given, output);
    await convert(files, { input: output, output: `${folder}/merged-${dtype}.gguf`, dtype });
    return askLlama(`${folder}/merged-${dtype}.gguf`, "-", request, out);
  },
});

const consumers: Consumer[] = [
  {
    name: "llama.cpp, GGUF adapter on a base in f32",
    skipped: () => undefined,
    async ask({ base, adapter }, folder, request, out) {
      await convert(files, { input: base, output: `${folder}/base.gguf`, dtype: "f32" });
      await convert(files, { input: adapter, output: `${folder}/adapter.gguf`, base, anyBase: true });
      return askLlama(`${folder}/base.gguf`, `${folder}/adapter.gguf`, request, out);
    },
  },
  merged("f32"),
  merged("q8_0", Number.POSITIVE_INFINITY),
  {
    name: "llama.cpp, merged model in Q4_K_M by its own quantiser",
    bound: Number.POSITIVE_INFINITY,
    isMerged: true,
    isOnce: true,
    skipped: () =>
      process.platform === "linux" && process.arch === "x64" ? undefined : "the library is called on Linux x64 alone",
    async ask(given, folder, request, out) {
      const model = `${folder}/merged-q4_k_m.gguf`;
      await mergeOnce(given, `${folder}/merged`);
      if (!existsSync(`${folder}/merged-f32.gguf`)) {
        await convert(files, { input: `${folder}/merged`, output: `${folder}/merged-f32.gguf`, dtype: "f32" });
      }
      const quantiser = path.join(here, "quantize.ts");
      execFileSync(process.execPath, [compiled(quantiser), llamaModule(), `${folder}/merged-f32.gguf`, model], {
        stdio: "ignore",
      });
      return askLlama(model, "-", request, out);
    },
  },
  inJavaScript("f32", "fp32", 1e-3),
  inJavaScript("f16", "fp16", 5e-2),
  inJavaScript("q8", "q8", Number.POSITIVE_INFINITY),
  inJavaScript("q4", "q4", Number.POSITIVE_INFINITY),
  ourselves("int8"),
  ourselves("int4"),
  {
    name: "MLX adapter",
    bound: 1e-3,
    skipped: without("mlx_lm"),
    async ask(given, folder, request, out) {
      await convert(files, { input: given.adapter, output: `${folder}/mlx`, to: "mlx", base: given.base, anyBase: true });
      return askPython("mlx", "mlx_lm", given, `${folder}/mlx`, request, out);
    },
  },
  onnxRuntime("ONNX base in f32", false),
  onnxRuntime("ONNX Runtime adapter on an ONNX base in f32", true),
  ...(["gguf", "mlx"] as const).map(
    (through): Consumer => ({
      name: `PEFT adapter, converted back from ${through === "gguf" ? "GGUF" : "MLX"}`,
      bound: 1e-3,
      ...(through === "mlx" && { isOnce: true as const }),
      skipped: without("peft"),
      async ask(given, folder, request, out) {
        const [between, output] = [
          through === "gguf" ? `${folder}/between.gguf` : `${folder}/between`,
          `${folder}/back-${through}`,
        ];
        const { base, adapter } = given;
        await convert(files, { input: adapter, output: between, to: through, base, anyBase: true });
        await convert(files, { input: between, output, to: "peft", base });
        return askPython("peft", "peft", given, output, request, out);
      },
    }),
  ),
];

interface Row {
  text: string;
  failed: boolean;
}

/** The largest difference of log probabilities, and how many next tokens are ours. */
function compared(ours: Float32Array, theirs: Float32Array, asked: number): { most: number; same: number } {
  const [width, own] = [theirs.length / asked, ours.length / asked];
  let [most, same] = [0, 0];
  for (let row = 0; row < asked; row++) {
    let [best, bestOfOurs] = [0, 0];
    for (let token = 0; token < own; token++) {
      const [a, b] = [ours[row * own + token]!, theirs[row * width + token]!];
      if (a > LEAST) most = Math.max(most, Math.abs(a - b));
      if (b > theirs[row * width + best]!) best = token;
      if (a > ours[row * own + bestOfOurs]!) bestOfOurs = token;
    }
    if (best === bestOfOurs) same++;
  }
  return { most, same };
}

async function rowOf(consumer: Consumer, given: Case, folder: string, request: Request, ours: Float32Array): Promise<Row> {
  const reason = consumer.skipped();
  if (reason !== undefined) return { text: `| ${given.name} | ${consumer.name} | | skipped: ${reason} | |`, failed: false };
  const [asking, out] = [`${folder}/request.json`, `${folder}/logs.bin`];
  writeFileSync(asking, JSON.stringify(request));
  try {
    const { version, ids, greedy: made } = await consumer.ask(given, folder, asking, out);
    const bytes = readFileSync(out);
    const asked = request.sequences.reduce((sum, one) => sum + one.asked, 0);
    const { most, same } = compared(
      consumer.isMerged
        ? await ownLogs(`${folder}/merged`, null, request.sequences)
        : consumer.isBare
          ? await ownLogs(given.base, null, request.sequences)
          : ours,
      new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)),
      asked,
    );
    const tokens = ids?.every((one, i) => request.sequences[i]!.ids.slice(0, one.length).join() === one.join()) ?? true;
    const { bound = given.llamaBound } = consumer;
    const failed = !(most <= bound) || !tokens || (Number.isFinite(bound) && same < asked);
    const greedy = `${same} of ${asked} next tokens${made ? `, ${made}` : ""}${ids ? `, ${tokens ? "same" : "OTHER"} token ids` : ""}`;
    return {
      text: `| ${given.name} | ${consumer.name} | ${version} | ${greedy} | ${most.toExponential(1)}${failed ? " FAILED" : ""} |`,
      failed,
    };
  } catch (error) {
    const isSaid = error instanceof LowrankError && error.code === "convert/unsayable";
    const text = (isSaid ? `not written: ${error.message}` : `FAILED: ${(error as Error).message}`)
      .replaceAll("\n", " ")
      .replaceAll("|", "/");
    return { text: `| ${given.name} | ${consumer.name} | | ${text} | |`, failed: !isSaid };
  }
}

/** How far an encoder's outputs in transformers.js may be from ours in float32. */
const encoderBounds = { f32: 1e-4, q8: 0.5 };

/** Encoders in transformers.js' folder. */
async function encoderRows(): Promise<Row[]> {
  const by = "transformers.js";
  if (values.by !== undefined && !by.includes(values.by)) return [];
  const rows: Row[] = [];
  for (const encoder of await makeEncoders(`${work}/encoders`)) {
    if (values.only !== undefined && !encoder.name.includes(values.only)) continue;
    for (const [dtype, bound] of Object.entries(encoderBounds)) {
      const output = `${encoder.folder}-${dtype}`;
      await convert(files, { input: encoder.folder, output, to: by, dtype }, { openSession: openNodeSession });
      const module = nodeModule("@huggingface/transformers", values["transformers-js"]);
      const name = dtype === "f32" ? "fp32" : dtype;
      const given = script<Encoded>("encoder-js.ts", module, output, name, encoder.className, encoder.output);
      const most = await encoderDifference(encoder, given);
      const failed = !(most <= bound);
      const shape = `[${given.output.dims.join(", ")}], largest difference ${most.toExponential(1)}${failed ? " FAILED" : ""}`;
      rows.push({ text: `| ${encoder.name} | ${by}, ${dtype} | ${given.version} | ${encoder.output} ${shape} | |`, failed });
    }
  }
  return rows;
}

let failures = 0;
try {
  console.log("| model | read by | version | greedy | largest difference of log probabilities |\n|---|---|---|---|---|");
  const cases = await makeCases(work, values.base, values.adapter);
  for (const given of cases) {
    if (values.only !== undefined && !given.name.includes(values.only)) continue;
    const request = await requestOf(given);
    const logs = await ownLogs(given.base, given.adapter, request.sequences);
    const folder = mkdtempSync(path.join(work, "case-"));
    for (const consumer of consumers) {
      if (consumer.isOnce && given !== cases[0]) continue;
      if (values.by !== undefined && !consumer.name.includes(values.by)) continue;
      const { text, failed } = await rowOf(consumer, given, folder, request, logs);
      if (failed) failures++;
      console.log(text);
    }
    rmSync(folder, { recursive: true });
  }
  for (const { text, failed } of await encoderRows()) {
    if (failed) failures++;
    console.log(text);
  }
} finally {
  if (values.keep === undefined) rmSync(work, { recursive: true, force: true });
}
if (failures > 0) console.log(`${failures} failed`);
process.exitCode = failures > 0 ? 1 : 0;
