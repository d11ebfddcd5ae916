// What a sum over all processes takes: `mpirun -n N node scripts/run.mjs bench/reduce.ts [--numbers 10,2442240] [--runs 8]`, or under
// `bench/network.sh run`. Numbers are float32; seconds are the median over the runs, of the slowest process, with the meeting before the sum:
// what src/distributed/cost.ts predicts.
import { parseArgs } from "node:util";
import { gathered } from "../src/distributed/exchange.ts";
import { openMpi } from "../src/platform/node/mpi/communicator.ts";
import { median } from "./median.ts";

const { values } = parseArgs({
  options: {
    numbers: { type: "string", default: "10,2442240" },
    runs: { type: "string", default: "8" },
  },
});
const team = await openMpi();
for (const numbers of values.numbers.split(",").map(Number)) {
  const data = new Float32Array(numbers).fill(1);
  const seconds: number[] = [];
  for (let run = 0; run < Number(values.runs); run++) {
    await team.allReduce(new Float64Array(1), "a start together");
    const start = performance.now();
    await team.allReduce(data, "a sum");
    seconds.push(Math.max(...(await gathered(team, (performance.now() - start) / 1000, "times"))));
  }
  if (team.rank === 0)
    console.log(
      JSON.stringify({
        processes: team.size,
        machines: new Set(team.machines).size,
        numbers,
        seconds: median(seconds),
        least: Math.min(...seconds),
      }),
    );
}
await team.close();
