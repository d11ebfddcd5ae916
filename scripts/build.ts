// npm run build: dist/ from src/, the command executable.
import { execFileSync } from "node:child_process";
import { chmodSync, rmSync } from "node:fs";

rmSync("dist", { recursive: true, force: true });
const compile = (...options: string[]) =>
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", ...options], { stdio: "inherit" });
compile("-p", "tsconfig.web.json", "--noEmit", "false");
compile("-p", "tsconfig.build.json");
chmodSync("dist/cli/main.js", 0o755);
