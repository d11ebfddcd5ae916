// Whether the other processes of a job on this machine are alive: one that was killed is known by name long before the time limit.
import { LowrankError } from "../../../errors.ts";
import { here, isThere } from "../process-ids.ts";

/** Milliseconds between two looks. Of a process that is not there at two of them nothing more comes. */
const LOOK_MS = 500;

/** What this process says of itself, for others to find it: its number, and where numbers mean the same. */
export const ownLife = (): string => `${process.pid} ${here}`;

/** Watches the processes of a group, by what each says of itself, while this one waits for them. */
export function peerWatch(rank: number, lives: readonly string[]) {
  const [own, ...place] = lives[rank]!.split(" ");
  const peers = lives.flatMap((life, peer) => {
    const [pid, ...where] = life.split(" ");
    return pid !== own && where.join(" ") === place.join(" ") ? [{ peer, pid: Number(pid) }] : [];
  });
  /** Does `work`; rejects if one of them ends meanwhile. */
  return async <T>(what: string, work: Promise<T>): Promise<T> => {
    if (peers.length === 0) return work;
    let looks: NodeJS.Timeout | undefined;
    const ended = new Promise<never>((_, reject) => {
      let before = new Set<number>();
      looks = setInterval(() => {
        const gone = peers.filter(({ pid }) => !isThere(pid)).map(({ peer }) => peer);
        const [dead] = gone.filter((peer) => before.has(peer));
        before = new Set(gone);
        if (dead !== undefined) reject(endedError(dead, lives, what));
      }, LOOK_MS);
    });
    work.catch(() => {});
    try {
      return await Promise.race([work, ended]);
    } finally {
      clearInterval(looks);
    }
  };
}

const endedError = (peer: number, lives: readonly string[], what: string): LowrankError =>
  new LowrankError("distributed/ended", `process ${peer} of ${lives.length} has ended`, {
    subject: lives[peer]!.split(" ")[1],
    expected: `every process at: ${what}`,
    got: `no process ${lives[peer]!.split(" ")[0]} on this machine`,
    next: "Read its last words, and the system's log: a machine without memory kills processes (dmesg).",
    exitCode: 1,
  });
