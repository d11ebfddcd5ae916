// lowrank sweep on the tiny checkpoint: the winner and the command that trains it, going on after a kill, the time that it keeps.
// slow
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it, mock } from "node:test";
import { type FinetuneOptions, finetune, reportRuns, type SweepEvent, type SweepGiven, sweep } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { meanAt, ranked, readSweep, type SweepRecord } from "../../src/sweep/record.ts";
import { collect, only, refused } from "../helpers/assert.ts";
import { jsonLines, printed } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;
const data = `${fixtures}/tiny-e2e/train.jsonl`;
const evalData = `${fixtures}/tiny-e2e/eval.jsonl`;
const root = temporaryFolder();
const at = (name: string) => path.join(root, name);

const common = { base, data, evalData, batchSize: 4, threads: 1, date: "2026-01-01" };
const small = { ...common, steps: 8, learningRates: [1e-3, 1e-2, 1e30], ranks: [2, 8], targets: ["all-linear"], minutes: 60 };
const read = (folder: string) => readSweep(nodeFiles, folder);

/** What a sweep has found, without the time that it took. */
const found = ({ trials, rungs, ended, command }: SweepRecord) => ({
  trials: trials.map(({ settings, losses, failure, trainable }) => ({
    ...{ settings, failure, trainable },
    losses: losses.map(({ step, loss }) => [step, loss]),
  })),
  ...{ rungs, ended, command },
});

describe("a sweep", async () => {
  const output = at("sweep");
  const events: SweepEvent[] = [];
  const snapshots: string[] = [];
  // Copies of the folder while the sweep is at work are what a kill leaves: at every rung, and in the middle of trials.
  for await (const event of sweep({ ...small, output })) {
    events.push(event);
    const steps = only(events, "step").length;
    if (event.type !== "rung" && event.type !== "plan" && !(event.type === "step" && steps % 17 === 0)) continue;
    const copy = at(`snapshot-${snapshots.length}`);
    cpSync(output, copy, { recursive: true });
    for (const name of readdirSync(copy, { recursive: true, encoding: "utf8" }))
      if (/\.lowrank\.lock$/.test(name)) rmSync(path.join(copy, name), { recursive: true });
    snapshots.push(copy);
    if (snapshots.length === 3) cpSync(copy, at("linked"), { recursive: true });
  }
  const record = await read(output);
  const [done] = only(events, "done");

  it("plans, trains by phases, and drops trials that diverge", () => {
    assert.deepEqual(only(events, "plan")[0]!.plan.rungs, [2, 4, 8]);
    assert.deepEqual(
      [...new Set(record.rungs.map(({ phase }) => phase))],
      ["learning rate", "rank, targets and method", "learning rate again"],
    );
    const [diverged] = only(events, "failure");
    assert.equal(record.trials[diverged!.trial]!.settings.learningRate, 1e30);
    assert.match(diverged!.message, /at step/);
    assert.equal(record.ended, "finished");
  });

  it("is won by the lowest evaluation loss", () => {
    const losses = record.trials.flatMap(({ losses: own }) => own.flatMap(({ step, loss }) => (step === 8 ? loss : [])));
    assert.ok(losses.length >= 4, losses.join(" "));
    assert.equal(done!.winner.loss, Math.min(...losses));
    assert.equal(done!.runnerUp!.loss, [...losses].sort((a, b) => a - b)[1]);
    for (const { phase, step, cells } of only(events, "rung")) {
      const known = cells.flatMap(({ loss }) => loss ?? []);
      assert.deepEqual(
        known,
        [...known].sort((a, b) => a - b),
        `${phase}, step ${step}`,
      );
    }
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

  it("goes on to the same result, wherever it was killed", async () => {
    assert.ok(snapshots.length >= 10, String(snapshots.length));
    // Every second of them, and the last.
    for (const copy of snapshots.filter((_, i) => i % 2 === (snapshots.length - 1) % 2)) {
      const more = await collect(sweep({ output: copy, resume: true }));
      assert.deepEqual(found(await read(copy)), found(record), copy);
      assert.deepEqual(only(more, "done")[0]!.winner, done!.winner);
    }
  });

  it("that is finished is not trained again, and another one has another folder", async () => {
    const again = await collect(sweep({ ...small, output, resume: true }));
    assert.deepEqual([only(again, "step").length, only(again, "done")[0]!.winner], [0, done!.winner]);
    await refused(() => collect(sweep({ ...small, output })), "sweep/output", { next: /--resume --output/ });
    await refused(() => collect(sweep({ ...small, steps: 9, output, resume: true })), "sweep/output", {
      expected: "steps 8",
      got: "steps 9",
    });
    await refused(() => collect(sweep({ ...small, output: `${output}/trial-01` })), "sweep/output", /other files/);
    await refused(() => collect(sweep({ output: at("nothing"), resume: true })), "sweep/output", /no sweep to resume/);
    await refused(() => collect(sweep({ ...small, rank: 4, output: at("wrong") } as SweepGiven)), "train/option", {
      subject: "rank",
    });
    assert.ok(!existsSync(at("wrong")));
  });

  it("writes nowhere else, and leaves nothing where it is refused", async () => {
    const copy = at("linked");
    const elsewhere = at("elsewhere");
    renameSync(`${copy}/trial-01`, elsewhere);
    symlinkSync(elsewhere, `${copy}/trial-01`);
    await refused(() => collect(sweep({ output: copy, resume: true })), "file/link");
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
    const copy = snapshots.at(-1)!;
    const json = JSON.parse(readFileSync(`${copy}/sweep.json`, "utf8")) as SweepRecord;
    json.trials[0]!.settings.targets = "<script>alert(1)</script>";
    json.options["base"] = "<img src=x onerror=alert(1)>";
    writeFileSync(`${copy}/sweep.json`, JSON.stringify(json));
    const page = readFileSync(await reportRuns({ folders: [copy], force: true }), "utf8");
    assert.ok(!page.includes("<script>alert") && !page.includes("<img"));
  });
});

/** The words of a command line for `printed`, with another output folder. */
function wordsOf(command: string, output: string): string[] {
  const words = [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
  assert.deepEqual(words.slice(0, 3), ["npx", "lowrank", "train"]);
  return words.slice(2).map((word) => (word === "my-adapter" ? output : word));
}

describe("the time of a sweep", () => {
  /** A clock that goes on by `tick` milliseconds whenever it is read. */
  async function timed(output: string, minutes: number, tickOf: (event: SweepEvent | null) => number) {
    let [now, tick] = [0, tickOf(null)];
    const clock = mock.method(performance, "now", () => (now += tick));
    const events: SweepEvent[] = [];
    try {
      for await (const event of sweep({
        ...common,
        epochs: 0.4,
        learningRates: [1e-3, 1e-2, 3e-2],
        ranks: [2, 8],
        targets: ["all-linear"],
        minutes,
        output,
      })) {
        events.push(event);
        tick = tickOf(event);
      }
    } finally {
      clock.mock.restore();
    }
    return { events, record: await read(output) };
  }

  it("is kept by the plan where steps take as long as measured", async () => {
    const { events, record } = await timed(at("timed"), 1.1, () => 4);
    const [{ plan }] = only(events, "plan") as [Extract<SweepEvent, { type: "plan" }>];
    assert.ok(plan.steps <= 40 && plan.steps >= 32, String(plan.steps));
    assert.equal(record.ended, "finished");
    assert.ok(record.seconds <= 66, String(record.seconds));
  });

  /** The clock after the plan is made, beside the one that it was made with. */
  const slower = (factor: number) => {
    let planned = false;
    return (event: SweepEvent | null) => {
      planned ||= event?.type === "plan";
      return planned ? factor * 4 : 4;
    };
  };

  it("is kept by fewer trials where they take longer, of which the best is trained to its end", async () => {
    const { events, record } = await timed(at("slower"), 1.1, slower(2));
    const [done] = only(events, "done");
    assert.deepEqual([done!.ended, done!.winner.step], ["finished", done!.steps]);
    const begun = record.trials.filter(({ losses }) => losses.length > 0);
    assert.ok(begun.length >= 2 && begun.length < 6, String(begun.length));
    // A trial that has begun opens its session, which takes twice as long as measured.
    assert.ok(record.seconds <= 66 + 8, String(record.seconds));
  });

  it("is kept by an end where there is none for another trial, and more of it takes the sweep on", async () => {
    const output = at("slowest");
    const { record } = await timed(output, 1.1, slower(40));
    assert.equal(record.ended, "budget");
    const more = await collect(sweep({ output, resume: true, minutes: 60 }));
    const [done] = only(more, "done");
    assert.deepEqual([done!.ended, done!.winner.step], ["finished", done!.steps]);
  });
});

it("a sweep that is stopped says how to go on, and does", async () => {
  const output = at("stopped");
  const stop = new AbortController();
  const events: SweepEvent[] = [];
  for await (const event of sweep({ ...small, output, signal: stop.signal })) {
    events.push(event);
    if (only(events, "step").length === 5) stop.abort();
  }
  assert.equal(only(events, "step").length, 5);
  assert.equal((await read(output)).ended, null);
  await collect(sweep({ output, resume: true }));
  assert.deepEqual(found(await read(output)), found(await read(at("sweep"))));
});

it("a grid trains every combination to the end, full fine-tuning too, and prints its table", async () => {
  const output = at("grid");
  const args = ["sweep", "--base", base, "--data", data, "--eval-data", evalData, "--threads", "1", "--grid", "--steps", "4"];
  const space = [
    "--ranks",
    "2,4",
    "--learning-rates",
    "1e-3,1e-2",
    "--targets",
    "q_proj,v_proj",
    "--methods",
    "lora,full",
    "--seeds",
    "0,1",
  ];
  const { status, stdout, stderr } = await printed(...args, ...space, "--output", output);
  assert.equal(status, 0, stderr);
  const record = await read(output);
  assert.equal(record.trials.length, 2 * (2 * 2 + 2));
  for (const { cell } of ranked(record)) assert.ok(meanAt(record, cell, 4) !== undefined);
  assert.match(
    stdout,
    /\n\| settings \| 0\.001 \| 0\.01 \|\n\| --- \| --- \| --- \|\n\| rank 2, alpha 4, q_proj,v_proj \| .*\n.*\n\| full fine-tuning \| /,
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
