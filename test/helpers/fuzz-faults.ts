// Readers with a fault each, which the fuzzer has to find, beside one without.

import type { Target } from "../../fuzz/targets.ts";
import { LowrankError } from "../../src/errors.ts";
import type { Files } from "../../src/files.ts";

const inputs = [{ f: new TextEncoder().encode('{"a": [1, 2, {"b": "c"}]}') }];
const size = (files: Files) => files.size("f");
const refuse = (next?: string) => {
  throw new LowrankError("test/refused", "refused", { subject: "f", next });
};

export const targets: Target[] = [
  { name: "sound", inputs, read: async (files) => ((await size(files)) % 2 ? refuse("Give another.") : 1) },
  { name: "crash", inputs, read: async (files) => ((await size(files)) % 5 ? 1 : (undefined as unknown as { a: number }).a) },
  { name: "no-next-step", inputs, read: async (files) => ((await size(files)) % 5 ? 1 : refuse()) },
  {
    name: "hang",
    inputs,
    read: async (files) => {
      // Until it is stopped: the thread never answers again.
      if ((await size(files)) % 7 === 0) for (;;);
    },
  },
  {
    name: "memory",
    inputs,
    read: async (files) => {
      const held: unknown[] = [];
      if ((await size(files)) % 7 === 0) for (;;) held.push(new Array(100_000).fill(held.length));
    },
  },
];
