// The command line in a folder of each process's own: the first argument has them, with commas between; the rest is lowrank's.
import { launched } from "../../../src/platform/node/mpi/launchers.ts";

const [folders = "", ...args] = process.argv.slice(2);
process.argv.splice(2, Number.POSITIVE_INFINITY, ...args);
process.chdir(folders.split(",")[launched(process.env)?.rank ?? 0]!);
await import("../../../src/cli/main.ts");
