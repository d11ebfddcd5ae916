// Finds the goldens below a folder and runs each: ok, FAIL or skip, one line a case.
import { readdir, realpath, stat } from "node:fs/promises";
import path from "node:path";
import { LowrankError } from "../../src/errors.ts";
import { readJsonObject } from "../../src/formats/json.ts";
import type { BaseDtype } from "../../src/graph/pack.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import type { OpenSession } from "../../src/runtime/session.ts";
import { runAlgebraCase } from "./algebra-case.ts";
import { type Finding, oneLine } from "./compare.ts";
import { runMixedCase } from "./mixed-case.ts";
import { runModelCase } from "./model-case.ts";
import { isRealRun, runRealRun } from "./real-run.ts";

export interface OracleOptions {
  /** Folder of the base checkpoint of goldens that do not carry theirs. */
  base?: string;
  /** What the base of a real run is kept in while it is trained. Default: float32. */
  baseDtype?: BaseDtype;
  /** In how many ways the training graph of a model case is executed. Default: all. */
  executions?: "all" | "one";
  /** The engine that model cases run on. Default: the processor. */
  openSession?: OpenSession;
}

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export type Outcome = { status: "ok" | "FAIL" | "skip"; text: string };

/** A reason not to run a case. */
class Skip extends Error {}

type Runner = (folder: string, meta: Record<string, unknown>, options: OracleOptions) => Promise<Finding[]>;

/** By the `kind` of a meta.json. */
const runners: Record<string, Runner> = {
  model: runModelCase,
  algebra: runAlgebraCase,
  mixed: runMixedCase,
};

/** Refusals of what is known and not built. */
const UNBUILT = new Set(["model/unsupported", "lora/unsupported"]);

/** Runs every case found at or below `root`, in the order of their paths; `print` gets a line a case, then the counts. */
export async function runOracle(root: string, options: OracleOptions, print: (line: string) => void): Promise<Counts> {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const folder of await findCases(root)) {
    const name = path.relative(root, folder) || path.basename(path.resolve(root));
    const { status, text } = await runCase(folder, options);
    counts[({ ok: "passed", FAIL: "failed", skip: "skipped" } as const)[status]]++;
    print(status === "ok" ? `ok ${name}  ${text}` : `${status} ${name}: ${text}`);
  }
  print(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  return counts;
}

/** Runs the golden in `folder`. Never throws: whatever goes wrong is a failure of the case. */
export async function runCase(folder: string, options: OracleOptions): Promise<Outcome> {
  try {
    const meta = await readJsonObject(nodeFiles, `${folder}/meta.json`);
    const findings = await runnerOf(meta)(folder, meta, options);
    const wrong = findings.filter(({ ok }) => !ok);
    if (wrong.length > 0) return { status: "FAIL", text: wrong.map(({ what, text }) => `${what}: ${text}`).join("; ") };
    return {
      status: "ok",
      text: findings
        .filter(({ text }) => text)
        .map(({ what, text }) => `${what} ${text}`)
        .join(", "),
    };
  } catch (error) {
    if (error instanceof Skip) return { status: "skip", text: error.message };
    const unbuilt = error instanceof LowrankError && UNBUILT.has(error.code);
    return { status: unbuilt ? "skip" : "FAIL", text: oneLine(error).replaceAll(`${folder}/`, "") };
  }
}

function runnerOf(meta: Record<string, unknown>): Runner {
  if (isRealRun(meta)) {
    return (folder, _, { base, baseDtype }) => {
      if (base === undefined) throw new Skip("give the folder of its base model with --base");
      return runRealRun(folder, meta, base, baseDtype);
    };
  }
  const { kind } = meta;
  if (typeof kind !== "string") throw new LowrankError("oracle/meta", "meta.json has no kind, and is not that of a real run");
  if (!Object.hasOwn(runners, kind)) throw new Skip(`the kind ${JSON.stringify(kind)} is not built yet`);
  return runners[kind]!;
}

/** Folders with a meta.json, links followed, each once. */
async function findCases(root: string): Promise<string[]> {
  const found: string[] = [];
  const seen = new Set<string>();
  const visit = async (folder: string): Promise<void> => {
    const real = await realpath(folder);
    if (seen.has(real)) return;
    seen.add(real);
    for (const name of (await readdir(folder)).sort()) {
      const entry = path.join(folder, name);
      const kind = await stat(entry).catch(() => null); // a link to nothing
      if (kind?.isDirectory()) await visit(entry);
      else if (kind && name === "meta.json") found.push(folder);
    }
  };
  await visit(root);
  return found;
}
