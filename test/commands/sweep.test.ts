// lowrank sweep on the tiny checkpoint: the winner and the command that trains it, what it prints and its page. test/sweep has its logic.
// slow
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { type FinetuneOptions, finetune, reportRuns, type SweepEvent, sweep } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { meanAt, ranked, readSweep, type SweepRecord } from "../../src/sweep/record.ts";
import { collect, only, refused } from "../helpers/assert.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const data = `${fixtures}/tiny-e2e/eval.jsonl`;
const evalData = `${fixtures}/tiny-e2e/eval.jsonl`;
const root = temporaryFolder();
const at = (name: string) => path.join(root, name);

const common = { base, data, evalData, batchSize: 4, threads: 1, date: "2026-01-01" };
const small = { ...common, steps: 8, learningRates: [1e-3, 1e-2, 1e30], ranks: [2], targets: ["all-linear"], minutes: 60 };
const read = (folder: string) => readSweep(nodeFiles, folder);

describe("a sweep", async () => {
  const output = at("sweep");
  const killed = at("killed");
  const events: SweepEvent[] = [];
  for await (const event of sweep({ ...small, output })) {
    events.push(event);
    // A copy of the folder in the middle of a trial is what a kill leaves.
    if (event.type !== "step" || only(events, "step").length !== 9) continue;
    cpSync(output, killed, { recursive: true });
    for (const name of readdirSync(killed, { recursive: true, encoding: "utf8" }))
      if (/\.lowrank\.lock$/.test(name)) rmSync(path.join(killed, name), { recursive: true });
  }
  const record = await read(output);
  const [done] = only(events, "done");

  it("drops trials that diverge, and is won by the lowest evaluation loss", () => {
    const [diverged] = only(events, "failure");
    assert.equal(record.trials[diverged!.trial]!.settings.learningRate, 1e30);
    assert.match(diverged!.message, /at step/);
    const losses = record.trials.flatMap(({ losses: own }) => own.flatMap(({ step, loss }) => (step === 8 ? loss : [])));
    assert.ok(losses.length >= 2, losses.join(" "));
    assert.equal(done!.winner.loss, Math.min(...losses));
  });

  it("names the command that trains the winner, to the same loss and the same bits", async () => {
    const { status, stderr } = await printed(...wordsOf(done!.command, at("again")), "--threads", "1", "--json");
    assert.equal(status, 0, stderr);
    const file = "adapter_model.safetensors";
    assert.deepEqual(readFileSync(`${at("again")}/${file}`), readFileSync(`${output}/${done!.winner.folder}/${file}`));
    const evals = jsonLines(readFileSync(`${at("again")}/metrics.jsonl`, "utf8")).filter(({ type }) => type === "eval");
    assert.equal(evals.at(-1)!["loss"], done!.winner.loss);
  });

  it("keeps each trial as a run, and nothing of the measurement", async () => {
    assert.deepEqual(
      readdirSync(output).filter((name) => !name.startsWith("trial-")),
      ["sweep.json"],
    );
    const { stdout } = await printed("runs", output, "--json");
    assert.equal(jsonLines(stdout).length, record.trials.length);
  });

  it("resumes behind a kill in the middle of a trial, to the same losses", async () => {
    const more = await collect(sweep({ output: killed, resume: true }));
    const lossesOf = ({ trials, command }: SweepRecord) => [command, trials.map(({ losses }) => losses.map(({ loss }) => loss))];
    assert.deepEqual(lossesOf(await read(killed)), lossesOf(record));
    assert.deepEqual(only(more, "done")[0]!.winner, done!.winner);
  });

  it("leaves nothing where it is refused", async () => {
    await refused(() => collect(sweep({ ...small, data: at("no-such-file.jsonl"), output: at("refused") })), /^file\//);
    assert.ok(!existsSync(at("refused")));
  });

  it("has a page with its curves, its halving and its command", async () => {
    const page = readFileSync(await reportRuns({ folders: [output] }), "utf8");
    for (const part of ["<h2>Why</h2>", "<h2>Halving</h2>", "learning rate again", "npx lowrank train", '"x":"rate"', "trial-01"])
      assert.ok(page.includes(part), part);
    assert.equal(JSON.parse(/id="chart-data">(.*?)<\/script>/.exec(page)![1]!).length, 3);
  });

  it("shows what strangers wrote into its record as text", async () => {
    const json = JSON.parse(readFileSync(`${killed}/sweep.json`, "utf8")) as SweepRecord;
    json.trials[0]!.settings.targets = "<script>alert(1)</script>";
    json.options["base"] = "<img src=x onerror=alert(1)>";
    writeFileSync(`${killed}/sweep.json`, JSON.stringify(json));
    const page = readFileSync(await reportRuns({ folders: [killed], force: true }), "utf8");
    assert.ok(!page.includes("<script>alert") && !page.includes("<img"));
  });
});

/** The words of a command line for `printed`, with another output folder. */
function wordsOf(command: string, output: string): string[] {
  const words = [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
  assert.deepEqual(words.slice(0, 3), ["npx", "lowrank", "train"]);
  return words.slice(2).map((word) => (word === "my-adapter" ? output : word));
}

it("a grid trains every combination to the end, full fine-tuning too, and prints its table", async () => {
  const output = at("grid");
  const args = ["sweep", "--base", base, "--data", data, "--eval-data", evalData, "--threads", "1", "--grid", "--steps", "2"];
  const space = ["--ranks", "2", "--learning-rates", "1e-3,1e-2", "--targets", "q_proj,v_proj", "--methods", "lora,full"];
  const { status, stdout, stderr } = await printed(...args, ...space, "--output", output);
  assert.equal(status, 0, stderr);
  const record = await read(output);
  assert.equal(record.trials.length, 2 * 2);
  for (const { cell } of ranked(record)) assert.ok(meanAt(record, cell, 2) !== undefined);
  assert.match(
    stdout,
    /\n\| settings \| 0\.001 \| 0\.01 \|\n\| --- \| --- \| --- \|\n\| rank 2, alpha 4, q_proj,v_proj \| .*\n\| full fine-tuning \| /,
  );
  assert.match(stderr, /report: .*grid\/report\.html/);
  const full = record.trials.findIndex(({ settings }) => settings.method === "full");
  assert.ok(existsSync(`${output}/trial-${String(full + 1).padStart(2, "0")}/model.safetensors`));
});

it("ranks of modules come from another adapter's spectrum", async () => {
  const options: FinetuneOptions = { base, data, steps: 4, batchSize: 4, threads: 1, learningRate: 1e-2, output: at("first") };
  await collect(finetune({ ...options, targetModules: ["q_proj", "down_proj"], rank: 4, alpha: 12 }));
  await collect(finetune({ ...options, ranksFrom: at("first"), output: at("second") }));
  const { stdout } = await printed("inspect", at("first"), "--spectrum", "--json");
  const suggested = (JSON.parse(stdout) as { modules: { path: string; spectrum: { rank99: number } }[] }).modules;
  const second = JSON.parse((await printed("inspect", at("second"), "--json")).stdout) as {
    modules: { path: string; rank: number; alpha: number }[];
  };
  assert.deepEqual(
    second.modules.map(({ path: name, rank, alpha }) => [name, rank, alpha]),
    suggested.map(({ path: name, spectrum: { rank99 } }) => [name, rank99, 3 * rank99]),
  );
  await refused(() => collect(finetune({ ...options, ranksFrom: at("first"), rank: 3, output: at("third") })), "train/option", {
    subject: "rank",
  });
});

it("resize measures the loss that truncation costs", async () => {
  const args = [
    "resize",
    at("first"),
    "--rank",
    "1",
    "--output",
    at("smaller"),
    "--base",
    base,
    "--data",
    evalData,
    "--threads",
    "1",
  ];
  const { stdout } = await printed(...args, "--json");
  const { losses } = JSON.parse(stdout) as { losses: Record<"before" | "after" | "base", number> };
  const { before, after, base: without } = losses;
  const scores = JSON.parse(
    (await printed("eval", "--base", base, "--adapter", at("smaller"), "--data", evalData, "--threads", "1", "--json")).stdout,
  );
  assert.equal(after, scores.adapter.loss);
  assert.equal(without, scores.base.loss);
  assert.ok(before !== after && before < without);
  const { status, stderr } = await printed("resize", at("first"), "--rank", "1", "--output", at("none"), "--data", evalData);
  assert.equal(status, 2);
  assert.match(stderr, /can't be measured without the base/);
});
