// npm run oracle -- [FOLDER] [--base DIR] [--base-dtype DTYPE]: what PEFT computed, against what is computed here. Exit 1 unless all that ran passed.
// A run on a real model (minutes): npm run oracle -- FOLDER/real/smollm2-e2e --base FOLDER_OF_SMOLLM2_135M_INSTRUCT.
// With another --base-dtype than float32 only its training runs, and the validation loss at its end is compared.
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { baseDtypes } from "../../src/graph/pack.ts";
import { oneLine } from "./compare.ts";
import { runOracle } from "./run.ts";

const OWN_CASES = fileURLToPath(new URL("../../test/fixtures/cases", import.meta.url));

try {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { base: { type: "string" }, "base-dtype": { type: "string" } },
  });
  const dtype = values["base-dtype"] ?? "float32";
  const baseDtype = baseDtypes.find((known) => known === dtype);
  if (!baseDtype) throw new Error(`--base-dtype is one of ${baseDtypes.join(", ")}`);
  if (positionals.length > 1) throw new Error("give one folder: npm run oracle -- [FOLDER] [--base DIR]");
  const base = values.base && path.resolve(values.base);
  const { passed, failed } = await runOracle(path.resolve(positionals[0] ?? OWN_CASES), { base, baseDtype }, console.log);
  if (failed > 0 || passed === 0) process.exitCode = 1;
} catch (error) {
  console.error(oneLine(error));
  process.exitCode = 1;
}
