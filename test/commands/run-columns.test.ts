// A run whose columns were named: eval finds them again, and a run that is refused leaves no folder.
// slow
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { finetune, type LowrankError } from "../../src/index.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { readRunChoices } from "../../src/train/run-file.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";

const base = `${fixtures}/tiny-llama`;

test("columns of a run", async (t) => {
  const folder = temporaryFolder(t);
  const [data, output] = [`${folder}/tickets.csv`, `${folder}/adapter`];
  writeFileSync(data, 'message,team\n"The lamp is broken.",repairs\n"Where is my parcel?",delivery\n');
  const train = async (columns: { promptColumn?: string; completionColumn?: string }) => {
    for await (const _ of finetune({ base, data, output, steps: 1, ...columns }));
  };

  await assert.rejects(train({}), (error: LowrankError) => {
    assert.match(error.next!, /--prompt-column message --completion-column team/);
    return error.code === "data/keys";
  });
  assert.ok(!existsSync(output), "the refused run left no folder");

  const columns = { promptColumn: "message", completionColumn: "team" };
  await train(columns);
  assert.deepEqual(await readRunChoices(nodeFiles, output), columns);
  assert.deepEqual(await readRunChoices(nodeFiles, base), {}, "a folder without run.json names none");
});
