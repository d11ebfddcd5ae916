// The communicator of each MPI that is installed: what processes compute together, and how a job ends when one of them does not go on.
import assert from "node:assert/strict";
import { test as nodeTest } from "node:test";
import { type Ended, flavours, isInstalled, mpirun, said, testEach } from "./harness.ts";

const PROGRAM = "test/mpi/programs/communicator.ts";
/** The limit of the program on each call, and within which a job has to end after it. */
const LIMIT_S = 2;
const ENDS_WITHIN_S = 10;
/** Most that starting and ending takes on a busy machine, beside the limits. */
const START_S = 15;

const run = (flavour: (typeof flavours)[number], n: number, ...args: (string | number)[]) =>
  mpirun(flavour, n, PROGRAM, args.map(String));

/** The job has ended with this status, in time. */
function endedWith(ended: Ended, code: number | undefined, withinS: number): void {
  assert.ok(ended.seconds < START_S + withinS, `it took ${ended.seconds.toFixed(1)} s`);
  if (code === undefined) assert.ok(ended.code !== 0 && ended.code !== null, `status ${ended.code}`);
  else assert.equal(ended.code, code, ended.stdout + ended.stderr);
}

interface Collectives {
  rank: number;
  size: number;
  local: { rank: number; size: number };
  machines: number;
  library: string;
  bits: string;
  exact: number[];
  copies: string[];
  part: { rank: number; size: number; sum: number };
}

const LIBRARIES = { openmpi: /^Open MPI v/, mpich: /^MPICH Version: / };

for (const n of [1, 2, 3, 4]) {
  testEach(`${n} processes sum to the same bits, copy from each of them, and split`, async (flavour) => {
    const ended = await run(flavour, n, "collectives");
    endedWith(ended, 0, 0);
    const facts = said<Collectives>(ended);
    assert.deepEqual(
      facts.map(({ rank, size, local, machines }) => ({ rank, size, local, machines })),
      Array.from({ length: n }, (_, rank) => ({ rank, size: n, local: { rank, size: n }, machines: n })),
    );
    for (const { rank, library, bits, exact, copies, part } of facts) {
      assert.match(library, LIBRARIES[flavour]);
      assert.equal(bits, facts[0]!.bits);
      assert.equal(exact[0], (n * (n + 1)) / 2);
      assert.equal(exact[1], facts[0]!.exact[1]);
      assert.ok(Math.abs(exact[1]! - (0.1 * n * (n - 1)) / 2) < 1e-12);
      assert.deepEqual(copies, Array(n).fill("same"));
      const others = facts.map((one) => one.rank).filter((one) => one % 2 === rank % 2);
      assert.deepEqual(part, {
        rank: others.indexOf(rank),
        size: others.length,
        sum: others.reduce((sum, one) => sum + one, 0),
      });
      assert.match(ended.stdout, new RegExp(`^end of ${rank}\\r?$`, "m"));
    }
  });
}

nodeTest("openmpi: 2 processes work over TCP, and end", { skip: !isInstalled("openmpi") }, async () => {
  const env = { OMPI_MCA_pml: "ob1", OMPI_MCA_btl: "tcp,self" };
  const ended = await mpirun("openmpi", 2, PROGRAM, ["collectives"], { env });
  endedWith(ended, 0, 0);
  assert.equal(said<Collectives>(ended).length, 2);
});

for (const [scenario, victim] of [
  ["hung", 0],
  ["hung", 2],
  ["stopped", 0],
  ["stopped", 1],
] as const) {
  testEach(`process ${victim} of 3 is ${scenario}: the others name it, and all end`, async (flavour) => {
    const ended = await run(flavour, 3, scenario, victim);
    assert.match(ended.stdout, new RegExp(`process ${victim} of 3 \\(machine .+\\) did not come to: gradients of step 12`));
    assert.doesNotMatch(ended.stdout, /end of/);
    endedWith(ended, 1, LIMIT_S + ENDS_WITHIN_S);
  });
}

for (const victim of [0, 2]) {
  testEach(`process ${victim} of 3 is killed: all end`, async (flavour) => {
    endedWith(await run(flavour, 3, "killed", victim), undefined, ENDS_WITHIN_S);
  });

  testEach(`process ${victim} of 3 aborts: all end with its status`, async (flavour) => {
    endedWith(await run(flavour, 3, "aborted", victim), 3, ENDS_WITHIN_S);
  });

  testEach(`process ${victim} of 3 fails: its message is seen, and all end`, async (flavour) => {
    const ended = await run(flavour, 3, "fails", victim);
    assert.match(ended.stdout, /the disk is full/);
    endedWith(ended, 1, ENDS_WITHIN_S);
  });

  testEach(`process ${victim} of 3 calls something else: it is said who, and what`, async (flavour) => {
    const ended = await run(flavour, 3, "strays", victim);
    assert.match(ended.stdout, /did not come to the same call as process 0/);
    assert.match(ended.stdout, /gradients of step 12 \(sum, length 2,442,240\)/);
    assert.match(ended.stdout, /loss of step 13 \(sum, length 7\)/);
    endedWith(ended, 1, ENDS_WITHIN_S);
  });

  testEach(`process ${victim} of 3 is at its end before the others: it does not leave them`, async (flavour) => {
    const ended = await run(flavour, 3, "leaves", victim);
    assert.match(ended.stdout, /the end of the run/);
    assert.match(ended.stdout, /loss of step 2/);
    endedWith(ended, 1, ENDS_WITHIN_S);
  });
}

testEach("a process that is never heard of: the others say so, and all end", async (flavour) => {
  const ended = await run(flavour, 3, "mute", 1);
  assert.match(ended.stdout, /the data did not reach every process: the first words between the processes/);
  assert.match(ended.stdout, /btl_tcp_if_include/);
  assert.doesNotMatch(ended.stdout, /^end of/m);
  endedWith(ended, 1, LIMIT_S + ENDS_WITHIN_S);
});

testEach("a process that is stopped while data move: all end", async (flavour) => {
  let seen = "";
  let isStopped = false;
  const ended = await mpirun(flavour, 3, PROGRAM, ["working"], {
    onOutput(text) {
      seen += text;
      const pids = [...seen.matchAll(/"rank":(\d),"pid":(\d+)\}/g)];
      if (pids.length < 3 || isStopped) return;
      isStopped = true;
      setTimeout(() => process.kill(Number(pids.find(([, rank]) => rank === "1")![2]), "SIGSTOP"), 500);
    },
  });
  assert.match(ended.stdout, /did not come to: gradients|the data did not reach every process: gradients/);
  endedWith(ended, 1, LIMIT_S + ENDS_WITHIN_S);
});

testEach("a library of another MPI than the launcher's is found out", async (flavour) => {
  const other = flavours.find((one) => one !== flavour && isInstalled(one));
  if (!other) return;
  const LOWRANK_MPI = other === "openmpi" ? "libmpi.so.40" : "libmpich.so.12";
  const ended = await mpirun(flavour, 2, PROGRAM, ["collectives"], { env: { LOWRANK_MPI } });
  assert.match(ended.stdout, /the launcher and the MPI library are not of one MPI/);
  endedWith(ended, 1, ENDS_WITHIN_S);
});
