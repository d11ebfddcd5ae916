#!/usr/bin/env node
// The lowrank command.
import { afterOutput, guardOutput } from "../terminal/terminal.ts";
import { main } from "./program.ts";

const args = process.argv.slice(2);
guardOutput();
process.exitCode = await afterOutput(await main(args), args.includes("--json"));
