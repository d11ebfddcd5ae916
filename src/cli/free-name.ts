// A name for an output folder that is not taken.
import { existsSync } from "node:fs";

/** The first of `name`, `name-2`, `name-3`, … that is not there. */
export function freeName(name: string): string {
  let free = name;
  for (let i = 2; existsSync(free); i++) free = `${name}-${i}`;
  return free;
}
