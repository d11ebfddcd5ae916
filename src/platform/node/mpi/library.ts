// An MPI library: found, told apart from others, and called. MPI 3.1's C bindings.
import { existsSync } from "node:fs";
import path from "node:path";
import type { LibraryHandle } from "koffi";
import { LowrankError } from "../../../errors.ts";
import { loadForever } from "../libraries.ts";
import type { Environment } from "../part-cache.ts";
import { type Abi, type AbiName, abis, type Constant, MAX_TEXT } from "./abis.ts";

/** The variable that names the library. */
export const LIBRARY_VARIABLE = "LOWRANK_MPI";

const [POINTER, HANDLE] = ["void *", "handle"];

/** Arguments of the functions by their C types. */
const signatures = {
  MPI_Init_thread: [POINTER, POINTER, "int", POINTER],
  MPI_Finalize: [],
  MPI_Abort: [HANDLE, "int"],
  MPI_Comm_rank: [HANDLE, POINTER],
  MPI_Comm_size: [HANDLE, POINTER],
  MPI_Comm_set_errhandler: [HANDLE, HANDLE],
  MPI_Comm_split: [HANDLE, "int", "int", POINTER],
  MPI_Comm_split_type: [HANDLE, "int", "int", HANDLE, POINTER],
  MPI_Comm_free: [POINTER],
  MPI_Get_processor_name: [POINTER, POINTER],
  MPI_Allgather: [POINTER, "int", HANDLE, POINTER, "int", HANDLE, HANDLE],
  MPI_Allreduce: [POINTER, POINTER, "int", HANDLE, HANDLE, HANDLE],
  MPI_Bcast: [POINTER, "int", HANDLE, "int", HANDLE],
  MPI_Isend: [POINTER, "int", HANDLE, "int", "int", HANDLE, POINTER],
  MPI_Irecv: [POINTER, "int", HANDLE, "int", "int", HANDLE, POINTER],
  MPI_Testsome: ["int", POINTER, POINTER, POINTER, POINTER],
  MPI_Iprobe: ["int", "int", HANDLE, POINTER, POINTER],
  MPI_Error_string: ["int", POINTER, POINTER],
  MPI_Get_library_version: [POINTER, POINTER],
} as const satisfies Record<string, readonly string[]>;

type Name = keyof typeof signatures;

/** A communicator, datatype, operation or request. */
export type MpiHandle = number | bigint;

export interface Mpi {
  /** As the loader found it, and what it says that it is. */
  file: string;
  version: string;
  abi: Abi;
  handles: Record<keyof Abi["handles"], MpiHandle>;
  /** Calls a function; throws where it returns an error. */
  call(name: Name, ...args: readonly unknown[]): void;
  /** The same on a thread of its own. */
  later(name: Name, ...args: readonly unknown[]): Promise<void>;
  /** Memory for so many handles. */
  memory(count: number): BigUint64Array | Int32Array;
  /** The number that a function writes to its last argument. */
  number(name: Name, ...args: readonly unknown[]): number;
}

/**
 * What UCX, the transport below many MPI libraries, is set to where the user has not. Its memory events are hooks into the allocator, and
 * a test of them that shrinks the heap by what other threads of Node may just have got; its handler of crashes takes SIGSEGV from V8, and
 * leaves a process that crashes hanging.
 */
const SETTINGS = { UCX_MEM_EVENTS: "n", UCX_HANDLE_ERRORS: "none" };

/** The first library that is there of the kinds `wanted`; the one that LOWRANK_MPI names before any. */
export function openLibrary(wanted: readonly AbiName[], environment: Environment): Mpi {
  const named = environment[LIBRARY_VARIABLE];
  const refused: unknown[] = [];
  for (const [name, value] of Object.entries(SETTINGS)) process.env[name] ??= value; // C code of this process reads it there
  for (const file of named ? [named] : wanted.flatMap((name) => places(abis[name], environment))) {
    try {
      return bind(file, loadForever(file));
    } catch (error) {
      refused.push(error);
    }
  }
  const known = refused.findLast((error) => error instanceof LowrankError); // of a library that is there
  if (known) throw known;
  throw new LowrankError("distributed/library", "there is no MPI library", {
    subject: named,
    expected: wanted.map((name) => abis[name].name).join(" or "),
    got: named ? (refused[0] as Error).message : "none in the places where the system and its packages have them",
    next: `Install it on every machine: apt-get install openmpi-bin or mpich (Debian), dnf install openmpi or mpich (Fedora), brew install open-mpi or mpich (macOS). One in another place is named by ${LIBRARY_VARIABLE}=/path/to/libmpi.so.`,
    exitCode: 1,
  });
}

/** Where a kind of library may be: as the loader finds it, then whole paths of files that are there. */
function places({ files, folders, roots }: Abi, environment: Environment): string[] {
  const names = files[process.platform] ?? [];
  const above = roots.flatMap((root) => environment[root] ?? []);
  const inside = [...above.flatMap((root) => [path.join(root, "lib"), path.join(root, "lib", "release")]), ...folders];
  return [
    ...names,
    ...inside.flatMap((folder) => names.map((name) => path.join(folder, name))).filter((file) => existsSync(file)),
  ];
}

/** The text that a function writes to its first pointer, and its length to the second. */
export function writtenText(call: (text: Uint8Array, length: Int32Array) => void, most: number): string {
  const [text, length] = [new Uint8Array(most), new Int32Array(1)];
  call(text, length);
  return new TextDecoder().decode(text.subarray(0, length[0]));
}

function bind(file: string, library: LibraryHandle): Mpi {
  const bound = (name: Name, handle: string) =>
    library.func(
      name,
      "int",
      signatures[name].map((type) => (type === HANDLE ? handle : type)),
    );
  const version = versionOf(file, () => writtenText(bound("MPI_Get_library_version", POINTER), MAX_TEXT.version));
  const abi: Abi | undefined = Object.values<Abi>(abis).findLast((row) => row.is(file, version));
  if (!abi) throw notKnown(file, version);

  const functions = Object.fromEntries(
    (Object.keys(signatures) as Name[]).map((name) => [name, bound(name, abi.handle)]),
  ) as Record<Name, ReturnType<typeof bound>>;
  const constant = (of: Constant): MpiHandle => (typeof of === "string" ? library.symbol(of) : of);
  const check = (name: Name, code: number) => {
    if (code !== 0)
      throw failed(
        name,
        writtenText((text, length) => functions.MPI_Error_string(code, text, length), MAX_TEXT.error),
      );
  };
  /** Arguments of the calls at work: the library uses their memory from another thread. */
  const atWork = new Set<readonly unknown[]>();
  const call: Mpi["call"] = (name, ...args) => check(name, functions[name](...args));
  return {
    file,
    version: version
      .split("\n", 1)[0]!
      .replaceAll(/[\s\0]+/g, " ")
      .trim(),
    abi,
    handles: Object.fromEntries(Object.entries(abi.handles).map(([name, of]) => [name, constant(of)])) as Mpi["handles"],
    call,
    later: (name, ...args) =>
      new Promise((resolve, reject) => {
        atWork.add(args);
        functions[name].async(...args, (error: Error | null, code: number) => {
          atWork.delete(args);
          try {
            if (error) throw error;
            check(name, code);
            resolve();
          } catch (failure) {
            reject(failure);
          }
        });
      }),
    memory: (count) => (abi.handle === "int" ? new Int32Array(count) : new BigUint64Array(count)),
    number(name, ...args) {
      const out = new Int32Array(1);
      call(name, ...args, out);
      return out[0]!;
    },
  };
}

function versionOf(file: string, read: () => string): string {
  try {
    return read();
  } catch (cause) {
    throw new LowrankError("distributed/library", "the library is not MPI", {
      subject: file,
      expected: "a library with the functions of MPI 3",
      got: (cause as Error).message,
      next: `Correct ${LIBRARY_VARIABLE}, or remove it: installed libraries are found without it.`,
      exitCode: 1,
      cause,
    });
  }
}

const notKnown = (file: string, version: string) =>
  new LowrankError("distributed/library", "the MPI library is of a kind that is not known", {
    subject: file,
    expected: Object.values(abis)
      .map(({ name }) => name)
      .join(", "),
    got: version,
    next: `Name another library by ${LIBRARY_VARIABLE}=/path/to/libmpi.so; every MPI 5 has a libmpi_abi.`,
    exitCode: 1,
  });

const failed = (name: string, message: string) =>
  new LowrankError("distributed/mpi", "the MPI library reports an error", {
    subject: name,
    got: message,
    next: "See what the launcher and the other processes say: where one has ended, or a network is down, the rest fail after it.",
    exitCode: 1,
  });
