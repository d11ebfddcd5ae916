// Renders templates, a JSON list of them on standard input, and writes a line for each: how it ends. Run in little memory.
import { text } from "node:stream/consumers";
import { register } from "tsx/esm/api";

register();
const { LowrankError } = await import("../../src/errors.ts");
const { renderChat } = await import("../../src/text/template.ts");
const { timeLimit } = await import("../../src/platform/node/time-limit.ts");

const messages = [{ role: "user", content: "hi" }];
/** @type {string[]} */
const sources = JSON.parse(await text(process.stdin));
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
