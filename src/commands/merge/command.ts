// lowrank merge: a checkpoint that needs no adapter.
import { stoppable, stoppedStatus } from "../../terminal/signals.ts";
import { tensorProgress } from "../../terminal/tensors.ts";
import { print, printJson, status } from "../../terminal/terminal.ts";
import { bytes } from "../../units.ts";
import { type Certificate, type CertifyProgress, certificateFailure } from "../certify/certify.ts";
import { progressLine } from "../certify/command.ts";
import { certificateLines } from "../certify/lines.ts";
import { defineCommand } from "../command.ts";
import { mergeAdapter, mergeOptions } from "./merge.ts";

export const command = defineCommand({
  summary: "write the base with an adapter merged into its weights",
  options: mergeOptions,
  examples: [
    "--base embedded --adapter my-adapter --output merged",
    "--base ./base --adapter ./a --output merged --out-dtype float32",
  ],
  async run(options, { platform, json }) {
    let certificate: Certificate | null = null;
    const { onProgress, total } = tensorProgress(json);
    return stoppable(
      () => "Stopping.",
      async (stopping) => {
        try {
          const onCertify = (event: CertifyProgress) => status(progressLine(event));
          certificate = await mergeAdapter(
            platform.files,
            { ...options, onProgress, onCertify, signal: stopping.signal },
            platform,
          );
        } catch (error) {
          return stoppedStatus(error, stopping, json);
        }
        if (json) printJson({ type: "done", output: options.output, bytes: total(), certificate });
        else
          print(
            `merged into ${options.output}, ${bytes(total())} of weights`,
            ...(certificate ? certificateLines(certificate) : []),
          );
        if (certificate && !certificate.passed) throw certificateFailure(certificate, options.output);
        return 0;
      },
    );
  },
});
