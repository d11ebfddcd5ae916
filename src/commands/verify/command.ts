// lowrank verify: whether the files of a folder are as they were written.
import { z } from "zod";
import { pace, stopwatch } from "../../clock.ts";
import { option } from "../../options.ts";
import { note, print, printJson, status } from "../../terminal/terminal.ts";
import { bytes, duration, grouped, oneLine } from "../../units.ts";
import { defineCommand } from "../command.ts";
import type { FileState, VerifyEvent } from "./verify.ts";

/** Seconds between two lines of progress: on a terminal, in JSON, and elsewhere. */
const SECONDS = { terminal: 0.2, json: 1, plain: 10 };
/** Files without anything to compare with that are named. */
const MAX_NAMED = 8;

const words: Record<FileState, string> = { ok: "ok", damaged: "damaged", missing: "missing", unlisted: "not listed" };

export const command = defineCommand({
  summary: "check the files of an adapter, a checkpoint, a run, a model or the hub's cache",
  options: {
    folder: option(z.string(), {
      help: "the folder, or the name of a model that is on this machine; exit status 1 if a file is damaged or missing",
    }),
  },
  argument: "folder",
  examples: ["my-adapter", "~/.cache/huggingface/hub"],
  async run({ folder }, { api, json }) {
    const isDue = pace(json ? SECONDS.json : process.stderr.isTTY ? SECONDS.terminal : SECONDS.plain);
    const elapsed = stopwatch();
    const others: string[] = [];
    let wrong = 0;
    for await (const event of api.verify(folder)) {
      if (event.type === "file" && event.state === "unlisted") others.push(event.file);
      if (event.type === "done") wrong = event.damaged + event.missing;
      if (event.type === "verifying" && !isDue()) continue;
      if (json) printJson(event);
      else if (event.type === "verifying") {
        const line = progressLine(event, elapsed());
        if (!status(line)) note(line);
      } else if (event.type === "done") print(...summary(event, others));
      else if (event.state === "damaged" || event.state === "missing") {
        const { file, state, reason } = event;
        print(`${words[state]}: ${oneLine(file, 300)}${reason ? ` (${oneLine(reason, 300)})` : ""}`);
      }
    }
    return wrong > 0 ? 1 : 0;
  },
});

function progressLine({ file, done, bytes: all }: Extract<VerifyEvent, { type: "verifying" }>, seconds: number): string {
  const rate = done / Math.max(seconds, 1e-3);
  const share = `${Math.floor((100 * done) / Math.max(1, all))}%, ${bytes(done)} of ${bytes(all)}`;
  return `${share}, ${bytes(rate)}/s, ${duration((all - done) / rate)} left  ${oneLine(file, 100)}`;
}

function summary(done: Extract<VerifyEvent, { type: "done" }>, others: readonly string[]): string[] {
  const states = Object.keys(words) as FileState[];
  const counts = states.filter((state) => done[state] > 0).map((state) => `${grouped(done[state])} ${words[state]}`);
  const named = others.slice(0, MAX_NAMED).map((name) => oneLine(name, 100));
  const rest = others.length > named.length ? ", …" : "";
  const lines = [`${done.kind}, ${bytes(done.bytes)} read: ${counts.join(", ")}`];
  if (named.length > 0) lines.push(`not listed, so that nothing says what it should be: ${named.join(", ")}${rest}`);
  return lines;
}
