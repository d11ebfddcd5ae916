// Single tests that `npm run test:fast` leaves out; a file is left out by a line "// slow" (test/README.md).

/** Options of a slow test: `test("…", slow, () => …)`. */
export const slow = { skip: process.env["LOWRANK_TEST_FAST"] === "1" && "slow" };
