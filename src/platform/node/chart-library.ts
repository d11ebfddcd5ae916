// uPlot's script and style from the installed package, for reports, which carry them inside.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type { ChartLibrary } from "../platform.ts";

/** The files, as text. */
export async function chartLibrary(): Promise<ChartLibrary> {
  const { resolve } = createRequire(import.meta.url);
  const text = (name: string) => readFile(resolve(`uplot/${name}`), "utf8");
  const [script, style, license] = await Promise.all([
    text("dist/uPlot.iife.min.js"),
    text("dist/uPlot.min.css"),
    text("LICENSE"),
  ]);
  return { script, style, license };
}
