// The command line: flags, config files, output; as a process standard input, exit status and interruption.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { cliDocs } from "../../scripts/cli-docs.ts";
import { loadCommands } from "../../src/cli/commands.ts";
import { describeCommand, makeProgram, takesModels } from "../../src/cli/program.ts";
import { jsonLines, lowrank, printed, programArgs } from "../helpers/program.ts";
import { fixtures, repository } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const commands = await loadCommands();
const base = `${fixtures}/tiny-llama`;
const data = `${fixtures}/tiny-e2e/train.jsonl`;
const evalData = `${fixtures}/tiny-e2e/eval.jsonl`;
const root = temporaryFolder();

const training = (output: string, ...more: string[]): string[] =>
  ["train", "--base", base, "--data", data, "--output", path.join(root, output), "--threads", "1"].concat(more);
const short = ["--steps", "2", "--batch-size", "2", "--target-modules", "q_proj,v_proj"];

describe("the five commands, one after another", slow, () => {
  it("train prints its progress and exits with 0", async () => {
    const { status, stdout, stderr } = await printed(...training("adapter", ...short, "--eval-data", evalData));
    assert.equal(status, 0, stderr);
    assert.match(stdout, /training 3,584 parameters \(4 modules\)/);
    assert.match(stdout, /400 examples/);
    assert.match(stdout, /step 2\/2: loss \d+\.\d{4}, \d+ tokens\/s, \d+s left, \d/);
    assert.match(stdout, /evaluation loss \d\.\d{4}, perplexity/);
    assert.match(stdout, /done at step 2 .*adapter\n$/);
  });

  it("preview prints what docs/chat.md shows", async () => {
    const args = ["preview", "--base", "test/fixtures/tiny-llama", "--data", "examples/chat.jsonl", "--examples", "1"];
    const { status, stdout, stderr } = await printed(...args);
    assert.equal(status, 0, stderr);
    const docs = readFileSync(`${repository}docs/chat.md`, "utf8");
    assert.ok(docs.includes(`npx lowrank ${args.join(" ")}\n`));
    assert.ok(docs.includes(stdout.trim()), stdout);
    const asJson = await printed(...args, "--json", "--ids");
    const [example, total] = asJson.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    assert.deepEqual(example.trainedText, [
      "Done: The Punter, two people. Anything else?<|im_end|>",
      "Enjoy your meal!<|im_end|>",
    ]);
    assert.equal(example.ids.length, example.tokens);
    assert.deepEqual([total.type, total.train.records, total.duplicates.train, total.warnings], ["preview", 4, 1, []]);
  });

  it("eval gives the loss with and without the adapter", async () => {
    const args = ["eval", "--base", base, "--adapter", path.join(root, "adapter"), "--data", evalData];
    const { stdout, stderr } = await printed(...args, "--json");
    const [result] = jsonLines(stdout) as { base: { loss: number }; adapter: { loss: number } }[];
    assert.ok(result!.base.loss > 1 && result!.adapter.loss > 1 && result!.base.loss !== result!.adapter.loss, stdout + stderr);
    assert.match((await printed(...args)).stdout, /base +\d\.\d{4} +\d+\.\d\d\nwith the adapter +\d\.\d{4}/);
  });

  it("generate takes its prompt from a flag or from standard input, and streams events", async () => {
    const prompt = "name[The Eagle], food[Italian]\n";
    const args = ["generate", "--base", base, "--adapter", path.join(root, "adapter"), "--max-new-tokens", "12"];
    const { stdout, status, stderr } = await printed(...args, "--prompt", prompt);
    assert.equal(status, 0, stderr);
    assert.ok(stdout.trim().length > 5, stdout);
    const piped = await lowrank([...args, "--json"], { input: prompt });
    const events = jsonLines(piped.stdout);
    const done = events.at(-1) as { type: string; text: string; ids: number[] };
    assert.equal(`${done.text}\n`, stdout);
    assert.equal(events.length, done.ids.length + 1);
  });

  it("generate answers a conversation, samples by seed, and ends at a stop text", async () => {
    const messages = path.join(root, "messages.json");
    writeFileSync(messages, JSON.stringify([{ role: "user", content: "name[The Eagle]" }]));
    const sampled = ["generate", "--base", base, "--messages", messages, "--max-new-tokens", "30", "--temperature", "0.9"];
    const withSeed = (seed: string) => printed(...sampled, "--seed", seed, "--top-k", "50");
    const [one, again, other] = [await withSeed("1"), await withSeed("1"), await withSeed("2")];
    assert.equal(one.stdout, again.stdout);
    assert.notEqual(one.stdout, other.stdout);
    const whole = await printed("generate", "--base", base, "--prompt", "name[", "--max-new-tokens", "30");
    assert.match(whole.stdout, /food/);
    const cut = await printed(
      "generate",
      "--base",
      base,
      "--prompt",
      "name[",
      "--max-new-tokens",
      "30",
      "--stop",
      "food",
      "--stop",
      "@",
    );
    assert.equal(cut.stdout.trimEnd(), whole.stdout.slice(0, whole.stdout.indexOf("food")).trimEnd());
  });

  it("merge writes a checkpoint, inspect shows what is where", async () => {
    const [adapter, merged] = [path.join(root, "adapter"), path.join(root, "merged")];
    const { status, stderr } = await printed("merge", "--base", base, "--adapter", adapter, "--output", merged);
    assert.equal(status, 0, stderr);
    const texts = [];
    for (const args of [[merged], [adapter, "--base", base], [adapter, "--json"], [base, "--json"]])
      texts.push(await printed("inspect", ...args));
    assert.match(texts[0]!.stdout, /llama model for continuing texts\nparameters +106,816/);
    assert.match(texts[1]!.stdout, /parameters +3,584\nmodules +4\nranks +8 \(4 modules\).*made for this base +yes/s);
    const [described] = jsonLines(texts[2]!.stdout) as {
      parameters: number;
      normDelta: number;
      modules: { effectiveRank: number }[];
    }[];
    assert.deepEqual([described!.parameters, described!.modules.length], [3584, 4]);
    assert.ok(described!.normDelta > 0, "an update without a norm");
    for (const { effectiveRank } of described!.modules) assert.ok(effectiveRank >= 1 && effectiveRank <= 8, `${effectiveRank}`);
    assert.match(texts[1]!.stdout, /effective rank +\d\.\d\d to \d\.\d\d\n/);
    assert.equal(jsonLines(texts[3]!.stdout)[0]!["parameters"], 106_816);
  });
});

describe("events", () => {
  it("are one JSON object a line", slow, async () => {
    const { stdout, status } = await printed(...training("events", ...short, "--json"));
    assert.equal(status, 0);
    const types = jsonLines(stdout).map((event) => event["type"]);
    const seen = types.filter((type) => type !== "reading"); // on a slow machine
    assert.deepEqual(seen, ["prepared", "start", "checkpoint", "step", "step", "checkpoint", "done"]);
  });
});

describe("a config file", () => {
  const config = (name: string, value: unknown): string => {
    const file = path.join(root, `${name}.json`);
    writeFileSync(file, typeof value === "string" ? value : JSON.stringify(value));
    return file;
  };

  it("holds any flag, and the command line wins", slow, async () => {
    const output = path.join(root, "configured");
    const file = config("run", {
      base,
      data,
      output,
      epochs: 5,
      batchSize: 2,
      "learning-rate": 0.125,
      targetModules: ["k_proj"],
      rank: 4,
    });
    const { status, stderr } = await printed("train", "--config", file, "--steps", "1", "--rank", "2", "--threads", "1");
    assert.equal(status, 0, stderr);
    const { options } = JSON.parse(readFileSync(`${output}/run.json`, "utf8"));
    const { steps, epochs, learningRate, rank, targetModules, batchSize } = options;
    assert.deepEqual(
      { steps, epochs, learningRate, rank, targetModules, batchSize },
      { steps: 1, epochs: undefined, learningRate: 0.125, rank: 2, targetModules: ["k_proj"], batchSize: 2 },
    );
  });

  const wrong: [string, unknown, RegExp][] = [
    ["an unknown key", { learnRate: 1 }, /learningRate.*found: +learnRate/s],
    ["a value of another kind", { rank: "8" }, /rank.*expected: a number/s],
    ["a value outside the choices", { schedule: "stairs" }, /one of constant, linear, cosine/],
    ["text that is no JSON", "rank: 8", /not valid JSON/],
    ["a list", [1], /not a JSON object/],
  ];
  for (const [what, value, text] of wrong) {
    it(`with ${what} is refused`, async () => {
      const { status, stderr } = await printed(...training("never", "--config", config("wrong", value)));
      assert.equal(status, 2, stderr);
      assert.match(stderr, text);
    });
  }
});

describe("wrong input", () => {
  const cases: [string, string[], RegExp][] = [
    ["an unknown command", ["trian"], /unknown command 'trian'.*Did you mean train/s],
    ["an unknown flag", ["train", "--bas", "x"], /unknown option '--bas'.*Did you mean .*--base/s],
    ["a required flag that is missing", ["train", "--base", base], /--data, --output must be given.*train --help/s],
    ["a number that is none", training("never", "--rank", "eight"), /--rank.*expected: a number.*found: +eight/s],
    ["a choice that is none", training("never", "--method", "half"), /--method.*lora, full/s],
    ["a regular expression that is none", training("never", "--target-modules", "(q_proj"), /targetModules/],
    ["a target that matches nothing", training("never", "--target-modules", "q_porj"), /q_proj/],
    [
      "a base that is an adapter's folder",
      ["generate", "--base", `${fixtures}/cases/lora-qv-default/adapter`, "--prompt", "x"],
      /base model/,
    ],
    ["a conversation that is none", ["generate", "--base", base, "--messages", data], /conversation/],
    ["a folder that holds nothing", ["inspect", root], /adapter_config\.json or config\.json/],
  ];
  for (const [what, args, text] of cases) {
    it(`${what}: status 2, reported on standard error`, async () => {
      const { status, stderr } = await printed(...args);
      assert.equal(status, 2, stderr);
      assert.match(stderr, text);
      assert.match(stderr, /^lowrank: .*next: /s, "no next step");
    });
  }

  it("is JSON with --json", async () => {
    const { stderr, status } = await printed(...training("never", "--rank", "0", "--json"));
    assert.equal(status, 2);
    const [failure] = jsonLines(stderr);
    assert.equal(failure!["error"], "lora/config");
    assert.equal(failure!["subject"], "rank");
  });

  it("leaves standard output empty and sets the process's exit status", slow, async () => {
    const { status, stdout, stderr } = await lowrank(training("never", "--rank", "0"));
    assert.deepEqual([status, stdout], [2, ""]);
    assert.match(stderr, /rank/);
  });

  it("helps when asked, with status 0", slow, async () => {
    const [help, version] = await Promise.all([lowrank([]), lowrank(["--version"])]);
    assert.deepEqual([help.status, version.status], [0, 0]);
    for (const name of Object.keys(commands)) assert.match(help.stdout, new RegExp(`\\n  ${name} `));
    assert.equal(version.stdout.trim(), JSON.parse(readFileSync(`${repository}package.json`, "utf8")).version);
  });
});

describe("an interrupt", {
  skip: slow.skip || (process.platform === "win32" && "Windows has no SIGINT between processes"),
}, () => {
  const options = ["--steps", "60", "--batch-size", "4", "--learning-rate", "1e-3", "--dropout", "0.1", "--json"];

  it("finishes the step and saves; --resume ends with the bits of the undisturbed run", async () => {
    const output = path.join(root, "interrupted");
    let sent = false;
    const interrupted = await lowrank(training("interrupted", ...options), {
      onOutput: (text, kill) => {
        if (sent || !text.includes('"type":"step","step":5,')) return;
        sent = true;
        kill("SIGINT");
      },
    });
    assert.equal(interrupted.status, 130, interrupted.stderr);
    assert.match(interrupted.stderr, new RegExp(`lowrank train --resume --output ${output}`));
    const last = jsonLines(interrupted.stdout).at(-1)!;
    assert.equal(last["stopped"], true);
    assert.ok((last["step"] as number) >= 5 && (last["step"] as number) < 60, `stopped at ${last["step"]}`);

    const resumed = await printed("train", "--resume", "--output", output, "--json");
    assert.equal(resumed.status, 0, resumed.stderr);
    const start = jsonLines(resumed.stdout).find((event) => event["type"] === "start");
    assert.equal(start!["step"], last["step"]);
    assert.equal((await printed(...training("undisturbed", ...options))).status, 0);
    for (const file of ["adapter_model.safetensors", "checkpoint-60/optimizer.safetensors"]) {
      assert.deepEqual(readFileSync(`${output}/${file}`), readFileSync(path.join(root, "undisturbed", file)), file);
    }
  });
});

describe("a merge", { skip: slow.skip || (process.platform === "win32" && "Windows has no signals between processes") }, () => {
  it("that gets a signal leaves nothing, and exits as the signal asks", async () => {
    const adapter = path.join(root, "of-embedded");
    const demo = ["--base", "embedded", "--data", "models/demo/train.jsonl"];
    assert.equal((await printed("train", ...demo, "--steps", "1", "--output", adapter)).status, 0);
    // Several files, so that there is something to be stopped in.
    const args = ["merge", "--base", "embedded", "--adapter", adapter, "--max-shard-bytes", "1000000", "--json"];
    const folder = path.join(root, "merges");
    for (let attempt = 1; ; attempt++) {
      let sent = false;
      const onOutput = (_: string, kill: (signal: NodeJS.Signals) => void) => {
        if (!sent) kill("SIGTERM");
        sent = true;
      };
      const { status, stderr } = await lowrank([...args, "--output", `${folder}/${attempt}`], { onOutput });
      if (status === 0 && attempt < 5) continue; // it was done before the signal came
      assert.equal(status, 143, stderr);
      assert.match(stderr, /merge\/stopped/);
      const left = readdirSync(folder).filter((name) => name === String(attempt) || name.startsWith("."));
      assert.deepEqual(left, []);
      break;
    }
  });
});

describe("a lost terminal", {
  skip: slow.skip || (process.platform === "win32" && "Windows has no SIGHUP between processes"),
}, () => {
  const options = ["--steps", "5000", "--batch-size", "1", "--threads", "1", "--json"];

  it("is a reason to save: SIGHUP, a reader that goes away, and SIGTERM, which Slurm sends twice", async () => {
    const ends: [string, number, (child: ReturnType<typeof spawn>) => void][] = [
      ["hangup", 129, (child) => child.kill("SIGHUP")],
      ["unread", 129, (child) => child.stdout!.destroy()],
      ["terminated", 143, (child) => child.kill("SIGTERM")],
    ];
    for (const [output, expected, end] of ends) {
      let sent = 0;
      const args = [...programArgs, ...training(output, ...options)];
      const child = spawn(process.execPath, args, { cwd: repository, stdio: ["ignore", "pipe", "ignore"] });
      child.stdout.on("data", (text) => {
        if (String(text).includes('"type":"step"') && sent++ < 2) end(child);
      });
      const status = await new Promise((resolve) => child.on("close", resolve));
      assert.equal(status, expected, output);
      const metrics = jsonLines(readFileSync(path.join(root, output, "metrics.jsonl"), "utf8"));
      assert.equal(metrics.at(-1)!["stopped"], true);
      assert.ok(readdirSync(path.join(root, output)).includes(`checkpoint-${metrics.at(-1)!["step"]}`));
    }
  });
});

describe("docs/cli.md", () => {
  it("is what `npm run docs:cli` makes", async () =>
    assert.equal(readFileSync(`${repository}docs/cli.md`, "utf8"), await cliDocs()));

  for (const [name, command] of Object.entries(commands)) {
    it(`names the flags that lowrank ${name} --help shows`, () => {
      const program = makeProgram({ [name]: command }, () => {});
      const help = program.commands[0]!.helpInformation();
      const shown = [...help.matchAll(/^ {2}(--[a-z-]+)/gm)].map((match) => match[1]!);
      const common = ["--config", ...(takesModels(command) ? ["--offline"] : []), "--json"];
      assert.deepEqual(shown, [...describeCommand(command).flags.map(({ flag }) => flag), ...common]);
    });
  }
});
