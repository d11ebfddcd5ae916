// npm run build: dist/ from src/, the command executable.
import { execFileSync } from "node:child_process";
import { chmodSync, rmSync } from "node:fs";

for (const folder of ["dist", "build/types"]) rmSync(folder, { recursive: true, force: true });
const projects = ["tsconfig.web.json", "tsconfig.node.json"];
execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-b", ...projects], { stdio: "inherit" });
chmodSync("dist/cli/main.js", 0o755);
