// What the processes of communicator.test.ts do: the scenario's name, and the process that something happens to.
import { createHash } from "node:crypto";
import { parseArgs } from "node:util";
import { LowrankError } from "../../../src/errors.ts";
import { type MpiCommunicator, openMpi } from "../../../src/platform/node/mpi/communicator.ts";
import { jobOf } from "../../../src/platform/node/mpi/launchers.ts";
import { openLibrary } from "../../../src/platform/node/mpi/library.ts";

/** As many numbers as rank-8 LoRA of SmolLM2-135M trains. */
const GRADIENT = 2_442_240;
const LIMIT_MS = 2000;

const hash = (of: NodeJS.ArrayBufferView) => createHash("sha256").update(of).digest("hex").slice(0, 16);
const say = (facts: object) => process.stdout.write(`${JSON.stringify(facts)}\n`);
const never = () => new Promise<never>(() => setInterval(() => {}, 1000));

const scenarios: Record<string, (mpi: MpiCommunicator, victim: number) => Promise<void>> = {
  async collectives(mpi) {
    const { rank, size } = mpi;
    const numbers = Float32Array.from({ length: 10_007 }, (_, i) => Math.sin(i * 1.7 + rank * 0.31));
    const exact = new Float64Array([rank + 1, 0.1 * rank]);
    // both are asked for at once, and answered in their order
    await Promise.all([mpi.allReduce(numbers, "numbers"), mpi.allReduce(exact, "two numbers")]);
    const copies: string[] = [];
    for (let root = 0; root < size; root++) {
      const bytes = new Uint8Array(1000).fill(rank);
      await mpi.broadcast(bytes, root, `bytes of ${root}`);
      copies.push(bytes.every((byte) => byte === root) ? "same" : "other");
    }
    const part = await mpi.split(rank % 2);
    const inPart = new Float64Array([rank]);
    await part.allReduce(inPart, "ranks");
    await mpi.allReduce(new Float32Array(0), "nothing");
    say({
      ...{ rank, size, local: mpi.local, machines: mpi.machines.length, library: mpi.library, bits: hash(numbers) },
      ...{ exact: [...exact], copies, part: { rank: part.rank, size: part.size, sum: inPart[0] } },
    });
  },
  /** Milliseconds of a step's sum, and of one number: the least and the median. */
  async latency(mpi) {
    const values = new Float32Array(GRADIENT).fill(mpi.rank + 1);
    const times = { all: [] as number[], one: [] as number[] };
    for (let i = 0; i < 50; i++) {
      const start = performance.now();
      await mpi.allReduce(values.fill(1), "gradients");
      const middle = performance.now();
      await mpi.allReduce(new Float64Array(1), "loss");
      times.all.push(middle - start);
      times.one.push(performance.now() - middle);
    }
    const median = (of: number[]) => of.sort((a, b) => a - b)[of.length >> 1];
    say({ rank: mpi.rank, all: [Math.min(...times.all), median(times.all)], one: [Math.min(...times.one), median(times.one)] });
  },
  async hung(mpi, victim) {
    await mpi.allReduce(new Float64Array(1), "loss of step 11");
    if (mpi.rank === victim) await never();
    await mpi.allReduce(new Float32Array(GRADIENT), "gradients of step 12");
  },
  async stopped(mpi, victim) {
    await mpi.allReduce(new Float64Array(1), "loss of step 11");
    if (mpi.rank === victim) process.kill(process.pid, "SIGSTOP");
    await mpi.allReduce(new Float32Array(GRADIENT), "gradients of step 12");
  },
  async killed(mpi, victim) {
    for (let step = 0; ; step++) {
      if (step === 5 && mpi.rank === victim) process.kill(process.pid, "SIGKILL");
      await mpi.allReduce(new Float32Array(GRADIENT), `gradients of step ${step}`);
    }
  },
  /** In a split without a limit one comes long after the others. */
  async late(mpi, victim) {
    const patient = await mpi.split(0, Number.POSITIVE_INFINITY);
    if (mpi.rank === victim) await new Promise((resolve) => setTimeout(resolve, 2 * LIMIT_MS));
    await patient.allReduce(new Float64Array(1), "the end of a trial");
  },
  /** Says its process id, and works until something happens to it. */
  async working(mpi) {
    say({ rank: mpi.rank, pid: process.pid });
    for (let step = 0; ; step++) await mpi.allReduce(new Float32Array(GRADIENT), `gradients of step ${step}`);
  },
  async aborted(mpi, victim) {
    await mpi.allReduce(new Float64Array(1), "loss");
    if (mpi.rank === victim) mpi.abort(3);
    await mpi.allReduce(new Float64Array(1), "loss");
    await never();
  },
  async fails(mpi, victim) {
    await mpi.allReduce(new Float64Array(1), "loss");
    if (mpi.rank === victim) throw new Error("the disk is full");
    await mpi.allReduce(new Float64Array(1), "loss");
  },
  async strays(mpi, victim) {
    await mpi.allReduce(new Float64Array(1), "loss");
    if (mpi.rank === victim) await mpi.allReduce(new Float32Array(7), "loss of step 13");
    else await mpi.allReduce(new Float32Array(GRADIENT), "gradients of step 12");
  },
  async leaves(mpi, victim) {
    await mpi.allReduce(new Float64Array(1), "loss");
    if (mpi.rank !== victim) await mpi.allReduce(new Float64Array(1), "loss of step 2");
  },
};

const { positionals } = parseArgs({ allowPositionals: true });
/** One process has started MPI, and says nothing to the others, as behind a network that does not let it. */
const isMute = positionals[0] === "mute";
try {
  if (isMute && jobOf(process.env)?.rank === Number(positionals[1])) {
    openLibrary(jobOf(process.env)!.abis, process.env).number("MPI_Init_thread", null, null, 0);
    await never();
  }
  const mpi = await openMpi({ timeLimitMs: LIMIT_MS, ...(isMute && { contactLimitMs: LIMIT_MS }) });
  await scenarios[positionals[0]!]!(mpi, Number(positionals[1] ?? 0));
  await mpi.close();
  process.stdout.write(`end of ${mpi.rank}\n`);
} catch (error) {
  process.stdout.write(`${error instanceof LowrankError ? error.describe() : (error as Error).message}\n`);
  process.exitCode = 1;
}
