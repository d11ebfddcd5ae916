// After `npx lowrank demo`: its adapter answers more than 90 % of the held-out texts exactly, the base fewer than 5 %.
import assert from "node:assert/strict";
import { answers } from "../src/index.ts";

const [adapter = "lowrank-demo"] = process.argv.slice(2);
for await (const event of answers({ base: "embedded", adapter, data: "models/demo/test.jsonl", batchSize: 50 })) {
  if (event.type !== "matches") continue;
  console.log(`${event.base} and ${event.adapter} of ${event.count} answers are exact`);
  assert.ok(event.base < 0.05 * event.count, "the base alone is too good");
  assert.ok(event.adapter! > 0.9 * event.count, "the adapter is not good enough");
}
