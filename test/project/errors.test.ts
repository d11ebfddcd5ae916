// errors.ts: a failure prints what a person needs, and "did you mean" finds the near names.
import assert from "node:assert/strict";
import { test } from "node:test";
import { LowrankError, nearest } from "../../src/errors.ts";

test("describe names the subject, what was expected and found, and the next step", () => {
  const error = new LowrankError("lora/no-match", "no module matches", {
    subject: "targetModules: q_prj",
    expected: "a module path or its end",
    got: "q_prj",
    next: "Did you mean q_proj?",
  });
  assert.equal(
    error.describe(),
    "targetModules: q_prj: no module matches\n  expected: a module path or its end\n  found:    q_prj\n  next:     Did you mean q_proj?",
  );
  assert.equal(error.exitCode, 2);
});

test("nearest sorts by edit distance", () => {
  assert.deepEqual(nearest("q_prj", ["k_proj", "q_proj", "mlp.down_proj"], 2), ["q_proj", "k_proj"]);
});

test("what a file holds is cut and cannot steer the terminal", () => {
  const error = new LowrankError("x", `a key ${"[".repeat(20_000)}`, {
    got: "\u001b[2J\u202eabc\r\nd\te",
    next: "n".repeat(50_000),
  });
  assert.ok(error.describe().length < 10_000);
  assert.match(error.message, /\(20006 characters\)$/);
  assert.equal(error.got, "\\u001b[2J\\u202eabc\\u000d\nd\te");
});
