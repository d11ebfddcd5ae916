#!/usr/bin/env node
import { outputFailed } from "../terminal/terminal.ts";
// The lowrank command.
import { main } from "./program.ts";

// A reader that goes away (as in `lowrank inspect … | head`) ends the program; it is no failure.
process.stdout.on("error", outputFailed);
process.stderr.on("error", outputFailed);
process.exitCode = await main(process.argv.slice(2));
