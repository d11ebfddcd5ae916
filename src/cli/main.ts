#!/usr/bin/env node
// The lowrank command.
import { main } from "./program.ts";
import { outputFailed } from "./terminal.ts";

// A reader that goes away (as in `lowrank inspect … | head`) ends the program; it is no failure.
process.stdout.on("error", outputFailed);
process.stderr.on("error", outputFailed);
process.exitCode = await main(process.argv.slice(2));
