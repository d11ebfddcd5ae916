// Renders templates, a JSON list of them on standard input, and writes a line for each: how it ends. Run in little memory.
import { text } from "node:stream/consumers";
import { LowrankError } from "../../src/errors.ts";
import { timeLimit } from "../../src/platform/node/time-limit.ts";
import { renderChat } from "../../src/text/template.ts";

const messages = [{ role: "user", content: "hi" }];
const sources: string[] = JSON.parse(await text(process.stdin));
for (const source of sources) {
  const began = performance.now();
  let end = "rendered";
  try {
    timeLimit(
      () => renderChat({ source, file: "chat_template.jinja", tokens: {} }, messages),
      () => new LowrankError("too slow", "too slow"),
    );
  } catch (error) {
    end = error instanceof LowrankError ? error.code : String(error);
  }
  process.stdout.write(`${end}, ${Math.round(performance.now() - began)} ms\n`);
}
