// npm run bench -- MODEL_DIR [--tokens N] [--batch N] [--threads N] [--peer CMD] [--rounds N] [--json]
// Runs bench/step.ts, and with --peer also `CMD MODEL_DIR --tokens N --batch N`, which prints one JSON line with
// tokens_per_second and rss_mb. The two alternate in processes of their own; ratios are of medians, ours over the peer's.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { median } from "./median.ts";

interface Measurement {
  seconds: number;
  tokens_per_second: number;
  rss_mb: number;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: "string", default: "512" },
    batch: { type: "string", default: "1" },
    threads: { type: "string" },
    rounds: { type: "string", default: "3" },
    peer: { type: "string" },
    json: { type: "boolean", default: false },
  },
});
const model = positionals[0];
if (!model) {
  console.error("npm run bench -- MODEL_DIR [--tokens 512] [--batch 1] [--threads N] [--peer CMD] [--rounds 3] [--json]");
  process.exit(2);
}

const sizes = ["--tokens", values.tokens, "--batch", values.batch];
const threads = values.threads ? ["--threads", values.threads] : [];
const step = fileURLToPath(new URL("./step.ts", import.meta.url));

/** Runs a command and reads the last line of its output as JSON. */
function measure(command: string, args: readonly string[], shell: boolean): Promise<Measurement> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { shell, stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (chunk) => {
      output += chunk;
    });
    child.on("error", reject);
    child.on("close", (code) => {
      const line = output.trim().split("\n").at(-1) ?? "";
      try {
        if (code !== 0) throw new Error(`exit code ${code}`);
        resolve(JSON.parse(line) as Measurement);
      } catch (cause) {
        reject(new Error(`${command}: ${cause instanceof Error ? cause.message : cause}; its last line was: ${line}`));
      }
    });
  });
}

/** One argument as a POSIX shell reads it back. */
const quoted = (argument: string) => `'${argument.replaceAll("'", `'\\''`)}'`;

const contenders: Record<string, () => Promise<Measurement>> = {
  lowrank: () => measure(process.execPath, ["--import", "tsx", step, model, ...sizes, ...threads], false),
};
if (values.peer) {
  const command = [values.peer, ...[model, ...sizes].map(quoted)].join(" ");
  contenders["peer"] = () => measure(command, [], true);
}

const results: Record<string, Measurement[]> = {};
for (let round = 0; round < Number(values.rounds); round++) {
  for (const [name, run] of Object.entries(contenders)) {
    const result = await run();
    results[name] = [...(results[name] ?? []), result];
    if (!values.json) {
      console.log(
        `${name.padEnd(8)} ${result.seconds.toFixed(3)} s/step  ${result.tokens_per_second.toFixed(1)} tokens/s  ${result.rss_mb} MB peak`,
      );
    }
  }
}

const medians = Object.fromEntries(
  Object.entries(results).map(([name, runs]) => [
    name,
    {
      ...runs.at(-1),
      seconds: median(runs.map((run) => run.seconds)),
      tokens_per_second: median(runs.map((run) => run.tokens_per_second)),
      rss_mb: median(runs.map((run) => run.rss_mb)),
      rounds: runs.length,
    },
  ]),
);
const { lowrank: ours, peer } = medians;
const ratio = peer && {
  tokensPerSecond: ours!.tokens_per_second / peer.tokens_per_second,
  peakMemory: ours!.rss_mb / peer.rss_mb,
};
if (values.json) console.log(JSON.stringify({ lowrank: ours, peer, ratio }));
else if (ratio)
  console.log(`ratio    ${ratio.tokensPerSecond.toFixed(2)} x the tokens/s, ${ratio.peakMemory.toFixed(2)} x the peak memory`);
