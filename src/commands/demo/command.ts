// lowrank demo: fine-tunes the embedded base on a task that comes with the package and shows what that changed. Every number is measured here.
import { z } from "zod";
import { stopwatch } from "../../clock.ts";
import { option } from "../../options.ts";
import { besideLine, table, wrap } from "../../terminal/columns.ts";
import { faint, print, printJson, status } from "../../terminal/terminal.ts";
import { bytes, duration, grouped, percent } from "../../units.ts";
import { defineCommand, freeName } from "../command.ts";
import { askedText } from "../eval/answers.ts";
import type { DemoEvent, DemoResult } from "./demo.ts";
import { lossChart } from "./loss-chart.ts";

type Answer = Extract<DemoEvent, { type: "answer" }>;

/** Held-out examples that are shown: the first ones of the file, whatever came out. */
const SHOWN = 3;
const OUTPUT = "lowrank-demo";
const DEFAULT_COLUMNS = 100;
const MAX_COLUMNS = 130;

export const command = defineCommand({
  summary: "fine-tune the embedded model in a minute: free text to JSON, before and after",
  options: {
    output: option(z.string().optional(), { value: "FOLDER", help: "output folder (lowrank-demo, or a free name like it)" }),
  },
  examples: [""],
  async run({ output }, { platform, api, json }) {
    const folder = output ?? (await freeName(platform.files, OUTPUT));
    const elapsed = stopwatch();
    const report = json ? printJson : story();
    for await (const event of api.demo({ output: folder })) {
      if (event.type !== "result") report(event);
      else {
        // The most memory that the process ever had, in kilobytes, engine and weights included.
        const peakMemoryBytes = process.resourceUsage().maxRSS * 1024;
        const totalSeconds = elapsed();
        if (json) printJson({ ...event, peakMemoryBytes, totalSeconds, output: folder });
        else printResult(event, peakMemoryBytes, totalSeconds, folder);
      }
    }
    return 0;
  },
});

/** Prints what happens as it happens. */
function story(): (event: DemoEvent) => void {
  const terminal = process.stderr.isTTY === true;
  const losses: [step: number, loss: number][] = [];
  let steps = 0;
  const given: Answer[] = [];
  return (event) => {
    switch (event.type) {
      case "prepared":
        print("A small language model learns to turn free text into JSON.", "");
        print(`base     embedded, ${grouped(event.parameters)} parameters; it knows such texts, but not this task`);
        print(`data     ${grouped(event.train.count)} examples, ${grouped(event.train.tokens)} tokens (E2E dataset)`);
        print(
          `adapter  LoRA on ${event.modules} linear layers: ${grouped(event.trainable)} trainable parameters, ${percent(event.trainable / event.parameters)} of the base's`,
          "",
        );
        for (const warning of event.warnings) print(`warning: ${warning}`);
        break;
      case "start":
        steps = event.steps;
        if (!terminal) print(`training ${steps} steps …`, "");
        break;
      case "step":
        losses.push([event.step, event.loss]);
        status(`training: step ${event.step} of ${steps}, loss ${event.loss.toFixed(3)}, ${duration(event.etaSeconds)} left`);
        break;
      case "done":
        print(...lossChart(losses, columns()).trim().split("\n"), "");
        break;
      case "answer":
        given.push(event);
        status(`answering held-out texts without and with the adapter: ${given.length}`);
        break;
      case "matches":
        print("Held-out examples, before and after", "");
        for (const answer of given.slice(0, SHOWN)) print(...beside(answer), "");
        break;
    }
  };
}

const columns = (): number => Math.min(MAX_COLUMNS, process.stdout.columns || DEFAULT_COLUMNS);

/** An answer before and after, side by side under the text. */
function beside({ prompt, expected, base, adapter }: Answer): string[] {
  const width = columns();
  const half = Math.floor((width - 7) / 2);
  const left = ["before", ...wrap(base.trim(), half)];
  const right = [
    `after ${adapter === expected ? "✓" : "✗"}`,
    ...wrap(adapter ?? "", half),
    ...(adapter === expected ? [] : ["expected", ...wrap(expected, half)]),
  ];
  const longer = left.length > right.length ? left : right;
  const rows = longer.map((_, i) => `  ${besideLine(left[i], half, right[i])}`);
  return [...wrap(askedText(prompt), width).map(dim), ...rows];
}

function printResult(result: DemoResult, peakMemoryBytes: number, totalSeconds: number, folder: string): void {
  const { heldOut, exactBefore, exactAfter } = result;
  const score = (name: string, exact: number) => [name, `${exact} of ${heldOut}`, percent(exact / heldOut)];
  print(...table([["held-out answers", "exact", "share"], score("before", exactBefore), score("after", exactAfter)]));
  print(
    "",
    `trained    ${grouped(result.trainable)} of ${grouped(result.parameters)} parameters, ${result.steps} steps in ${duration(result.trainSeconds)}`,
  );
  print(`answered   ${2 * heldOut} prompts in ${duration(result.answerSeconds)}; all in all ${duration(totalSeconds)}`);
  print(`memory     ${bytes(peakMemoryBytes)} at its peak`);
  print(`adapter    ${bytes(result.adapterBytes)} in ${folder}/, in PEFT's format`);
  const next = `
What next
  talk to it      npx lowrank chat --base embedded --adapter ${folder}
  your own data   npx lowrank train --base embedded --data yours.csv --eval-split 0.1 --output my-adapter
  a larger model  npx lowrank train --base HuggingFaceTB/SmolLM2-135M-Instruct --data yours.csv --output my-adapter
  yours.csv has a header line and two columns, prompt and completion; JSONL works too: see README.md.`;
  print(...next.split("\n"));
}

/** Text of lesser weight, on a terminal. */
const dim = (text: string): string => (process.stdout.isTTY === true ? faint(text) : text);
