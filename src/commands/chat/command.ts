// lowrank chat: a conversation in the terminal, or one message a line from a pipe.

import { faint, print, printError } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { LowrankError } from "../../errors.ts";
import { nodePlatform } from "../../node.ts";
import { type ChatOptions, openChat, tellFormat } from "./chat.ts";
import { enter } from "./chat-commands.ts";
import { pipedInput, terminalInput } from "./chat-input.ts";
import { jsonView, plainView, type Screen, terminalView } from "./chat-view.ts";

const screen: Screen = { write: (text) => void process.stdout.write(text), columns: () => process.stdout.columns || 80 };

/**
 * Converses until the end of the input or /quit; returns the exit status. A failure at a terminal is told and the
 * conversation goes on; from a pipe it goes on too, and the first failure's status is the one returned.
 */
export async function run(values: Values, json: boolean): Promise<number> {
  const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !json;
  const chat = await openChat(values as unknown as ChatOptions, nodePlatform);
  const compare = () => chat.compare && chat.active !== null;
  const view = json
    ? jsonView
    : terminal
      ? terminalView(screen, { compare, label: () => chat.adapters.size > 0 })
      : plainView(compare);
  if (terminal) print(faint(`${values["base"]}${chat.active === null ? "" : ` with ${chat.active}`}. /help lists the commands.`));
  for (const event of tellFormat(chat)) view(event);
  const input = terminal ? terminalInput() : pipedInput(process.stdin);
  let status = 0;
  let open = true;
  try {
    while (open) {
      const message = await input.next();
      if (message === null) break;
      try {
        await input.during(async (signal) => {
          for await (const event of enter(chat, message, signal)) {
            view(event);
            if (event.type === "quit") open = false;
          }
        });
      } catch (error) {
        if (!(error instanceof LowrankError)) throw error;
        const failed = printError(error, json);
        if (!terminal) status ||= failed;
      }
    }
  } finally {
    input.close();
    await chat.generator.close();
  }
  return status;
}
