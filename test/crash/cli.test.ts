// lowrank train as a process, killed a few times: always resumable, the same bits at the end. npm run crash does it 200 times.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import { programArgs } from "../helpers/program.ts";
import { fixtures } from "../helpers/repository.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { crash } from "./crash.ts";

const KILLS = 3;
const folder = temporaryFolder();

test(`the command killed ${KILLS} times ends with the bits of an undisturbed run`, { timeout: 300_000 }, async () => {
  const { kills, finished } = await crash({
    program: programArgs,
    run: ["--base", `${fixtures}/tiny-llama`, "--data", `${fixtures}/tiny-e2e/eval.jsonl`, "--batch-size", "2", "--threads", "1"],
    steps: 40,
    checkpointEvery: 4,
    kills: KILLS,
    seed: 3,
    folder,
    lifeMs: 1000,
  });
  assert.equal(kills.length, KILLS);
  assert.ok(finished > 0);
});
