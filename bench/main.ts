// npm run bench -- MODEL… [--python PYTHON] [--quick]: steps of training here and with PEFT, side by side. MODEL: a folder, or a shape of
// shapes.ts. A short first round finds the peer's fastest mode, then the sides alternate. Each measurement is a line of the file of
// results; those that are there are skipped, so that a run can be stopped and resumed. page.ts makes docs/performance.md from the file.
import { rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type Contender, DECODED_TOKENS, decoders } from "./decoders.ts";
import { type Limits, measure } from "./measure.ts";
import { compiledPeers, type Mode, ours, peers, quickSizes, type Size, sizeOf, usualSizes } from "./modes.ts";
import { writePage } from "./page.ts";
import { fastest, isMeasured, type ModelFacts, openResults, type Phase, type Result, summaryOf } from "./results.ts";
import { builtProgram, commitName, machineName, ourInstall, peerInstall, type Subject, subjectOf } from "./subjects.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    /** Of an environment with torch, transformers and peft; without it only lowrank is measured. */
    python: { type: "string" },
    quick: { type: "boolean", default: false },
    /** Separated by commas: 512, or 4x512 for four rows. */
    sizes: { type: "string" },
    /** Names of ours (modes.ts), separated by semicolons; none measures the peer alone. */
    modes: { type: "string", default: ours.map(({ name }) => name).join(";") },
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "3" },
    threads: { type: "string", default: String(os.availableParallelism()) },
    compile: { type: "boolean", default: false },
    /** Of one command. */
    seconds: { type: "string", default: "1800" },
    megabytes: { type: "string", default: String(Math.round((0.85 * os.totalmem()) / 2 ** 20)) },
    /** Where models of a shape are written. */
    work: { type: "string", default: path.join(os.tmpdir(), "lowrank-bench") },
    results: { type: "string", default: "docs/performance.jsonl" },
    /** Forget the results that the file has. */
    fresh: { type: "boolean", default: false },
    /** The page to write, docs/performance.md. */
    page: { type: "string" },
    /** Compare generation instead of training; the peers are those whose files are given. */
    decode: { type: "boolean", default: false },
    onnx: { type: "string" },
    gguf: { type: "string" },
    packages: { type: "string", default: "." },
  },
});
if (positionals.length === 0) {
  console.error(
    "npm run bench -- MODEL… [--python PYTHON] [--quick] [--sizes 256,4x512] [--modes A;B] [--rounds 3] [--steps 3] [--compile]",
  );
  console.error("npm run bench -- MODEL… --decode [--onnx FOLDER] [--gguf FILE] [--packages FOLDER]");
  console.error("  [--threads N] [--seconds N] [--megabytes N] [--work FOLDER] [--results FILE] [--fresh] [--page FILE]");
  process.exit(2);
}

const sizes = (values.sizes?.split(",") ?? (values.quick ? quickSizes : usualSizes)).map(sizeOf);
const wanted = values.modes.split(";").filter(Boolean);
const unknown = wanted.filter((mode) => !ours.some(({ name }) => name === mode));
if (unknown.length > 0) throw new Error(`no mode ${unknown.join(", ")}; there are ${ours.map(({ name }) => name).join("; ")}`);
const ourModes = ours.filter(({ name }) => wanted.includes(name));
const peerModes = values.python ? [...peers, ...(values.compile ? compiledPeers : [])] : [];
const limits: Limits = { seconds: Number(values.seconds), megabytes: Number(values.megabytes) };
const machine = machineName(values.threads);
const commit = commitName();
if (values.fresh) rmSync(values.results, { force: true });
const results = openResults(values.results);
const others = new Set(results.lines.flatMap((line) => ("commit" in line && line.commit !== commit ? [line.commit] : [])));
if (others.size > 0)
  console.error(`${values.results} has results of ${[...others].join(", ")}, which are kept (--fresh forgets them)`);

/** Runs a contender once, or takes its result from the file; prints a line. */
async function result({ side, mode, command, args }: Contender, facts: ModelFacts, size: Size, phase: Phase, round: number) {
  const key = { ...facts, machine, side, mode, phase, round, ...size };
  const shownCommand = [command, ...args].map((word) => (word.includes("/") ? path.basename(word) : word)).join(" ");
  const { result, isNew } = await results.once(key, async () => {
    const date = new Date().toISOString();
    return { command: shownCommand, commit, date, ...(await measure(command, args, limits)) };
  });
  const figures = isMeasured(result)
    ? `${result.seconds.toFixed(3)} s  ${result.tokens_per_second.toFixed(1)} tokens/s  ${result.peak_mb} MB  first after ${result.cold_start_seconds ?? "?"} s`
    : "failed" in result && result.failed;
  const where = `${facts.model}, ${size.batch} × ${size.tokens}`;
  const source = isNew ? "" : "  (from the file)";
  console.log(`${where.padEnd(24)} ${side.padEnd(7)} ${mode.padEnd(23)} ${phase} ${round}  ${figures}${source}`);
  return result;
}

const step = await builtProgram("step");
const peerStep = fileURLToPath(new URL("./peer/peft_step.py", import.meta.url));

async function compareSteps({ folder, ...facts }: Subject, size: Size): Promise<void> {
  const flags = ["--tokens", size.tokens, "--batch", size.batch, "--threads", values.threads].map(String);
  const ourSteps = ourModes.map(({ name, args }) => {
    const all = [step, folder, ...flags, "--steps", values.steps, ...args];
    return { side: "lowrank", mode: name, command: process.execPath, args: all };
  });
  const theirs = ({ name, args }: Mode, steps: string): Contender => {
    const all = [peerStep, folder, ...flags, "--steps", steps, ...args];
    return { side: "peft", mode: name, command: values.python ?? "", args: all };
  };
  const screened: Result[] = [];
  for (const mode of peerModes) screened.push(await result(theirs(mode, "1"), facts, size, "screen", 0));
  const best = fastest(screened.filter(isMeasured).map((line) => summaryOf([line])));
  const peerSteps = peerModes.filter(({ name }) => name === best?.mode).map((mode) => theirs(mode, values.steps));
  await alternate([...ourSteps, ...peerSteps], facts, size, "round");
}

async function alternate(contenders: readonly Contender[], facts: ModelFacts, size: Size, phase: Phase): Promise<void> {
  for (let round = 1; round <= Number(values.rounds); round++) {
    for (const contender of contenders) await result(contender, facts, size, phase, round);
  }
}

for (const make of [ourInstall, ...(values.python ? [() => peerInstall(values.python!)] : [])]) {
  const side = make === ourInstall ? "lowrank" : "peft";
  const isThere = results.lines.some((line) => line.phase === "install" && line.machine === machine && line.side === side);
  if (!isThere) results.add({ machine, phase: "install", ...make() });
}

for (const model of positionals) {
  const subject = await subjectOf(model, values.work);
  if (values.decode) {
    const { folder, ...facts } = subject;
    const contenders = decoders(await builtProgram("decode"), folder, values);
    await alternate(contenders, facts, { batch: 1, tokens: DECODED_TOKENS }, "decode");
  } else for (const size of sizes) await compareSteps(subject, size);
}
if (values.page) writePage(values.page, results.lines);
