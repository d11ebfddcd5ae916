// lowrank chat: a conversation in the terminal, or one message a line from a pipe.

import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import { option } from "../../options.ts";
import { faint, print, printError, printJson, screen } from "../../terminal/terminal.ts";
import { runOptions } from "../../train/options.ts";
import { anyBase, base, baseDtype, defineCommand, device, threads } from "../command.ts";
import { CHAT_NEW_TOKENS, isComparing, openChat, tellFormat } from "./chat.ts";
import { enter } from "./chat-commands.ts";
import { pipedInput, terminalInput } from "./chat-input.ts";
import { plainView, terminalView } from "./chat-view.ts";

export const command = defineCommand({
  summary: "talk to a model in the terminal, with adapters switched on, off and compared",
  options: {
    base,
    adapter: option(z.array(z.string()).optional(), {
      value: "ADAPTER",
      model: true,
      help: "an adapter; can be repeated, the first one is attached",
    }),
    anyBase,
    system: option(z.string().optional(), { help: "the system message" }),
    compare: option(z.boolean().optional(), { help: "each answer by the base and by the adapter" }),
    raw: option(z.boolean().optional(), {
      help: "messages are continued as they are; --no-raw: always by the chat template (as the model was trained)",
    }),
    maxNewTokens: option(z.number().default(CHAT_NEW_TOKENS), { help: "maximum number of tokens of an answer" }),
    temperature: option(z.number().optional(), {
      value: "X",
      help: "0 picks the likeliest token (from generation_config.json)",
    }),
    topK: option(z.number().optional(), { help: "only the N likeliest tokens; 0 keeps all (likewise)" }),
    topP: option(z.number().optional(), { value: "P", help: "only the likeliest tokens that make up this mass (likewise)" }),
    seed: option(runOptions.seed, { help: "the same seed gives the same conversation" }),
    baseDtype,
    device,
    threads,
  },
  examples: ["--base embedded --adapter my-adapter", "--base embedded --adapter first --adapter second --compare"],
  /**
   * Converses until the end of the input or /quit. A failure at a terminal is reported and the
   * conversation goes on; from a pipe it goes on too, and the first failure's status is the one returned.
   */
  async run(values, { platform, json }) {
    const terminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !json;
    const chat = await openChat(values, platform);
    const compare = () => isComparing(chat);
    const forPeople = terminal ? terminalView(screen, { compare, label: () => chat.adapters.size > 0 }) : plainView(compare);
    const view = json ? printJson : forPeople;
    if (terminal) print(faint(`${values.base}${chat.active === null ? "" : ` with ${chat.active}`}. /help lists the commands.`));
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
          if (!(error instanceof LowrankError) || error.code === "output/failed") throw error;
          const failed = printError(error, json);
          if (!terminal) status ||= failed;
        }
      }
    } finally {
      input.close();
      await chat.generator.close();
    }
    return status;
  },
});
