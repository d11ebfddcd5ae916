// Jobs of lowrank train under mpirun: what they are given, what they said, which processes they have.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import type { FinetuneEvent } from "../../src/commands/train/finetune.ts";
import { teamRuns } from "../helpers/team-runs.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { type Ended, type Flavour, mpirun } from "./harness.ts";

export const CLI = "src/cli/main.ts";

const root = temporaryFolder();
let folders = 0;
/** A path below the file's temporary folder that nothing has yet. */
export const newFolder = (name: string): string => `${root}/${name}-${folders++}`;

interface Job {
  flavour: Flavour;
  processes: number;
  config: string;
  output: string;
  args?: readonly string[];
  onOutput?: (text: string) => void;
}

export const train = ({ flavour, processes, config, output, args = [], onOutput }: Job): Promise<Ended> =>
  mpirun(flavour, processes, CLI, ["train", "--config", config, "--output", output, "--json", ...args], { onOutput });

export const eventsOf = ({ stdout }: Ended): FinetuneEvent[] =>
  stdout
    .split(/\r?\n/)
    .filter((line) => line.startsWith('{"type"'))
    .map((line) => JSON.parse(line) as FinetuneEvent);

/** Trains to the end. */
export async function whole(job: Job) {
  const ended = await train(job);
  assert.equal(ended.code, 0, ended.stderr);
  return { events: eventsOf(ended), output: job.output };
}

/** The options of a kind of run as a config file. */
export async function configOf(kind: string, more: object = {}): Promise<string> {
  const folder = newFolder("data");
  await mkdir(folder);
  const file = `${folder}/config.json`;
  await writeFile(file, JSON.stringify({ threads: 1, ...(await teamRuns[kind]!(folder)), ...more }));
  return file;
}

/** Process ids of the job's Node processes: what they train into is on their command lines. */
export function processesOf(output: string): number[] {
  return readdirSync("/proc").flatMap((name) => {
    try {
      const [command = "", ...args] = readFileSync(`/proc/${Number(name)}/cmdline`, "utf8").split("\0");
      return command === process.execPath && args.includes(output) ? [Number(name)] : [];
    } catch {
      return []; // not a process, or one that has ended
    }
  });
}
