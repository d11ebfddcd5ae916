// npm run fuzz -- [--runs N] [--seed S] [--only NAME,…] [--first RUN]: damaged files through every reader. See docs/safety.md.
import { parseArgs } from "node:util";
import { fuzz } from "./fuzz.ts";

const { values } = parseArgs({
  options: {
    runs: { type: "string", default: "100000" },
    seed: { type: "string", default: "1" },
    only: { type: "string" },
    first: { type: "string", default: "0" },
    threads: { type: "string", default: "2" },
  },
});
const seed = Number(values.seed);
const save = "tmp/fuzz";
const began = performance.now();
const seconds = () => ((performance.now() - began) / 1000).toFixed(0);
console.log(`seed ${seed}, ${values.runs} runs`);
let told = 0;
const { accepted, refused, faults } = await fuzz({
  seed,
  runs: Number(values.runs),
  targets: "fuzz/targets.ts",
  only: values.only?.split(","),
  first: Number(values.first),
  threads: Number(values.threads),
  save,
  onProgress: (done) => {
    if (done < told + 10_000) return;
    told = done - (done % 10_000);
    console.log(`${told} runs, ${seconds()} s`);
  },
});
for (const { target, run, what } of faults) {
  console.log(
    `\n${target}, run ${run}: ${what
      .split("\n")
      .slice(0, 8)
      .map((line) => line.slice(0, 200))
      .join("\n")}`,
  );
  console.log(
    `input: ${save}/${target}-${seed}-${run}; again: npm run fuzz -- --only ${target} --seed ${seed} --first ${run} --runs 1`,
  );
}
const megabytes = (process.resourceUsage().maxRSS / 1024).toFixed(0);
console.log(
  `${accepted} accepted, ${refused} refused, ${faults.length} faults; seed ${seed}, ${seconds()} s, at most ${megabytes} MB`,
);
process.exitCode = faults.length > 0 || accepted + refused === 0 ? 1 : 0;
