// The picture of a report in the README: trains the embedded model for 80 steps on the demo's data and has Chromium draw the upper part
// of the report (docs/report.md).
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import sharp from "sharp";
import { finetune, reportRuns } from "../src/index.ts";

const PICTURE = "docs/images/report.png";
/** CSS pixels: as wide as the page gets, and as high as its figures and the first three charts. */
const [WIDTH, HEIGHT] = [1080, 914];

const BASE = "models/embedded";
const data = { data: "models/demo/train.jsonl", evalSplit: 0.05, evalEvery: 10 };
const training = { base: BASE, steps: 80, batchSize: 16, schedule: "cosine", warmup: 0.1 } as const;

const temporary = mkdtempSync(path.join(tmpdir(), "lowrank-picture-"));
try {
  const output = path.join(temporary, "restaurants"); // its last part is the title of the report
  for await (const event of finetune({ ...training, ...data, output })) {
    if (event.type === "eval") console.log(`step ${event.step}: evaluation loss ${event.loss.toFixed(4)}`);
  }
  const page = await reportRuns({ folders: [output] });
  // The report has the base's whole path, which is this machine's.
  writeFileSync(page, readFileSync(page, "utf8").replaceAll(path.resolve(BASE), "embedded"));
  const screenshot = path.join(temporary, "screenshot.png");
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", `--user-data-dir=${temporary}/browser`];
  const shot = [`--window-size=${WIDTH},${HEIGHT}`, `--screenshot=${screenshot}`, pathToFileURL(page).href];
  execFileSync(process.env["CHROMIUM"] ?? "chromium", [...flags, ...shot], { stdio: "pipe" });
  const { size } = await sharp(screenshot).png({ palette: true, effort: 10 }).toFile(PICTURE);
  console.log(`${PICTURE}: ${Math.round(size / 1000)} kB`);
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
