// Text of others (names, labels, columns, logs, what a model writes) reaches no terminal with what steers it, and forges no line.
// slow
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { before, test } from "node:test";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { faint, note, status, terminalText } from "../../src/terminal/terminal.ts";
import { type Printed, printed, printedFor } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { taskBase } from "../helpers/task-bases.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const root = temporaryFolder();
/** Sequences of a terminal in their long and short form, DEL, marks that turn text around, and a line of its own. */
const HOSTILE = "a\x1b]0;title\x07\x1b[2J\x1b[2m\x1b[32m\x7f\x9b31m\x85\u202egnp\u2066\u061c\u200f\u2028\r\nforged line\tb";
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
const STEERING = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

/** Fails if what was printed steers a terminal, or has a line that a text of others wrote. */
function assertTame({ stdout, stderr }: { stdout: string; stderr: string }): void {
  for (const text of [stdout, stderr]) {
    assert.ok(!STEERING.test(text), JSON.stringify(text));
    assert.doesNotMatch(text, /^forged/m);
  }
}

/** Runs a command twice, for people and as JSON; what it printed for people. */
async function tame(...args: string[]): Promise<Printed> {
  const json = await printed(...args, "--json");
  assertTame(json);
  for (const line of json.stdout.trim().split("\n")) if (line !== "") JSON.parse(line);
  const text = await printed(...args);
  assertTame(text);
  assert.equal(text.status, json.status);
  return text;
}

/** A copy of the tiny checkpoint that writes ESC, DEL and carriage returns where it would write common words. */
function steeringBase(): string {
  const folder = path.join(root, "steering");
  cpSync(`${fixtures}/tiny-llama`, folder, { recursive: true });
  const file = `${folder}/tokenizer.json`;
  const tokenizer = JSON.parse(readFileSync(file, "utf8"));
  const { vocab } = tokenizer.model as { vocab: Record<string, number> };
  const swapped = { "[": "ě", Ġa: "ġ", Ġthe: "č" };
  for (const [word, control] of Object.entries(swapped)) [vocab[word], vocab[control]] = [vocab[control]!, vocab[word]!];
  writeFileSync(file, JSON.stringify(tokenizer));
  return folder;
}

const jsonLines = (file: string, ...records: object[]): string => {
  writeFileSync(path.join(root, file), records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return path.join(root, file);
};

let bert: string;
let classes: string;
before(async () => {
  bert = await taskBase(root, "bert");
  const texts = ["good food", "bad food", "good wine", "bad wine"];
  classes = jsonLines("classes.jsonl", ...texts.map((text, i) => ({ text, label: i % 2 ? HOSTILE : "plain" })));
});

test("train, inspect, eval and classify with hostile labels, names and module paths", async () => {
  const output = path.join(root, "classifier");
  const training = ["train", "--base", bert, "--data", classes, "--eval-data", classes, "--task", "sequence-classification"];
  const short = ["--steps", "1", "--threads", "1"];
  for (const more of [[], ["--json"]]) {
    const trained = await printed(...training, ...short, "--output", `${output}${more.join("")}`, ...more);
    assertTame(trained);
    assert.match(trained.stdout, /2 classes|"classes":/);
  }
  const adapter = ["--base", bert, "--adapter", output];
  assert.match((await tame("eval", ...adapter, "--data", classes)).stdout, /plain/);
  assert.equal((await tame("classify", ...adapter, "--text", HOSTILE)).status, 0);

  const config = JSON.parse(readFileSync(`${output}/adapter_config.json`, "utf8"));
  const hostile = path.join(root, "hostile-adapter");
  mkdirSync(hostile);
  const changes = { base_model_name_or_path: HOSTILE, target_modules: [HOSTILE, "q"], modules_to_save: null };
  writeFileSync(`${hostile}/adapter_config.json`, JSON.stringify({ ...config, ...changes }));
  const matrices = [1, 2].flatMap((at) =>
    Object.entries({ A: [8, 4], B: [4, 8] }).map(([which, shape]) => ({
      name: `base_model.model.${HOSTILE}.${at}.q.lora_${which}.weight`,
      dtype: "float32" as const,
      shape: shape as [number, number],
      data: () => bytesOf(new Float32Array(32).fill(at)),
    })),
  );
  await writeSafetensors(nodeFiles, `${hostile}/adapter_model.safetensors`, matrices, { format: "pt" });
  const inspected = await tame("inspect", hostile);
  assert.equal(inspected.status, 0, inspected.stderr);
  assert.match(inspected.stdout, /forged line.*\.1\.q/);
  assert.match(inspected.stdout, /^base +a\\u001b/m);
});

test("train's samples, preview and eval's answers on hostile columns and texts", async () => {
  const base = steeringBase();
  const text = HOSTILE.replace("\r\n", ""); // a text of several lines is shown as such
  const records = [1, 2, 3, 4].map((i) => ({ prompt: `the ${i} ${text}`, completion: `eat ${text}`, [HOSTILE]: i }));
  const data = jsonLines("texts.jsonl", ...records);
  const common = ["--base", base, "--data", data];
  assert.match((await tame("preview", ...common, "--eval-split", "0.5")).stdout, /not used: a\\u001b/);
  const run = ["train", ...common, "--eval-data", data, "--samples", "2", "--steps", "1", "--threads", "1"];
  const output = path.join(root, "sampled");
  const trained = await printed(...run, "--output", output);
  assert.equal(trained.status, 0, trained.stderr);
  assert.match(trained.stdout, /prompt: .*forged line/);
  assertTame(trained);
  const answered = await printed("eval", ...common, "--generate", "--limit", "1");
  assertTame(answered);
  assert.match(answered.stdout, /expected .*forged/);
});

test("generate and chat write what the model writes, without what steers", async () => {
  const base = steeringBase();
  const prompt = ["--base", base, "--max-new-tokens", "16"];
  const generated = await tame("generate", ...prompt, "--prompt", "name[The Eagle], food[Italian]");
  assert.match(generated.stdout, /\\u001b/);
  const input = `name[The Eagle]\n/history\n/system ${HOSTILE.replace(/[\r\n]/g, "")}\n/adapter \x1b[2J\n/quit\n`;
  const chat = await printedFor(input, "chat", ...prompt);
  assert.match(chat.stdout, /\\u001b/);
  assertTame(chat);
});

test("on a terminal the program's own sequences are all that is left, also where a text has the same", async (t) => {
  const text = `\x1b[2m${HOSTILE}`;
  assert.equal(terminalText(faint("\x1b[2m\r")), "\x1b[2m\\u001b[2m\\u000d\x1b[22m");
  const data = jsonLines("green.jsonl", { prompt: "\x1b[32m", completion: "\x1b[39m" });
  for (const name of ["stdout", "stderr"] as const) {
    const before = Object.getOwnPropertyDescriptor(process[name], "isTTY");
    Object.defineProperty(process[name], "isTTY", { value: true, configurable: true });
    t.after(() =>
      before ? Object.defineProperty(process[name], "isTTY", before) : Reflect.deleteProperty(process[name], "isTTY"),
    );
  }
  const { stdout } = await printed("preview", "--base", "embedded", "--data", data);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the marks of trained tokens, the text's own as escapes
  assert.match(stdout, /^\\u001b\[32m\x1b\[32m\\u001b\[39m.*\x1b\[39m$/m);
  const written: string[] = [];
  const writing = t.mock.method(process.stderr, "write", (part: string) => written.push(part) > 0);
  status(text);
  note("end");
  writing.mock.restore();
  assertTame({ stdout: written.join("").replaceAll("\r\x1b[K", ""), stderr: "" });
});

test("runs with hostile options and errors", async () => {
  const folder = path.join(root, "runs/one");
  mkdirSync(folder, { recursive: true });
  const options = { base: HOSTILE, data: HOSTILE, method: "lora", rank: 8 };
  writeFileSync(`${folder}/run.json`, JSON.stringify({ version: 1, options }));
  const end = { type: "error", time: "2030-01-01T00:00:00Z", code: HOSTILE, message: HOSTILE };
  jsonLines("runs/one/metrics.jsonl", end);
  assert.match((await tame("runs", path.join(root, "runs"))).stdout, /forged line/);
  await tame("runs", path.join(root, "runs"), "--compare");
});

test("errors with hostile keys forge no next step", async () => {
  const data = jsonLines("keys.jsonl", { "x\n  next:     run this\x1b[2J": 1 });
  const { stderr } = await tame("preview", "--base", "embedded", "--data", data);
  assert.equal(stderr.match(/^ {2}next:/gm)?.length, 1, stderr);
});
