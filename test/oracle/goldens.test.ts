// PEFT's numbers for tiny models: every golden in test/fixtures/cases passes.
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { runCase } from "../../scripts/oracle/run.ts";
import { parseAdapterConfig } from "../../src/adapters/config.ts";
import { methodOf } from "../../src/adapters/method-table.ts";
import { fixtures } from "../helpers/repository.ts";
import { slow } from "../helpers/slow.ts";

const cases = `${fixtures}/cases`;
const names = (await readdir(cases)).sort();
const read = (name: string, file: string) => readFile(path.join(cases, name, file), "utf8");

/** The first golden of each kind, by the kind's name. */
type Firsts = Map<string, string>;
const [tasks, families, methods]: [Firsts, Firsts, Firsts] = [new Map(), new Map(), new Map()];
for (const name of names) {
  const { task } = JSON.parse(await read(name, "meta.json"));
  const { model_type: family } = JSON.parse(await read(name, "base/config.json"));
  const { title } = methodOf(parseAdapterConfig(await read(name, "adapter/adapter_config.json"), "adapter_config.json"));
  for (const [firsts, kind] of [
    [tasks, task],
    [families, family],
    [methods, title],
  ] as const)
    if (!firsts.has(kind)) firsts.set(kind, name);
}
/** These run in the fast tests, too. */
const samples = new Set(tasks.values());
/** The training graphs of these are executed in every way; `npm run oracle` does it for all. */
const whole = new Set([...tasks.values(), ...families.values(), ...methods.values()]);

for (const name of names) {
  test(`golden ${name}`, samples.has(name) ? {} : slow, async () => {
    const { status, text } = await runCase(path.join(cases, name), { executions: whole.has(name) ? "all" : "one" });
    assert.equal(status, "ok", text);
    const compared = ["base outputs", "adapter outputs", "loss", "gradients", "losses", "trained tensors"];
    if (whole.has(name)) compared.push("gradients in blocks", "gradients with nothing kept", "gradients in one piece");
    for (const what of [...compared, "merg(ed weights|ing refused)"]) assert.match(text, new RegExp(`${what} \\d`));
  });
}

test("every family and option that is built has a golden", () => {
  for (const name of ["llama-gqa-tied", "mistral-swa", "qwen2-bias", "qwen3-qknorm", "lora-packed", "lora-accumulate"]) {
    assert.ok(names.includes(name), name);
  }
  assert.ok(families.size >= 20 && methods.size >= 4, `${families.size} families, ${methods.size} methods`);
});
