// lowrank sweep: settings from data within a time, with progress, a report and the command that trains the winner.
import { pace } from "../../clock.ts";
import type { Files } from "../../files.ts";
import { sweepOptions } from "../../sweep/options.ts";
import { lossTable } from "../../sweep/outcome.ts";
import { readSweep } from "../../sweep/record.ts";
import { placeText, settingsText } from "../../sweep/space.ts";
import { table } from "../../terminal/columns.ts";
import { stoppable } from "../../terminal/signals.ts";
import { note, print, printError, printJson, status } from "../../terminal/terminal.ts";
import { bytes, duration } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { type SweepEvent, sweep } from "./sweep.ts";

type TrialEvent = Extract<SweepEvent, { type: "trial" }>;
type PlanEvent = Extract<SweepEvent, { type: "plan" }>;
type RungEvent = Extract<SweepEvent, { type: "rung" }>;

/** Without a terminal, steps are printed about this often. */
const PLAIN_SECONDS = 30;

export const command = defineCommand({
  summary: "choose learning rate, rank, targets and method by training, within a time",
  options: sweepOptions,
  examples: [
    "--base embedded --data train.jsonl --output my-sweep",
    "--base embedded --data train.jsonl --eval-data test.jsonl --minutes 10 --ranks 4,16 --methods lora,rslora --output my-sweep",
    "--base embedded --data train.jsonl --grid --steps 60 --learning-rates 1e-3,3e-3 --seeds 0,1,2 --output my-grid",
    "--resume --output my-sweep",
  ],
  processes: true,
  required: ({ resume }) => (resume ? ["output"] : ["base", "data", "output"]),
  async run(options, { platform, api, json }) {
    const report = json ? printJson : progress();
    let isStopped = false;
    let isOver = false;
    const interrupted = await stoppable(
      () => "Finishing the step and saving.",
      async (stopping) => {
        for await (const event of sweep({ ...options, signal: stopping.signal }, platform)) {
          report(event);
          isStopped = event.type === "stopped" || (event.type === "done" && event.stopped);
          isOver ||= event.type === "done" && event.ended === "budget";
        }
        return stopping.status();
      },
    );
    // Of several processes one speaks; to a launcher any status but 0 is a failure of the job.
    if ((platform.team?.rank ?? 0) > 0) return 0;
    if (options.grid && !json) print(...(await markdown(platform.files, options.output)));
    try {
      note(`report: ${await api.reportRuns({ folders: [options.output] })}`);
    } catch (error) {
      printError(error, false);
    }
    if (isStopped || isOver)
      note(`Resume with: npx lowrank sweep --resume${isOver ? " --minutes MORE" : ""} --output ${options.output}`);
    return isStopped && !platform.team ? interrupted : 0;
  },
});

/** Prints events for people: one line that is rewritten on a terminal, a line now and then elsewhere. */
function progress(): (event: SweepEvent) => void {
  /** The trials that are begun, by their places. */
  const trials = new Map<number, TrialEvent>();
  const isTime = pace(PLAIN_SECONDS, true);
  return (event) => {
    switch (event.type) {
      case "measuring":
        print("measuring the time of a step");
        break;
      case "plan":
        print(...planLines(event));
        break;
      case "trial":
        trials.set(event.trial, event);
        break;
      case "step": {
        const { number, count, together, phase, settings, to, steps } = trials.get(event.trial)!;
        const others = together > 1 ? ` of ${together} at a time` : "";
        const memory = event.memoryBytes === null ? "" : `, ${bytes(event.memoryBytes)}`;
        const line = `${phase}, trial ${number}/${count}${others}: ${settingsText(settings)}, step ${event.step}/${to} of ${steps}: loss ${event.loss.toFixed(4)}, ${duration(event.secondsLeft)} left${memory}`;
        if (!status(line) && isTime()) print(line);
        break;
      }
      case "failure":
        print(`  trial ${event.trial + 1} ended: ${event.message}`);
        break;
      case "rung":
        print("", ...rungLines(event));
        break;
      case "stopped":
        print(`stopped after ${duration(event.spent)}, before anything could be compared`);
        break;
      case "done":
        print("", ...event.why, "", "To train it:", "", `  ${event.command}`, "");
        print(
          `${event.stopped ? "stopped" : event.ended === "budget" ? "done, the time is over," : "done"} after ${duration(event.spent)}`,
        );
    }
  };
}

function planLines({ phases, plan, measured, limit, groups, processes }: PlanEvent): string[] {
  const { step, evaluation } = measured;
  const total = plan.seconds.reduce((sum, seconds) => sum + seconds, 0);
  const rows = phases.map((phase, i) => [phase, String(plan.counts[i]), duration(plan.seconds[i]!)]);
  const compared = plan.rungs.length > 1 ? `, compared at steps ${plan.rungs.join(", ")}` : "";
  return [
    `a step takes ${step.toPrecision(2)} s, an evaluation ${evaluation.toPrecision(2)} s`,
    `trials of ${plan.steps} steps${compared}: about ${duration(total)}${limit === null ? "" : ` of ${duration(limit)}`}`,
    ...(groups * processes > 1
      ? [`${groups} trial${groups > 1 ? "s" : ""} at a time, each in ${processes} process${processes > 1 ? "es" : ""}`]
      : []),
    ...table([["phase", "settings", "time"], ...rows]),
  ];
}

function rungLines({ phase, step, cells }: RungEvent): string[] {
  const rows = cells.map(({ settings, loss }) => [
    placeText(settings),
    String(settings.learningRate),
    loss?.toFixed(4) ?? "diverged",
  ]);
  return [`${phase}, step ${step}`, ...table([["settings", "learning rate", "loss"], ...rows])];
}

/** The losses at the end as a Markdown table, the lowest of each row in bold. */
async function markdown(files: Files, folder: string): Promise<string[]> {
  const { rates, rows } = lossTable(await readSweep(files, folder));
  const lines = rows.map(({ place, losses }) => {
    const lowest = Math.min(...losses.flatMap((loss) => loss ?? []));
    return [place, ...losses.map((loss) => (loss === null ? "–" : loss === lowest ? `**${loss.toFixed(3)}**` : loss.toFixed(3)))];
  });
  return [
    "",
    ...[["settings", ...rates.map(String)], ["---", ...rates.map(() => "---")], ...lines].map((row) => `| ${row.join(" | ")} |`),
  ];
}
