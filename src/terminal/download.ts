// The folder of a model, with the progress of its download on the terminal.
import { pace } from "../clock.ts";
import { resolveModel } from "../hub/reference.ts";
import type { HubEvent, HubOptions, ModelFolder } from "../platform/platform.ts";
import { bytes, duration } from "../units.ts";
import { note, printJson, status } from "./terminal.ts";

/** Seconds between two lines of progress where lines are not rewritten. */
const PLAIN_SECONDS = { text: 10, json: 1 };

/** The folder of a model, with progress where it is downloaded. Ctrl+C ends the process; what has come stays. */
export async function resolveAndReport(reference: string, options: HubOptions, json: boolean): Promise<ModelFolder> {
  const isDue = sparse(json ? PLAIN_SECONDS.json : PLAIN_SECONDS.text);
  const stop = () => {
    note("", "Stopped. Run the same again: the download resumes where it stopped.");
    process.exit(130);
  };
  const onEvent = (event: HubEvent): void => {
    if (event.type === "download") process.once("SIGINT", stop);
    if (!json) printEvent(event, isDue);
    else if (isDue(event)) printJson(event);
  };
  try {
    return await resolveModel(reference, { ...options, onEvent });
  } finally {
    process.off("SIGINT", stop);
  }
}

/** Lets progress through now and then, and its end. */
function sparse(seconds: number): (event: HubEvent) => boolean {
  const isTime = pace(seconds);
  return (event) => event.type !== "downloading" || isTime() || event.done === event.bytes;
}

function printEvent(event: HubEvent, isDue: (event: HubEvent) => boolean): void {
  switch (event.type) {
    case "plain-token":
      note(`HF_ENDPOINT is http: the access token is ${event.sent ? "sent unencrypted" : "not sent"} to ${event.endpoint}`);
      break;
    case "download": {
      const there = event.there > 0 ? `, ${bytes(event.there)} of them there already` : "";
      note(`downloading ${event.model} (${event.commit.slice(0, 12)}): ${event.files} files, ${bytes(event.bytes)}${there}`);
      break;
    }
    case "downloading":
      if (!status(progressLine(event)) && isDue(event)) note(progressLine(event));
      break;
    case "waiting":
      note(`${event.reason}; trying again in ${duration(event.seconds)}`);
      break;
    case "downloaded":
      note(`downloaded to ${event.folder}`);
  }
}

function progressLine({ file, done, ...event }: Extract<HubEvent, { type: "downloading" }>): string {
  const share = `${Math.floor((100 * done) / Math.max(1, event.bytes))}%, ${bytes(done)} of ${bytes(event.bytes)}`;
  const { bytesPerSecond, secondsLeft } = event;
  const speed = bytesPerSecond === null ? "" : `, ${bytes(bytesPerSecond)}/s, ${duration(secondsLeft!)} left`;
  return `${share}${speed}  ${file}`;
}
