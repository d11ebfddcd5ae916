// The table of commands: a line for each folder below src/commands. A command's code is loaded when it runs, or when help lists all.
import type { Command } from "../commands/command.ts";

const table: Record<string, () => Promise<{ command: Command }>> = {
  demo: () => import("../commands/demo/command.ts"),
  preview: () => import("../commands/preview/command.ts"),
  train: () => import("../commands/train/command.ts"),
  sweep: () => import("../commands/sweep/command.ts"),
  plan: () => import("../commands/plan/command.ts"),
  eval: () => import("../commands/eval/command.ts"),
  generate: () => import("../commands/generate/command.ts"),
  chat: () => import("../commands/chat/command.ts"),
  classify: () => import("../commands/classify/command.ts"),
  embed: () => import("../commands/embed/command.ts"),
  merge: () => import("../commands/merge/command.ts"),
  unmerge: () => import("../commands/unmerge/command.ts"),
  certify: () => import("../commands/certify/command.ts"),
  combine: () => import("../commands/combine/command.ts"),
  extract: () => import("../commands/extract/command.ts"),
  resize: () => import("../commands/resize/command.ts"),
  convert: () => import("../commands/convert/command.ts"),
  inspect: () => import("../commands/inspect/command.ts"),
  verify: () => import("../commands/verify/command.ts"),
  report: () => import("../commands/report/command.ts"),
  init: () => import("../commands/init/command.ts"),
  push: () => import("../commands/push/command.ts"),
  download: () => import("../commands/download/command.ts"),
  runs: () => import("../commands/runs/command.ts"),
  cache: () => import("../commands/cache/command.ts"),
};

/** The commands by their names: the one called `only` if there is one, or all. */
export async function loadCommands(only?: string): Promise<Record<string, Command>> {
  const names = only !== undefined && Object.hasOwn(table, only) ? [only] : Object.keys(table);
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, (await table[name]!()).command] as const)));
}
