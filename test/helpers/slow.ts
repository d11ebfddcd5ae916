// Marks of single tests (test/README.md): a slow one is left out of `npm run test:fast`, a long one runs in `npm run test:long` alone.
// A whole file is slow by a line "// slow".

/** Options of a slow test: `test("…", slow, () => …)`. */
export const slow = { skip: process.env["LOWRANK_TEST_FAST"] === "1" && "slow" };

/** Options of a long test. */
export const long = { skip: process.env["LOWRANK_TEST_LONG"] !== "1" && "long" };
