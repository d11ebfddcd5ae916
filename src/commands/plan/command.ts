// lowrank plan: what training would take, before anything is downloaded or loaded.
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import { MAX_TEXT_BYTES } from "../../files.ts";
import { parseJsonObject } from "../../formats/json.ts";
import { option } from "../../options.ts";
import { list, table } from "../../terminal/columns.ts";
import { cacheLines, executionText } from "../../terminal/execution.ts";
import { note, print, printJson } from "../../terminal/terminal.ts";
import { bytes, duration, grouped, percent } from "../../units.ts";
import { defineCommand } from "../command.ts";
import { type Plan, plannedOptions } from "./plan.ts";

const STDIN = "standard input";

export const command = defineCommand({
  summary: "estimate what training needs, from config.json alone: modules, parameters, file sizes, memory, time",
  options: {
    model: option(z.string(), {
      help: "a config.json, a checkpoint folder, embedded, a model in the hub's cache, or - for a config.json on standard input",
    }),
    ...plannedOptions,
  },
  argument: "model",
  examples: ["embedded --rank 16 --batch-size 8 --examples 1000"],
  async run({ model, ...options }, { api, json }) {
    const found = await api.plan(model === "-" ? parseJsonObject(await readStdin(), STDIN) : model, options);
    if (json) printJson(found);
    else print(...planLines(found));
    return 0;
  },
});

async function readStdin(): Promise<string> {
  if (process.stdin.isTTY) note("Paste a config.json, then press Ctrl+D on a line of its own.");
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of process.stdin as AsyncIterable<Uint8Array>) {
    size += chunk.length;
    if (size > MAX_TEXT_BYTES) {
      throw new LowrankError("text/size", "too large to be a config.json", {
        subject: STDIN,
        expected: `at most ${bytes(MAX_TEXT_BYTES)}`,
        next: "Give the config.json of a model.",
      });
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function planLines(found: Plan): string[] {
  const { memory, machine, warnings, batchSize, maxLength, device, deviceMemory } = found;
  const parts = [
    ["  base weights", bytes(memory.weights)],
    ["  activations", bytes(memory.activations)],
    ["  trained parameters, gradient, optimizer", bytes(memory.trained)],
    ["  program and engine", bytes(memory.process)],
  ];
  return [
    ...list(facts(found)),
    ...modulesTable(found),
    `peak memory, batch ${batchSize} × ${maxLength} tokens: about ${bytes(memory.total)}${executionText(found)}`,
    ...table(parts),
    ...(deviceMemory === null ? [] : [`of it in the memory of the device ${device}: about ${bytes(deviceMemory)}`]),
    ...cacheLines(found.execution),
    ...(machine ? [`this machine: ${bytes(machine.available)} free, ${bytes(machine.total)} in all`] : []),
    ...warnings.map((warning) => `warning: ${warning}`),
    "",
    "peak memory at other sizes",
    ...memoryTable(found),
    "",
    ...timeLines(found),
    ...clusterLines(found),
  ];
}

function facts({ modelType, method, modules, trainableParameters, baseParameters, resultBytes, outputBytes }: Plan): string[][] {
  const share = `${((100 * trainableParameters) / baseParameters).toPrecision(2)}%`;
  return [
    [`${modelType} model`, `${grouped(baseParameters)} parameters`],
    ["trained", `${grouped(trainableParameters)} parameters, ${method === "full" ? "all" : `${share}, in ${modules} modules`}`],
    [method === "full" ? "model file" : "adapter file", bytes(resultBytes)],
    ["output folder", `up to ${bytes(outputBytes)}, with checkpoints`],
  ];
}

function modulesTable({ groups }: Plan): string[] {
  if (groups.length === 0) return [];
  const rows = groups.map(({ name, inFeatures, outFeatures, rank, count, parameters }) => [
    name,
    ...[inFeatures, outFeatures, rank, count, parameters].map(grouped),
  ]);
  return ["", ...table([["module", "in", "out", "rank", "count", "trained"], ...rows]), ""];
}

/** A row for each length, a column for each batch size; what is more than the machine has free is marked. */
function memoryTable({ memoryAt, machine }: Plan): string[] {
  const sizes = [...new Set(memoryAt.map(({ batchSize }) => batchSize))];
  const lengths = [...new Set(memoryAt.map(({ maxLength }) => maxLength))];
  const isTooMuch = (total: number) => machine !== null && total > machine.available;
  const cell = (length: number, batch: number) => {
    const { total } = memoryAt.find((at) => at.maxLength === length && at.batchSize === batch)!;
    return `${bytes(total)}${isTooMuch(total) ? "*" : " "}`;
  };
  const head = ["tokens", ...sizes.map((size) => `batch ${size} `)];
  const rows = lengths.map((length) => [grouped(length), ...sizes.map((size) => cell(length, size))]);
  const lines = table([head, ...rows]);
  return memoryAt.some(({ total }) => isTooMuch(total)) ? [...lines, "* more than is free now"] : lines;
}

function timeLines({ time, batchSize, gradientAccumulation, maxLength }: Plan): string[] {
  const { secondsPerStep, tokensPerSecond, flopsPerSecond, steps, seconds: all } = time;
  const step = `about ${seconds(secondsPerStep)} a step of ${grouped(batchSize * gradientAccumulation * maxLength)} tokens, ${grouped(Math.round(tokensPerSecond))} tokens/s`;
  const run = steps === null || all === null ? "" : `; ${grouped(steps)} steps in at most ${duration(all)}`;
  return [
    `time: ${step}${run}`,
    `(an estimate: this machine, as busy as it is, multiplies at ${Math.round(flopsPerSecond / 1e9)} GFLOP/s)`,
  ];
}

const seconds = (value: number): string => (value < 10 ? `${value.toPrecision(2)}s` : duration(value));

function clusterLines({ cluster, machine, time, batchSize, gradientAccumulation }: Plan): string[] {
  if (!cluster) return [];
  const { processes, perMachine, machines, network, rows, memoryPerMachine, bytesPerStep } = cluster;
  const { computeSeconds, exchangeSeconds, updateSeconds, secondsPerStep, tokensPerSecond, efficiency } = cluster;
  const link = `${network.bitsPerSecond / 1e9} Gbit/s, ${network.latency * 1e3} ms`;
  const idle = processes - gradientAccumulation * batchSize;
  const tooMuch = machine !== null && memoryPerMachine > machine.total;
  const run = time.steps === null ? "" : `; ${grouped(time.steps)} steps in at most ${duration(time.steps * secondsPerStep)}`;
  return [
    "",
    `${processes} processes, ${perMachine} on each of ${machines} machines like this one${machines > 1 ? ` (${link})` : ""}`,
    ...table([
      ["  memory of a machine", `about ${bytes(memoryPerMachine)}`],
      ["  between machines", `${bytes(bytesPerStep)} a step, each way`],
      ["  rows of a process", `at most ${rows} a step: ${seconds(computeSeconds)}`],
      ["  sums over all processes", seconds(exchangeSeconds)],
      ["  optimizer", seconds(updateSeconds)],
      ["  a step", `${seconds(secondsPerStep)}, ${grouped(Math.round(tokensPerSecond))} tokens/s${run}`],
      ["  efficiency", `${percent(efficiency)} of ${machines} times one machine`],
    ]),
    ...(idle > 0 ? [`warning: ${idle} processes have no row in a step; raise --batch-size`] : []),
    ...(tooMuch ? [`warning: a machine like this one has ${bytes(machine.total)}`] : []),
  ];
}
