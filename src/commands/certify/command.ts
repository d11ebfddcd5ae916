// lowrank certify: whether a merged model is its base with the adapter.
import { print, printJson, status } from "../../terminal/terminal.ts";
import { defineCommand } from "../command.ts";
import { type CertifyProgress, certificateFailure, certify, certifyOptions } from "./certify.ts";
import { certificateLines } from "./lines.ts";

export const command = defineCommand({
  summary: "compare a merged model with its base and adapter",
  options: certifyOptions,
  examples: [
    "--base embedded --adapter my-adapter --merged merged",
    "--base ./base --adapter ./a --merged ./merged --data test.jsonl",
  ],
  async run(options, { platform, json }) {
    const onProgress = (event: CertifyProgress) => status(progressLine(event));
    const certificate = await certify({ ...options, onProgress }, platform);
    if (json) printJson(certificate);
    else print(...certificateLines(certificate));
    if (!certificate.passed) throw certificateFailure(certificate, options.merged);
    return 0;
  },
});

export const progressLine = (event: CertifyProgress): string =>
  event.type === "weights"
    ? `comparing weights: ${event.done} of ${event.total}`
    : `comparing outputs: row ${event.row} of ${event.rows}`;
