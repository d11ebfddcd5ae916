// A process that takes the locks it is asked for, over its message channel: lock-child.ts. Of each it says whether it is held, or the code
// of an error and what was found instead.
import { lockFolder } from "../../src/platform/node/lock.ts";

interface Request {
  folder: string;
  /** Takes the lock with these times; without them a lock that is held is checked. */
  timing?: Parameters<typeof lockFolder>[2];
  /** Milliseconds for which the process does nothing else first. */
  busyMs: number;
}

const locks = new Map<string, Awaited<ReturnType<typeof lockFolder>>>();
process.on("message", async ({ folder, timing, busyMs }: Request) => {
  if (timing) locks.set(folder, await lockFolder(folder, undefined, timing));
  const end = Date.now() + busyMs;
  while (Date.now() < end);
  const answer = await locks
    .get(folder)!
    .check()
    .then(
      () => null,
      ({ code, got }) => ({ code, got }),
    );
  process.send!(answer);
});
process.send!("ready");
