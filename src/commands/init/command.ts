// lowrank init: from a base, data and a goal to a config file that train takes, by flags or by questions on a terminal.
import { existsSync } from "node:fs";
import * as prompts from "@clack/prompts";
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import { checkOutputFile, type Files } from "../../files.ts";
import { option, pick, reworded } from "../../options.ts";
import { list } from "../../terminal/columns.ts";
import { resolveAndReport } from "../../terminal/download.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { runOptions } from "../../train/options.ts";
import { bytes, duration, grouped } from "../../units.ts";
import { base, defineCommand, freeName } from "../command.ts";
import { writeConfig } from "../config-file.ts";
import { type Goal, goals, type Suggestion, type SuggestOptions, suggest } from "./suggest.ts";

type Answers = Pick<SuggestOptions, "base" | "data" | "goal"> & { output: string };

/** What the config file is called if nobody names one. */
const FILE = "lowrank.yaml";
/** What the output folder is called if nobody names one. */
const OUTPUT = "my-adapter";

export const command = defineCommand({
  summary: "write a config file for train, from a base, data and a goal; asks for what is not given",
  options: {
    base: reworded(base.optional(), { model: false }),
    data: option(z.string().optional(), { value: "FILE", help: "the training records" }),
    goal: option(z.enum(Object.keys(goals) as Goal[]).optional(), {
      value: "GOAL",
      help: "what the model is to learn: sets rank, learning rate and epochs",
    }),
    output: option(z.string().optional(), { value: "FOLDER", help: "output folder (my-adapter)" }),
    evalData: reworded(runOptions.evalData, { help: "records to evaluate on (a share of the data)" }),
    ...pick(runOptions, "promptColumn", "completionColumn", "textColumn"),
    file: option(z.string().default(FILE), { value: "FILE", help: "the config file to write" }),
    force: option(z.boolean().optional(), { help: "replace the file if it exists" }),
    offline: option(z.boolean().optional(), { help: "do not contact the hub" }),
  },
  examples: ["", "--base embedded --data train.jsonl --goal structured"],
  async run(values, { platform, json }) {
    const { file = FILE, force = false, offline } = values;
    const { files } = platform;
    const missing = (["base", "data", "goal"] as const).filter((name) => values[name] === undefined);
    const asks = process.stdin.isTTY === true && process.stdout.isTTY === true && !json;
    if (missing.length > 0 && !asks) throw unanswered(missing);
    const { evalData } = values;
    await checkOutputFile(files, file, { force: force || (asks && missing.length > 0), inputs: [values.data, evalData] });
    const given = { ...(values as Answers), output: values.output ?? (await freeName(files, OUTPUT)) };
    const answers = missing.length > 0 ? await ask(values, file, files) : given;
    if (answers === null) return 130;

    const { promptColumn, completionColumn, textColumn } = values;
    const columns = { promptColumn, completionColumn, textColumn };
    const { base, data, goal, output } = answers;
    for (const path of [data, ...(evalData === undefined ? [] : [evalData])]) await files.size(path);
    const { folder } = await resolveAndReport(base, { offline }, json);
    await checkOutputFile(files, file, { force: true, inputs: [folder, data] });
    const found = await suggest({ base: folder, data, goal, evalData, ...columns }, platform);
    const chosen = { base, data, output, evalData, ...columns, ...found.options };
    await files.write(file, new TextEncoder().encode(writeConfig(runOptions, chosen, introduction(file, found, goal))));
    if (json) printJson({ type: "config", file, goal, ...found, options: chosen });
    else
      print(
        ...summary(found),
        ...["", `wrote ${file}; change in it what you like, then:`, "", `  npx lowrank train --config ${file}`, ""],
      );
    return 0;
  },
});

/** The questions that flags have not answered; null if the user stops. */
async function ask(given: Partial<Answers> & { force?: boolean }, file: string, files: Files): Promise<Answers | null> {
  prompts.intro("lowrank init");
  const answers: Record<string, unknown> = {};
  if ((await files.exists(file)) && !given.force) {
    const over = await prompts.confirm({ message: `${file} exists. Replace it?`, initialValue: false });
    if (over !== true) return stop();
  }
  for (const [name, question] of Object.entries(questions)) {
    const answer = given[name as keyof Answers] ?? (await question(files));
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

const questions: Record<keyof Answers, (files: Files) => Promise<unknown>> = {
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
  output: async (files) => {
    const free = await freeName(files, OUTPUT);
    return prompts.text({ message: "Which folder gets the adapter?", placeholder: free, defaultValue: free });
  },
};

function introduction(file: string, { data, memory, seconds }: Suggestion, goal: Goal): string[] {
  const time = seconds === null ? "" : `, at most ${duration(seconds)}`;
  return [
    `A training run, written by lowrank init. Start it with: npx lowrank train --config ${file}`,
    "Paths start at the folder in which the command is run. A flag on the command line wins over this file.",
    "Options behind # have the value shown, or the default in their comment. More: docs/config.md",
    "",
    `Goal: ${goals[goal].what}.`,
    `Data: ${dataText(data)}.`,
    `Estimate on the machine this was written on: ${bytes(memory)} of memory${time}.`,
  ];
}

const kinds = { messages: "conversations", completion: "prompts and completions", text: "plain texts" };

const dataText = ({ records, more, kind, median, longest }: Suggestion["data"]): string =>
  `${more ? "more than " : ""}${grouped(records)} records, ${kinds[kind]}, ${median} tokens in the middle, ${longest} at most`;

function summary({ data, options, parameters, trainableParameters, memory, seconds, warnings }: Suggestion): string[] {
  const cut = data.cut > 0 ? `; of ${grouped(data.lookedAt)} looked at ${data.cut} will be cut` : "";
  const share = options.evalSplit && (100 * options.evalSplit).toPrecision(2);
  const step = `${options.batchSize} × ${options.gradientAccumulation} examples a step`;
  const facts = [
    ["base", `${grouped(parameters)} parameters`],
    ["data", dataText(data)],
    ["read as", `${data.file.format}: ${data.file.used.join(", ")}`],
    ["cut at", `${options.maxLength} tokens${cut}`],
    ["held out", share === undefined ? "nothing: too few records, or a file of their own" : `${share}% for evaluation`],
    ["adapter", `rank ${options.rank}, ${grouped(trainableParameters)} parameters`],
    ["run", `${options.epochs} epochs, ${step}, learning rate ${options.learningRate}`],
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
