// lowrank train: fine-tuning with progress, events as JSON, and interruption without loss.
import { pace } from "../../clock.ts";
import { LowrankError, withNext } from "../../errors.ts";
import { figuresText } from "../../report/facts.ts";
import { dataLines, readingLine, recognizedText } from "../../terminal/data.ts";
import { cacheLines, convertingLine, executionText } from "../../terminal/execution.ts";
import { stoppable } from "../../terminal/signals.ts";
import { note, print, printError, printJson, status } from "../../terminal/terminal.ts";
import { runOptions } from "../../train/options.ts";
import { resumeCommand } from "../../train/run-file.ts";
import { bytes, duration, grouped, oneLine, percent } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { type FinetuneEvent, finetune } from "./finetune.ts";

type Prepared = Extract<FinetuneEvent, { type: "prepared" }>;
type StepEvent = Extract<FinetuneEvent, { type: "step" }>;
type Sample = Extract<FinetuneEvent, { type: "samples" }>["samples"][number];
type DoneEvent = Extract<FinetuneEvent, { type: "done" }>;

/** Most characters that are shown of a sample's texts; metrics.jsonl has them whole. */
const SAMPLE_CHARS = 160;

/** Without a terminal, steps are printed about this often. */
const PLAIN_SECONDS = 10;

export const command = defineCommand({
  summary: "fine-tune a model on a data file",
  options: runOptions,
  examples: [
    "--base embedded --data train.jsonl --eval-split 0.1 --output my-adapter",
    "--config lowrank.yaml --epochs 1",
    "--resume --output my-adapter",
  ],
  required: ({ resume }) => (resume ? ["output"] : ["base", "data", "output"]),
  processes: true,
  async run(options, { platform, api, json }) {
    const report = json ? printJson : progress(platform.team !== undefined);
    let started = false;
    let stopped = false;
    /** The newest checkpoint that this process has heard of. */
    let saved: { step: number; folder: string | null } | undefined;
    const newest = () => (saved ? `; the newest checkpoint is ${saved.folder ?? `that of step ${saved.step}`}` : "");
    // A terminal that is closed, or a reader that goes away, is no reason to lose what was trained.
    const interrupted = await stoppable(
      () => (started ? `Finishing the step and saving${newest()}.` : "Stopping."),
      async ({ signal, status }) => {
        try {
          for await (const event of finetune({ ...options, signal }, platform)) {
            report(event);
            started ||= event.type === "start";
            if (event.type === "start")
              saved = event.resumedFrom === null ? undefined : { step: event.step, folder: event.resumedFrom };
            if (event.type === "checkpoint") saved = event;
            if (event.type === "done") stopped = event.stopped;
          }
        } catch (error) {
          // One of several processes fails, and all end.
          if (!(platform.team && started && error instanceof LowrankError)) throw error;
          throw withNext(error, `Resume with: ${resumeCommand(options.output)}${newest()}.`);
        }
        return status();
      },
    );
    // Of several processes one has the folder; to a launcher any status but 0 is a failure of the job.
    if ((platform.team?.rank ?? 0) > 0) return 0;
    // The run is safe without its report, so that a failure is reported and no more.
    try {
      note(`report: ${await api.reportRuns({ folders: [options.output] })}`);
    } catch (error) {
      printError(error, false);
    }
    if (stopped) note(`Resume with: ${resumeCommand(options.output)}`);
    return stopped && !platform.team ? interrupted : 0;
  },
});

/** Prints events for people: one line that is rewritten on a terminal, a line now and then elsewhere. */
function progress(isJob: boolean): (event: FinetuneEvent) => void {
  let steps = 0;
  const isTime = pace(PLAIN_SECONDS, true);
  /** What is soon out of date: a line that is rewritten, or a line now and then. */
  const passing = (text: string, isLast = false) => {
    if (status(text)) return;
    if (isTime() || isLast) print(text);
  };
  return (event) => {
    switch (event.type) {
      case "reading":
        passing(readingLine(event));
        break;
      case "converting":
        passing(convertingLine(event));
        break;
      case "prepared": {
        const hundredths = (100 * event.trainable) / event.parameters;
        const share = hundredths < 10 ? hundredths.toPrecision(2) : grouped(Math.round(hundredths));
        const what = event.modules === null ? "every weight" : `${event.modules} modules`;
        print(`training ${grouped(event.trainable)} parameters (${what}), ${share}% of ${grouped(event.parameters)}`);
        if (event.train.file) print(`${event.train.file.path}: ${recognizedText(event.train.file)}`);
        print(...dataLines("data", event.train), ...paddingLines(event.padding));
        print(`memory: about ${bytes(event.memory.total)} at its peak${executionText(event)}`);
        print(`disk: up to ${bytes(event.disk)}`, ...cacheLines(event.execution));
        print(...event.warnings.map((warning) => `warning: ${warning}`));
        if (event.eval) print(...dataLines("evaluation", event.eval));
        break;
      }
      case "start":
        steps = event.steps;
        if (event.resumedFrom) print(`going on from step ${event.step} of ${event.steps}: ${event.resumedFrom}`);
        break;
      case "step":
        passing(stepLine(event, steps), event.step === steps);
        break;
      case "eval":
        print(`step ${event.step}: evaluation loss ${event.loss.toFixed(4)}${figuresText(event)}`);
        break;
      case "checkpoint":
        // A launcher kills all processes when one is killed: what to go on from has to be said before.
        if (isJob) print(`saved ${event.folder}`);
        break;
      case "samples":
        print(...event.samples.flatMap(sampleLines));
        break;
      case "done":
        if (!event.stopped && event.best && event.best.step !== event.step) print(bestLine(event.best, event));
        print(`${endOf(event)} at step ${event.step} after ${duration(event.seconds)}: ${event.folder}`);
    }
  };
}

/** How much of the batches is padding, where the order of rows makes a difference. */
function paddingLines({ share, otherwise }: Prepared["padding"]): string[] {
  if (percent(share) === percent(otherwise)) return [];
  const other = share < otherwise ? "shuffled alone" : "with rows grouped by length";
  return [`  padding: ${percent(share)} of the tokens of batches; ${percent(otherwise)} ${other}`];
}

/** A prompt's end, what was expected and what the adapter wrote, one line each. */
function sampleLines({ prompt, expected, text }: Sample): string[] {
  const end = oneLine(prompt);
  return [
    `  prompt:   ${end.length > SAMPLE_CHARS ? `…${end.slice(-SAMPLE_CHARS)}` : end}`,
    `  expected: ${oneLine(expected, SAMPLE_CHARS)}`,
    `  written:  ${oneLine(text, SAMPLE_CHARS)}`,
  ];
}

const endOf = ({ stopped, early }: DoneEvent): string =>
  stopped ? "stopped" : early ? "done, since evaluations got no better," : "done";

/** Which evaluation was the best, and how to get what had it. */
function bestLine(best: NonNullable<DoneEvent["best"]>, { result, step, folder }: DoneEvent): string {
  const what = `the best evaluation was at step ${best.step}, loss ${best.loss.toFixed(4)}`;
  if (result === best.step) return `${what}: the result is the one of that step`;
  const command = resumeCommand(folder!, " --load-best");
  return `${what}; the result is the one of step ${step}. ${folder}/checkpoint-${best.step} is an adapter too; to make it the result: ${command}`;
}

/** Percent of a step. */
const LEAST_WAITING = 5;

const rateOf = (examples: number, seconds: number): string =>
  `${seconds > 0 ? Number((examples / seconds).toPrecision(3)) : 0} examples/s`;

/** What a step lost by waiting for weights that stream, where it is worth a word. */
function waitingOf({ seconds, waitedSeconds = 0 }: StepEvent): string {
  const share = seconds > 0 ? Math.round((100 * waitedSeconds) / seconds) : 0;
  return share < LEAST_WAITING ? "" : `, ${share} % of it waiting for weights`;
}

function stepLine(event: StepEvent, steps: number): string {
  const memory = event.memoryBytes === null ? "" : `, ${bytes(event.memoryBytes)}`;
  const rate =
    event.examples === undefined ? `${Math.round(event.tokensPerSecond)} tokens/s` : rateOf(event.examples, event.seconds);
  const speed = `${rate}, ${duration(event.etaSeconds)} left`;
  return `step ${event.step}/${steps}: loss ${event.loss.toFixed(4)}, ${speed}${memory}${waitingOf(event)}`;
}
