// lowrank init: from a base, data and a goal to a config file that train takes, by flags or by questions on a terminal.
import { existsSync } from "node:fs";
import * as prompts from "@clack/prompts";
import { freeName } from "../../cli/free-name.ts";
import { list, print, printJson } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { writeConfig } from "../../cli/yaml.ts";
import { LowrankError } from "../../errors.ts";
import { nodePlatform } from "../../node.ts";
import { bytes, duration, grouped } from "../../units.ts";
import { resolveAndTell } from "../models/command.ts";
import { type Goal, goals } from "./goals.ts";
import { type Suggestion, suggest } from "./suggest.ts";

interface Answers {
  base: string;
  data: string;
  goal: Goal;
  output: string;
}

interface Options extends Partial<Answers> {
  file: string;
  force?: boolean;
  offline?: boolean;
  evalData?: string;
  promptColumn?: string;
  completionColumn?: string;
  textColumn?: string;
}

/** What the output folder is called if nobody names one. */
const OUTPUT = "my-adapter";

const { files } = nodePlatform;

/** Asks what is not given, looks at base and data, writes the file; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const options = { file: "lowrank.yaml", ...(values as unknown as Partial<Options>) };
  const { file, force = false, offline } = options;
  const missing = (["base", "data", "goal"] as const).filter((name) => options[name] === undefined);
  const asks = process.stdin.isTTY === true && process.stdout.isTTY === true && !json;
  if (missing.length > 0 && !asks) throw unanswered(missing);
  if ((await files.exists(file)) && !force && !(asks && missing.length > 0)) throw exists(file);
  const answers =
    missing.length > 0 ? await ask(options) : { ...(options as Answers), output: options.output ?? freeName(OUTPUT) };
  if (answers === null) return 130;

  const { evalData, promptColumn, completionColumn, textColumn } = options;
  const columns = { promptColumn, completionColumn, textColumn };
  const { base, data, goal, output } = answers;
  for (const path of [data, ...(evalData === undefined ? [] : [evalData])]) await files.size(path);
  const { folder } = await resolveAndTell(base, { offline }, json);
  const found = await suggest({ base: folder, data, goal, evalData, ...columns }, nodePlatform);
  const chosen = { base, data, output, evalData, ...columns, ...found.options };
  await files.write(file, new TextEncoder().encode(writeConfig("train", chosen, introduction(file, found, goal))));
  if (json) printJson({ type: "config", file, goal, ...found, options: chosen });
  else print(`${summary(found)}\n\nwrote ${file}; change in it what you like, then:\n\n  npx lowrank train --config ${file}\n`);
  return 0;
}

/** The questions that flags have not answered; null if the user stops. */
async function ask(given: Partial<Options> & { file: string }): Promise<Answers | null> {
  prompts.intro("lowrank init");
  const answers: Record<string, unknown> = {};
  if ((await files.exists(given.file)) && !given.force) {
    const over = await prompts.confirm({ message: `${given.file} exists. Replace it?`, initialValue: false });
    if (over !== true) return stop();
  }
  for (const [name, question] of Object.entries(questions)) {
    const answer = given[name as keyof Answers] ?? (await question());
    if (prompts.isCancel(answer)) return stop();
    answers[name] = answer;
  }
  prompts.outro("Looking at the base and the data.");
  return answers as unknown as Answers;
}

function stop(): null {
  prompts.cancel("Stopped; nothing was written.");
  return null;
}

const isThere = (file: string | undefined) => (file && existsSync(file) ? undefined : "There is no such file.");

const questions: Record<keyof Answers, () => Promise<unknown>> = {
  base: () =>
    prompts.text({
      message:
        "Which base model? A folder, embedded (comes with lowrank), or owner/name on the hub (downloaded if it is not here)",
      placeholder: "embedded",
      defaultValue: "embedded",
    }),
  data: () => prompts.text({ message: "Which file has your training data?", placeholder: "train.jsonl", validate: isThere }),
  goal: () =>
    prompts.select({
      message: "What shall the model learn?",
      options: Object.entries(goals).map(([value, { what }]) => ({ value, label: what })),
    }),
  output: () =>
    prompts.text({ message: "Which folder gets the adapter?", placeholder: freeName(OUTPUT), defaultValue: freeName(OUTPUT) }),
};

function introduction(file: string, { data, memory, seconds }: Suggestion, goal: Goal): string[] {
  const time = seconds === null ? "" : `, at most ${duration(seconds)}`;
  return [
    `A training run, written by lowrank init. Start it with: npx lowrank train --config ${file}`,
    "Paths start at the folder in which the command is run. A flag on the command line wins over this file.",
    "Options behind # have the value shown, or the default that their comment tells. More: docs/config.md",
    "",
    `Goal: ${goals[goal].what}.`,
    `Data: ${dataText(data)}.`,
    `Estimate on the machine this was written on: ${bytes(memory)} of memory${time}.`,
  ];
}

const kinds = { messages: "conversations", completion: "prompts and completions", text: "plain texts" };

const dataText = ({ records, more, kind, median, longest }: Suggestion["data"]): string =>
  `${more ? "more than " : ""}${grouped(records)} records, ${kinds[kind]}, ${median} tokens in the middle, ${longest} at most`;

function summary({ data, options, parameters, trainableParameters, memory, seconds, warnings }: Suggestion): string {
  const cut = data.cut > 0 ? `; of ${grouped(data.lookedAt)} looked at ${data.cut} will be cut` : "";
  const facts = [
    ["base", `${grouped(parameters)} parameters`],
    ["data", dataText(data)],
    ["read as", `${data.file.format}: ${data.file.used.join(", ")}`],
    ["cut at", `${options.maxLength} tokens${cut}`],
    [
      "held out",
      options.evalSplit === undefined
        ? "nothing: too few records, or a file of their own"
        : `${(100 * options.evalSplit).toPrecision(2)}% for evaluation`,
    ],
    ["adapter", `rank ${options.rank}, ${grouped(trainableParameters)} parameters`],
    [
      "run",
      `${options.epochs} epochs, ${options.batchSize} × ${options.gradientAccumulation} examples a step, learning rate ${options.learningRate}`,
    ],
    ["memory", `about ${bytes(memory)}`],
    ...(seconds === null ? [] : [["time", seconds < 5 ? "a few seconds" : `at most about ${duration(seconds)}`]]),
    ...warnings.map((warning) => ["warning", warning]),
  ];
  return list(facts);
}

const unanswered = (missing: readonly (keyof typeof meanings)[]): LowrankError =>
  new LowrankError("cli/usage", "there is no terminal to ask on", {
    expected: missing.map((name) => `--${name} ${meanings[name]}`).join(", "),
    next: "Give these flags.",
  });

const meanings = {
  base: "MODEL (a folder, embedded, or owner/name on the hub)",
  data: "FILE",
  goal: `GOAL (${Object.keys(goals).join(", ")})`,
};

const exists = (file: string): LowrankError =>
  new LowrankError("cli/exists", "the file exists already", {
    subject: file,
    next: "Choose another name with --file, or replace it with --force.",
  });
