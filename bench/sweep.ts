// npm run sweep -- --base BASE --data FILE --eval-data FILE --steps N: held-out loss over a grid of ranks, learning rates and targets.
// Every cell is a run of its own from the same seed; alpha is twice the rank throughout, so that the learning rate alone sets the pace.
// What is compared and how follows the sweeps in the LoRA paper (Hu et al. 2021, section 7).
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { finetune } from "../src/index.ts";

const { values } = parseArgs({
  options: {
    base: { type: "string" },
    data: { type: "string" },
    "eval-data": { type: "string" },
    steps: { type: "string", default: "100" },
    "batch-size": { type: "string", default: "4" },
    ranks: { type: "string", default: "2,8,32" },
    "learning-rates": { type: "string", default: "1e-4,3e-4,1e-3,3e-3" },
    /** Separated by semicolons: each "all-linear" or names with commas between them. */
    targets: { type: "string", default: "all-linear" },
    seed: { type: "string", default: "0" },
    json: { type: "boolean", default: false },
  },
});
const { base, data, "eval-data": evalData } = values;
if (!base || !data || !evalData) {
  console.error(
    'npm run sweep -- --base BASE --data FILE --eval-data FILE [--steps 100] [--batch-size 4] [--ranks 2,8,32] [--learning-rates 1e-4,1e-3] [--targets "all-linear;q_proj,v_proj"] [--seed 0] [--json]',
  );
  process.exit(2);
}

interface Cell {
  targets: string;
  rank: number;
  learningRate: number;
  trainable: number;
  /** Held-out loss in nats a token; null where the run ended in numbers that are none. */
  loss: number | null;
  seconds: number;
}

const numbers = (text: string) => text.split(",").map(Number);
const place = mkdtempSync(path.join(tmpdir(), "lowrank-sweep-"));
const cells: Cell[] = [];
const steps = Number(values.steps);

async function runCell(targets: string, rank: number, learningRate: number): Promise<Cell> {
  const output = path.join(place, String(cells.length));
  const cell: Cell = { targets, rank, learningRate, trainable: 0, loss: null, seconds: 0 };
  const options = { base: base!, data: data!, evalData: evalData!, output, steps, rank, alpha: 2 * rank, learningRate };
  try {
    const run = finetune({
      ...options,
      targetModules: targets.includes(",") ? targets.split(",") : targets,
      batchSize: Number(values["batch-size"]),
      schedule: "cosine",
      warmup: 0.1,
      seed: Number(values.seed),
      checkpointEvery: steps,
      keepCheckpoints: 1,
    });
    for await (const event of run) {
      if (event.type === "prepared") cell.trainable = event.trainable;
      if (event.type === "eval") cell.loss = event.loss;
      if (event.type === "done") cell.seconds = event.seconds;
    }
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "train/non-finite")) throw error;
  }
  rmSync(output, { recursive: true, force: true });
  return cell;
}

try {
  for (const targets of values.targets.split(";"))
    for (const rank of numbers(values.ranks))
      for (const learningRate of numbers(values["learning-rates"])) {
        const cell = await runCell(targets, rank, learningRate);
        cells.push(cell);
        if (values.json) console.log(JSON.stringify(cell));
        else
          console.error(
            `${targets}, rank ${rank}, learning rate ${learningRate}: ${cell.loss?.toFixed(4) ?? "diverged"} (${cell.seconds.toFixed(0)} s)`,
          );
      }
} finally {
  rmSync(place, { recursive: true, force: true });
}

/** The held-out losses as a Markdown table, a row for each rank and set of targets. */
function table(): string {
  const rates = numbers(values["learning-rates"]);
  const rows = [["targets", "rank", "parameters", ...rates.map((rate) => rate.toExponential(0))]];
  rows.push(rows[0]!.map(() => "---"));
  for (let i = 0; i < cells.length; i += rates.length) {
    const line = cells.slice(i, i + rates.length);
    const { targets, rank, trainable } = line[0]!;
    const best = Math.min(...line.map(({ loss }) => loss ?? Number.POSITIVE_INFINITY));
    const losses = line.map(({ loss }) =>
      loss === null ? "diverged" : loss === best ? `**${loss.toFixed(3)}**` : loss.toFixed(3),
    );
    rows.push([targets, String(rank), trainable.toLocaleString("en-US"), ...losses]);
  }
  return rows.map((row) => `| ${row.join(" | ")} |`).join("\n");
}
if (!values.json) console.log(table());
