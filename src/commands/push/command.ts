// lowrank push: an adapter or a merged model to the hub.
import { pushToHub } from "../../hub/push.ts";
import { stoppable } from "../../terminal/signals.ts";
import { note, print, printJson, status } from "../../terminal/terminal.ts";
import { defineCommand } from "../command.ts";
import { filesToPush, pushOptions } from "./push.ts";

export const command = defineCommand({
  summary: "put an adapter or a merged model on the hub, with a model card",
  options: pushOptions,
  argument: "folder",
  examples: ["my-adapter --to me/my-adapter --license apache-2.0", "my-adapter --to me/my-adapter --dry-run"],
  async run(options, { platform, json }) {
    const { files, card, id, revision } = await filesToPush(options, platform);
    const names = files.map(({ path }) => path);
    if (options.dryRun) {
      if (json) printJson({ type: "done", model: id, files: names, card, commit: null });
      else print(`to ${id}@${revision}: ${names.join(", ")}`, "", ...card.split("\n"));
      return 0;
    }
    return stoppable(
      () => "Stopping.",
      async ({ signal }) => {
        const { message = "", public: isPublic } = options;
        const commit = await pushToHub({ id, revision }, files, {
          ...{ isPrivate: !isPublic, message, signal },
          onEvent(event) {
            if (json) printJson(event);
            else if (event.type === "pushing") status(`${event.state} ${event.file}: ${Math.round(100 * event.share)}%`);
            else if (event.type === "created") note(`made ${event.url}`);
            else
              note(
                `HF_ENDPOINT is http: the access token is ${event.sent ? "sent unencrypted" : "not sent"} to ${event.endpoint}`,
              );
          },
        });
        if (json) printJson({ type: "done", model: id, files: names, commit });
        else print(`pushed ${names.length} files to ${id}@${commit}`);
        return 0;
      },
    );
  },
});
