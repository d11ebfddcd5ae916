#!/usr/bin/env node
// The lowrank command.
import { main } from "./program.ts";

// A reader that goes away (as in `lowrank inspect … | head`) ends the program; it is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});
process.exitCode = await main(process.argv.slice(2));
