// npm run examples: each example as a user runs it, one after another; the first that fails ends it.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";

rmSync("example-output", { recursive: true, force: true });
for (const file of readdirSync("examples").filter((name) => name.endsWith(".ts"))) {
  console.log(`── examples/${file}`);
  const { status } = spawnSync(process.execPath, ["--import", "tsx", `examples/${file}`], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
