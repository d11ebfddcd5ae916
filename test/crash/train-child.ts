// The process that trainer.test.ts kills: trains the toy into a folder, a checkpoint a step, from what is there.
import { train } from "../../src/train/trainer.ts";
import { toyRun } from "../helpers/toy.ts";

const [folder, steps] = process.argv.slice(2);
const output = { folder: folder!, checkpointEvery: 1, keepCheckpoints: 2, resume: true };
for await (const event of train(toyRun(output, { steps: Number(steps) }))) {
  if (event.type === "checkpoint" || (event.type === "start" && event.resumedFrom))
    process.stdout.write("a checkpoint is there\n");
}
