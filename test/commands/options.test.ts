// An option is declared once: its flag, its help, its default and its place in config files follow from that.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { z } from "zod";
import { makeProgram } from "../../src/cli/program.ts";
import { defineCommand } from "../../src/commands/command.ts";
import { parseValue, readConfigFile, writeConfig } from "../../src/commands/config-file.ts";
import { describeOptions, option, pick, reworded } from "../../src/options.ts";
import { runOptions } from "../../src/train/options.ts";
import { memoryFiles } from "../helpers/memory-files.ts";

const options = {
  ...pick(runOptions, "rank"),
  marginWidth: option(z.number().default(0.5), { value: "X", section: "run", help: "how far apart they should be" }),
  lossKind: option(z.enum(["near", "far"]).optional(), { help: "which loss" }),
  tags: option(z.array(z.string()).optional(), { help: "a tag; can be repeated" }),
  layers: option(z.array(z.number()).nullable().default(null), { value: "N,N,…", commas: true, help: "which layers" }),
  either: option(z.union([z.boolean(), z.literal("auto")]).default(true), { help: "yes, no or auto" }),
  quick: option(z.boolean().default(false), { help: "be quick" }),
};
const described = describeOptions(options);
const named = (name: string) => described.find((one) => one.name === name)!;

describe("an option that is declared", () => {
  it("has a flag, whose help names its value, choices and default", () => {
    const program = makeProgram(
      { try: defineCommand({ summary: "try", options, examples: [""], run: async () => 0 }) },
      () => {},
    );
    const help = program.commands[0]!.helpInformation().replace(/ +/g, " ");
    assert.match(help, /\n --rank <N> rank of the adapter \(default 8\)\n/);
    assert.match(help, /\n --margin-width <X> how far apart they should be \(default 0.5\)\n/);
    assert.match(help, /\n --loss-kind <NAME> which loss \(near, far\)\n/);
    assert.match(help, /\n --quick be quick\n/);
  });

  it("has the values of its type on the command line", () => {
    const values: [string, string, unknown][] = [
      ["marginWidth", "1e-1", 0.1],
      ["lossKind", "far", "far"],
      ["tags", "a,b", ["a,b"]],
      ["layers", "0,2", [0, 2]],
      ["either", "false", false],
      ["either", "auto", "auto"],
    ];
    for (const [name, text, value] of values) assert.deepEqual(parseValue(named(name), text), value);
    const wrong: [string, string, string][] = [
      ["marginWidth", "wide", "a number"],
      ["lossKind", "middle", "one of near, far"],
      ["layers", "0,x", "whole numbers with commas between them"],
    ];
    for (const [name, text, expected] of wrong)
      assert.throws(() => parseValue(named(name), text), { code: "cli/value", subject: named(name).flag, expected, got: text });
  });

  it("stands in its section of a config file, which reads as it was written", async () => {
    const text = writeConfig(options, { marginWidth: 2, layers: [1] }, []);
    assert.match(text, /--- The adapter ---\n\n# rank of the adapter\n#rank: 8\n/);
    assert.match(text, /--- The run ---\n\n# how far apart they should be\nmarginWidth: 2\n/);
    assert.match(text, /--- Everything else ---\n\n# which loss \(near, far\)\n#lossKind:\n/);
    const files = memoryFiles({ "c.yaml": text });
    assert.deepEqual(await readConfigFile(files, "c.yaml", described), { marginWidth: 2, layers: [1] });
  });

  it("keeps what is known of it when another type is put around it, or its help changes", () => {
    const [inner, outer] = describeOptions({
      inner: runOptions.base.optional(),
      outer: reworded(runOptions.rank, { help: "another" }),
    });
    assert.deepEqual([inner!.value, inner!.model, inner!.isRequired], ["MODEL", true, false]);
    assert.deepEqual([outer!.help, outer!.usual, named("rank").help], ["another", "8", "rank of the adapter"]);
  });
});
