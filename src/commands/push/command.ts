// lowrank push: an adapter or a merged model to the hub.
import type { PushEvent } from "../../hub/push.ts";
import { stoppable } from "../../terminal/signals.ts";
import { note, print, printJson, status } from "../../terminal/terminal.ts";
import { defineCommand } from "../command.ts";
import { pushFolder, pushOptions } from "./push.ts";

export const command = defineCommand({
  summary: "put an adapter or a merged model on the hub, with a model card",
  options: pushOptions,
  argument: "folder",
  examples: ["my-adapter --to me/my-adapter --license apache-2.0", "my-adapter --to me/my-adapter --dry-run"],
  run: (options, { platform, json }) =>
    stoppable(
      () => "Stopping.",
      async ({ signal }) => {
        const onEvent = json ? printJson : printEvent;
        const { card, commit, files, model } = await pushFolder({ ...options, signal, onEvent }, platform);
        if (json) printJson({ type: "done", model, files, commit, ...(options.dryRun && { card }) });
        else if (commit === null) print(`to ${options.to}: ${files.join(", ")}`, "", ...card.split("\n"));
        else print(`pushed ${files.length} files to ${model}@${commit}`);
        return 0;
      },
    ),
});

function printEvent(event: PushEvent): void {
  if (event.type === "pushing") status(`${event.state} ${event.file}: ${Math.round(100 * event.share)}%`);
  else if (event.type === "created") note(`made ${event.url}`);
  else note(`HF_ENDPOINT is http: the access token is ${event.sent ? "sent unencrypted" : "not sent"} to ${event.endpoint}`);
}
