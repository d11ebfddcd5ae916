// The binary interfaces of MPI libraries: a row says where such a library is looked for and what the constants of mpi.h are in it.
// Open MPI 4.1 and MPICH 4.0's mpi.h, and chapter 20 of the MPI 5.0 standard.

/** A constant of mpi.h: a number, an address, or the address of a global by its name. */
export type Constant = number | bigint | string;

export interface Abi {
  /** Who has it. */
  name: string;
  /** File names that the system's loader finds, by platform. */
  files: Partial<Record<NodeJS.Platform, readonly string[]>>;
  /** Folders beside the loader's where packages put them, and variables that name the folder above lib. */
  folders: readonly string[];
  roots: readonly string[];
  /** Whether a library has it, by its file and by what MPI_Get_library_version says. */
  is(file: string, version: string): boolean;
  /** C type of a communicator, datatype, operation or request. */
  handle: "void *" | "int";
  handles: Record<"world" | "float32" | "float64" | "byte" | "sum" | "noInfo" | "errorsReturn", Constant>;
  inPlace: bigint;
  /** MPI_STATUS_IGNORE, MPI_STATUSES_IGNORE. */
  noStatus: bigint;
  anySource: number;
  /** MPI_COMM_TYPE_SHARED. */
  shared: number;
  /** MPI_THREAD_SERIALIZED: levels are in the order of their numbers. */
  serialized: number;
}

export const abis = {
  openMpi: {
    name: "Open MPI",
    files: { linux: ["libmpi.so.40"], darwin: ["libmpi.40.dylib"] },
    folders: ["/usr/lib64/openmpi/lib", "/opt/homebrew/lib", "/usr/local/lib", "/opt/local/lib/openmpi-mp"],
    roots: ["OPAL_PREFIX", "MPI_HOME", "CONDA_PREFIX"],
    is: (_, version) => /^Open MPI/.test(version),
    handle: "void *",
    handles: {
      world: "ompi_mpi_comm_world",
      float32: "ompi_mpi_float",
      float64: "ompi_mpi_double",
      byte: "ompi_mpi_byte",
      sum: "ompi_mpi_op_sum",
      noInfo: "ompi_mpi_info_null",
      errorsReturn: "ompi_mpi_errors_return",
    },
    inPlace: 1n,
    noStatus: 0n,
    anySource: -1,
    shared: 0,
    serialized: 2,
  },
  mpich: {
    name: "MPICH",
    files: {
      linux: ["libmpich.so.12", "libmpi.so.12", "libmpi_cray.so.12", "libmpi_gnu.so.12"],
      darwin: ["libmpi.12.dylib", "libmpich.12.dylib"],
    },
    folders: ["/usr/lib64/mpich/lib", "/opt/homebrew/lib", "/usr/local/lib", "/opt/local/lib/mpich-mp"],
    roots: ["I_MPI_ROOT", "CRAY_MPICH_DIR", "MPI_HOME", "CONDA_PREFIX"],
    is: (_, version) => /MPICH|MVAPICH|Intel\(R\) MPI|ParaStation/i.test(version),
    handle: "int",
    handles: {
      world: 0x44000000,
      float32: 0x4c00040a,
      float64: 0x4c00080b,
      byte: 0x4c00010d,
      sum: 0x58000003,
      noInfo: 0x1c000000,
      errorsReturn: 0x54000001,
    },
    inPlace: 2n ** 64n - 1n,
    noStatus: 1n,
    anySource: -2,
    shared: 1,
    serialized: 2,
  },
  standard: {
    name: "MPI 5's standard ABI",
    files: { linux: ["libmpi_abi.so.1"], darwin: ["libmpi_abi.1.dylib"] },
    folders: ["/opt/homebrew/lib", "/usr/local/lib"],
    roots: ["MPI_HOME", "CONDA_PREFIX"],
    is: (file) => /mpi_abi/.test(file), // every MPI may have one beside its own library
    handle: "void *",
    handles: {
      world: 0x101n,
      float32: 0x210n,
      float64: 0x214n,
      byte: 0x247n,
      sum: 0x21n,
      noInfo: 0x130n,
      errorsReturn: 0x143n,
    },
    inPlace: 1n,
    noStatus: 0n,
    anySource: -1,
    shared: 221,
    serialized: 2048,
  },
} as const satisfies Record<string, Abi>;

export type AbiName = keyof typeof abis;

/** Bytes of the longest texts (MPI_MAX_PROCESSOR_NAME and its kin), in any of them. */
export const MAX_TEXT = { machine: 256, error: 512, version: 8192 };
