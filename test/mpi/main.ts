// npm run test:mpi: the files *.test.ts beside this one, under mpirun of each MPI that is installed. Without any, all is skipped.
// -- FILE… runs some of them.
import { flavours, isInstalled } from "./harness.ts";

for (const flavour of flavours) if (!isInstalled(flavour)) console.log(`${flavour} is not installed: its tests are skipped`);
if (process.argv.length === 2) process.argv.push("test/mpi");
process.argv.push("--in-turn");
await import("../run.ts");
