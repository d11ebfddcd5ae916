// Processes of one run inside this one: communicators that meet in memory, with sums in the order of the ranks.
import type { Communicator } from "../../src/distributed/communicator.ts";

interface Meeting {
  what: string;
  parts: { bytes: Float32Array | Float64Array | Uint8Array; done: () => void }[];
}

/** `size` communicators. What one of them asks for waits until all have asked for the same. */
export function memoryTeam(size: number): Communicator[] {
  const meetings: Meeting[] = [];
  const calls = new Array<number>(size).fill(0);
  const groups: Communicator[] = [];
  const meet = (rank: number, what: string, own: Meeting["parts"][number]["bytes"], all: (parts: Meeting["parts"]) => void) =>
    new Promise<void>((resolve, reject) => {
      const call = calls[rank]!++;
      meetings[call] ??= { what, parts: [] };
      const meeting = meetings[call];
      if (meeting.what !== what) return reject(new Error(`process ${rank} asks for ${what}, another for ${meeting.what}`));
      meeting.parts[rank] = { bytes: own, done: resolve };
      if (Object.keys(meeting.parts).length < size) return;
      all(meeting.parts);
      delete meetings[call];
      for (const { done } of meeting.parts) done();
    });
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    local: { rank, size },
    allReduce: (values, what) =>
      meet(rank, `${what} [${values.length}]`, values, (parts) => {
        const sum = new Float64Array(values.length);
        for (const { bytes } of parts) for (let i = 0; i < sum.length; i++) sum[i]! += bytes[i]!;
        for (const { bytes } of parts) bytes.set(sum);
      }),
    broadcast: (bytes, root, what) =>
      meet(rank, `${what} [${bytes.length}]`, bytes, (parts) => {
        for (const part of parts) part.bytes.set(parts[root]!.bytes);
      }),
    split: async (group) => {
      await meet(rank, "split", Float64Array.of(group), (parts) => {
        const numbers = parts.map(({ bytes }) => bytes[0]!);
        for (const number of new Set(numbers)) {
          const members = [...numbers.keys()].filter((one) => numbers[one] === number);
          for (const [i, communicator] of memoryTeam(members.length).entries()) groups[members[i]!] = communicator;
        }
      });
      return groups[rank]!;
    },
  }));
}
