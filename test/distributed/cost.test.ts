// What a step in several processes costs: the arithmetic, and sums that were measured over networks of known rate and latency.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { bytesSent, exchangeSeconds, meetingSeconds, sumSeconds } from "../../src/distributed/cost.ts";

const gigabit = { bitsPerSecond: 1e9, latency: 5e-5 };
const each = (processes: number) => ({ processes, perMachine: 1 });

describe("the sum over all processes", () => {
  it("is nothing for one process", () => {
    assert.equal(exchangeSeconds(each(1), gigabit, 1e7), 0);
    assert.equal(meetingSeconds(each(1), gigabit), 0);
  });

  it("sends 2(N−1)/N of the bytes", () => {
    assert.equal(bytesSent({ processes: 2 }, 1000), 1000);
    assert.equal(bytesSent({ processes: 4 }, 1000), 1500);
  });

  it("takes hardly longer among 512 machines than among 8, but for the latency", () => {
    const [few, many] = [8, 512].map((n) => sumSeconds(each(n), gigabit, 1e8)) as [number, number];
    assert.ok(many / few < 1.15, `${few} s, ${many} s`);
    assert.ok(Math.abs(sumSeconds(each(512), gigabit, 0) - 18 * gigabit.latency) < 1e-12);
  });

  it("does not see the network inside one machine", () => {
    const inside = { processes: 4, perMachine: 4 };
    assert.equal(sumSeconds(inside, gigabit, 1e8), sumSeconds(inside, { bitsPerSecond: 1, latency: 9 }, 1e8));
    assert.ok(sumSeconds({ processes: 4, perMachine: 2 }, gigabit, 1e8) > sumSeconds(inside, gigabit, 1e8));
  });

  // bench/network.sh up 2 RATE DELAY; bench/network.sh run MPI 2 1 node scripts/run.mjs bench/reduce.ts: seconds of 2,442,240 float32, with the
  // meeting before them, of Open MPI 4.1.4 and MPICH 4.0.2.
  const measured: [string, bitsPerSecond: number, latency: number, openMpi: number, mpich: number][] = [
    ["1 Gbit/s, 0.05 ms", 1e9, 5e-5, 0.0801, 0.0807],
    ["1 Gbit/s, 0.2 ms", 1e9, 2e-4, 0.0814, 0.0829],
    ["1 Gbit/s, 0.5 ms", 1e9, 5e-4, 0.0843, 0.0874],
    ["1 Gbit/s, 1 ms", 1e9, 1e-3, 0.1695, 0.1401],
  ];
  for (const [name, bitsPerSecond, latency, ...libraries] of measured)
    it(`is within 25 % of what was measured at ${name}`, () => {
      const network = { bitsPerSecond, latency };
      const predicted = sumSeconds(each(2), network, 4 * 2_442_240) + meetingSeconds(each(2), network);
      for (const seconds of libraries)
        assert.ok(Math.abs(predicted / seconds - 1) < 0.25, `${predicted} s, measured ${seconds} s`);
    });
});
