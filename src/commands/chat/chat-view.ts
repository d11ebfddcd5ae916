// How the events of a conversation look: as JSON lines, as plain text, and on a terminal with two answers side by side.

import { besideGrowing, wrap, wrapping } from "../../terminal/columns.ts";
import { control, faint, note, print, type Screen, screen as standardOutput } from "../../terminal/terminal.ts";
import { grouped, shown, shownLine } from "../../units.ts";
import { BASE_NAME, type ChatEvent } from "./chat.ts";

export type ChatView = (event: ChatEvent) => void;

/** Narrower terminals show two answers one after another. */
const SIDE_BY_SIDE_COLUMNS = 90;

/** For pipes: answers on standard output, under their names when there are two; what else is said on standard error. */
export function plainView(compare: () => boolean): ChatView {
  return (event) => {
    if (event.type === "answer" && compare()) print(`[${event.by}]`);
    else if (event.type === "token") standardOutput.write(event.text);
    else if (event.type === "answered") print("");
    else if (event.type === "note") note(...event.text.split("\n"));
    else if (event.type === "history" || event.type === "stats") print(...describe(event).split("\n"));
  };
}

/** For people. `compare`: whether the answers that begin now come in pairs; `label`: whether one alone has its name above it. */
export function terminalView(screen: Screen, { compare, label }: { compare: () => boolean; label: () => boolean }): ChatView {
  const line = (text: string) => screen.write(`${text}\n`);
  /** The base's answer, kept until the adapter's stands beside it. */
  let left: string | null = null;
  let right: ReturnType<typeof besideGrowing> | null = null;
  let alone = wrapping(() => screen.columns() - 1, screen.write);
  const wide = () => compare() && screen.columns() >= SIDE_BY_SIDE_COLUMNS;
  const erased = control("\r\x1b[K");
  const status = (text: string) => screen.write(`${erased}${faint(text)}`);
  return (event) => {
    switch (event.type) {
      case "answer":
        alone = wrapping(() => screen.columns() - 1, screen.write);
        if (event.by === BASE_NAME && wide()) {
          left = "";
          status(`${BASE_NAME} …`);
        } else if (left !== null) {
          const width = Math.floor((screen.columns() - 4) / 2);
          screen.write(erased);
          line(faint(`${BASE_NAME.padEnd(width)} │ ${shownLine(event.by).slice(0, width)}`));
          right = besideGrowing(left, width, line);
        } else if (compare() || label()) line(faint(`${shownLine(event.by)}:`));
        break;
      case "token":
        if (right) right.push(event.text);
        else if (left === null) alone.push(event.text);
        else {
          left += shown(event.text);
          const label = `${BASE_NAME}: `;
          status(
            label +
              left
                .split("\n")
                .at(-1)!
                .slice(1 + label.length - screen.columns()),
          );
        }
        break;
      case "answered":
        if (right) right.end();
        else if (left === null) line("");
        else if (event.reason === "stopped") line(`${erased}${left}`);
        else break;
        if (event.reason === "stopped") line(faint("(stopped)"));
        else if (event.reason === "length") line(faint(`(cut after ${event.tokens} tokens)`));
        [left, right] = [null, null];
        break;
      case "note":
        for (const part of wrap(event.text, screen.columns())) line(faint(part));
        break;
      case "history":
      case "stats":
        line(describe(event));
    }
  };
}

function describe(event: Extract<ChatEvent, { type: "history" | "stats" }>): string {
  if (event.type === "history") {
    if (event.exchanges.length === 0) return "There are no messages yet.";
    const turns = event.exchanges.map(({ user, images, answer }, i) => {
      const shownImages = images.map((image) => `[${image}] `).join("");
      const unseen = i === event.firstSeen - 1 ? "\n(up to here the model no longer sees it)" : "";
      return `> ${shownImages}${user.replaceAll("\n", "\n… ")}\n${answer}${unseen}`;
    });
    return turns.join("\n");
  }
  const { answers, tokens, seconds, lastTokensPerSecond, contextTokens, maxPositions } = event;
  const speed = (value: number | null) => (value === null ? "–" : `${value.toFixed(1)} tokens/s`);
  return [
    `answers   ${answers}, ${grouped(tokens)} tokens, ${speed(tokens > 0 ? tokens / seconds : null)} (the last ${speed(lastTokensPerSecond)})`,
    `context   ${grouped(contextTokens)} of ${grouped(maxPositions)} positions, ${grouped(maxPositions - contextTokens)} left`,
  ].join("\n");
}
