// lowrank report: a page about a run, or about several.

import { print, printJson } from "../../cli/terminal.ts";
import type { Values } from "../../cli/values.ts";
import { reportRuns } from "../../node.ts";
import type { ReportOptions } from "../../report/report.ts";

/** Writes the page; returns the exit status. */
export async function run(values: Values, json: boolean): Promise<number> {
  const file = await reportRuns(values as unknown as ReportOptions);
  if (json) printJson({ report: file });
  else print(file);
  return 0;
}
