// What a launcher of MPI jobs says to the processes that it starts, in variables of their environment.
import type { Environment } from "../part-cache.ts";
import type { AbiName } from "./abis.ts";

/** The job that a process was started in. */
export interface Job {
  launcher: string;
  /** Which process this is, and of how many; not every launcher says how many. */
  rank: number;
  size?: number;
  /** Kinds of libraries that the launcher starts, the likeliest first; none where it does not help MPI's processes to find each other. */
  abis: readonly AbiName[];
}

interface Launcher {
  name: string;
  rank: string;
  size?: string;
  /** Variables without which others than this launcher have set the two. */
  with?: readonly string[];
  abis: readonly AbiName[];
}

/**
 * In the order in which they are looked for: mpirun inside a Slurm job sees Slurm's variables too. Those of Slurm are of a job step:
 * a batch script has no SLURM_STEP_NUM_TASKS, and is one process.
 */
const launchers: readonly Launcher[] = [
  { name: "Open MPI's mpirun", rank: "OMPI_COMM_WORLD_RANK", size: "OMPI_COMM_WORLD_SIZE", abis: ["openMpi", "standard"] },
  { name: "MVAPICH's mpirun_rsh", rank: "MV2_COMM_WORLD_RANK", size: "MV2_COMM_WORLD_SIZE", abis: ["mpich", "standard"] },
  { name: "MPICH's mpirun", rank: "PMI_RANK", size: "PMI_SIZE", with: ["MPI_LOCALNRANKS"], abis: ["mpich", "standard"] },
  {
    name: "srun --mpi=pmix",
    rank: "SLURM_PROCID",
    size: "SLURM_STEP_NUM_TASKS",
    with: ["PMIX_RANK"],
    abis: ["openMpi", "standard", "mpich"],
  },
  {
    name: "srun --mpi=pmi2",
    rank: "SLURM_PROCID",
    size: "SLURM_STEP_NUM_TASKS",
    with: ["PMI_RANK"],
    abis: ["mpich", "standard", "openMpi"],
  },
  {
    name: "srun --mpi=cray_shasta",
    rank: "SLURM_PROCID",
    size: "SLURM_STEP_NUM_TASKS",
    with: ["PALS_RANKID"],
    abis: ["mpich", "standard"],
  },
  { name: "srun --mpi=none", rank: "SLURM_PROCID", size: "SLURM_STEP_NUM_TASKS", abis: [] },
  { name: "Flux", rank: "FLUX_TASK_RANK", size: "FLUX_JOB_SIZE", abis: ["openMpi", "standard", "mpich"] },
  { name: "PALS", rank: "PALS_RANKID", size: "PALS_SIZE", abis: ["mpich", "standard", "openMpi"] },
  { name: "a launcher with PMI", rank: "PMI_RANK", size: "PMI_SIZE", abis: ["mpich", "standard", "openMpi"] },
  { name: "a launcher with PMIx", rank: "PMIX_RANK", abis: ["openMpi", "standard", "mpich"] },
];

/** The number in a variable, or NaN. */
const numberIn = (text: string | undefined): number => (/^\d+$/.test(text ?? "") ? Number(text) : Number.NaN);

/** The job that this process was started in, by its environment, or null. */
export function jobOf(environment: Environment): Job | null {
  for (const { name, rank, size, with: others = [], abis } of launchers) {
    const job = { launcher: name, rank: numberIn(environment[rank]), size: size && numberIn(environment[size]), abis };
    const isIt = job.rank >= 0 && (size === undefined || Number(job.size) > 0) && others.every((one) => environment[one]);
    if (isIt) return job as Job;
  }
  return null;
}

/** The job of several processes that this one is of; null where it was started alone, and needs no MPI. */
export function launched(environment: Environment): Job | null {
  const job = jobOf(environment);
  return job?.size === 1 ? null : job;
}
