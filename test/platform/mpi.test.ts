// What is known of MPI before it is started: the job that a launcher has made, and the library. What needs MPI is in test/mpi.
import assert from "node:assert/strict";
import { test } from "node:test";
import { LowrankError } from "../../src/errors.ts";
import { type Abi, abis } from "../../src/platform/node/mpi/abis.ts";
import { openMpi } from "../../src/platform/node/mpi/communicator.ts";
import { jobOf, launched } from "../../src/platform/node/mpi/launchers.ts";

/** Variables as launchers set them, with those of a launcher around it. */
const environments = {
  openMpi: { OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_RANK: "3", PMIX_RANK: "3", SLURM_STEP_ID: "0" },
  hydra: { PMI_SIZE: "4", PMI_RANK: "0", MPI_LOCALNRANKS: "2", SLURM_STEP_NUM_TASKS: "2", SLURM_PROCID: "1" },
  mvapich: { MV2_COMM_WORLD_SIZE: "2", MV2_COMM_WORLD_RANK: "1" },
  pmi2: { SLURM_STEP_NUM_TASKS: "8", SLURM_PROCID: "5", SLURM_NTASKS: "16", PMI_RANK: "5", PMI_SIZE: "8" },
  pmix: { SLURM_STEP_NUM_TASKS: "8", SLURM_PROCID: "5", PMIX_RANK: "5" },
  none: { SLURM_STEP_NUM_TASKS: "8", SLURM_PROCID: "5" },
  prrte: { PMIX_RANK: "2" },
};

test("the launcher says which process this is, of how many, and which MPI it starts", () => {
  const found = Object.entries(environments).map(([name, environment]) => {
    const { launcher, rank, size, abis } = launched(environment)!;
    return [name, launcher, rank, size, abis[0]];
  });
  assert.deepEqual(found, [
    ["openMpi", "Open MPI's mpirun", 3, 4, "openMpi"],
    ["hydra", "MPICH's mpirun", 0, 4, "mpich"],
    ["mvapich", "MVAPICH's mpirun_rsh", 1, 2, "mpich"],
    ["pmi2", "srun --mpi=pmi2", 5, 8, "mpich"],
    ["pmix", "srun --mpi=pmix", 5, 8, "openMpi"],
    ["none", "srun --mpi=none", 5, 8, undefined],
    ["prrte", "a launcher with PMIx", 2, undefined, "openMpi"],
  ]);
});

test("a process that was started alone, in a batch script, or as the only one of a job, needs no MPI", () => {
  assert.equal(launched({}), null);
  assert.equal(launched({ SLURM_NTASKS: "8", SLURM_PROCID: "0", SLURM_JOB_ID: "7" }), null);
  assert.equal(launched({ OMPI_COMM_WORLD_SIZE: "1", OMPI_COMM_WORLD_RANK: "0" }), null);
  assert.equal(jobOf({ OMPI_COMM_WORLD_SIZE: "1", OMPI_COMM_WORLD_RANK: "0" })?.size, 1);
  assert.equal(launched({ PMI_SIZE: "many", PMI_RANK: "0" }), null);
});

test("each library is told by what it says of itself, the standard one by its file", () => {
  const kind = (file: string, version: string) => Object.entries<Abi>(abis).findLast(([, row]) => row.is(file, version))?.[0];
  assert.equal(kind("libmpi.so.40", "Open MPI v5.0.6, package: Open MPI, ident: 5.0.6"), "openMpi");
  assert.equal(kind("libmpi.so.12", "MPICH Version:\t4.0.2\nMPICH Release date:"), "mpich");
  assert.equal(kind("libmpi.so.12", "Intel(R) MPI Library 2021.12 for Linux* OS"), "mpich");
  assert.equal(kind("libmpi_cray.so.12", "MPI VERSION    : CRAY MPICH version 8.1.28"), "mpich");
  assert.equal(kind("libmpi.so.12", "MVAPICH2 Version      :\t2.3.7"), "mpich");
  assert.equal(kind("/opt/mpi/lib/libmpi_abi.so.1", "MPICH Version:\t5.0.0"), "standard");
  assert.equal(kind("/opt/mpi/lib/libmpi_abi.so.1", "Open MPI v6.0.0"), "standard");
  assert.equal(kind("libmpi.so", "HPE MPT 2.28"), undefined);
});

const refusal = async (environment: Record<string, string>, code = "distributed/library") => {
  const error = await openMpi({ environment }).then(
    () => assert.fail("it opened"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof LowrankError);
  assert.equal(error.code, code);
  assert.equal(error.exitCode, 1);
  return error;
};

test("a library that is absent is named, with what to install", async () => {
  const error = await refusal({ LOWRANK_MPI: "/nowhere/libmpi.so" });
  assert.equal(error.message, "there is no MPI library");
  assert.equal(error.subject, "/nowhere/libmpi.so");
  assert.match(error.next!, /apt-get install openmpi-bin.*dnf.*brew.*LOWRANK_MPI/s);
});

test("a library that is not MPI is refused", async () => {
  const library = process.platform === "darwin" ? "libSystem.B.dylib" : "libc.so.6";
  const error = await refusal({ LOWRANK_MPI: library });
  assert.equal(error.message, "the library is not MPI");
  assert.match(error.got!, /MPI_Get_library_version/);
});

test("processes that srun has started by themselves are refused before MPI is", async () => {
  const error = await refusal(environments.none, "distributed/launcher");
  assert.equal(error.subject, "srun --mpi=none");
  assert.match(error.next!, /--mpi=pmix .*--mpi=pmi2/);
});
