// TimeLimit on V8's watchdog: a script with a timeout is interrupted wherever it is, in the middle of a regular expression too.
import { createContext, Script } from "node:vm";
import type { LowrankError } from "../../errors.ts";
import { MAX_TEXT_MS, type TimeLimit } from "../../text/limit.ts";

const room = createContext({ work: undefined as (() => void) | undefined });
const script = new Script("work()");

/** The error of the innermost work in progress; there is none outside. */
let innermost: (() => LowrankError) | undefined;

/** A time limit of this many milliseconds. Costs a thread, 0.1 to 0.2 ms, at the outermost call and nothing at those within. */
export const timeLimitOf =
  (timeout: number): TimeLimit =>
  (work, slow) => {
    const outer = innermost;
    innermost = slow;
    try {
      return outer === undefined ? watched(work, timeout) : work();
    } finally {
      innermost = outer;
    }
  };

export const timeLimit: TimeLimit = timeLimitOf(MAX_TEXT_MS);

function watched<T>(work: () => T, timeout: number): T {
  let result: { value: T } | undefined;
  room["work"] = () => {
    result = { value: work() };
  };
  try {
    script.runInContext(room, { timeout, displayErrors: false });
    return result!.value;
  } catch (error) {
    // An interrupted call runs no `finally`, so `innermost` is still that of the work that was stopped.
    if ((error as NodeJS.ErrnoException)?.code === "ERR_SCRIPT_EXECUTION_TIMEOUT") throw innermost!();
    throw error;
  } finally {
    room["work"] = undefined;
  }
}
