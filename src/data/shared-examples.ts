// Examples made by several processes: each tokenizes a share of the records, and has all of them in the end. Every process reads the file.
import type { Communicator } from "../distributed/communicator.ts";
import { checkSame, tellTensors } from "../distributed/exchange.ts";
import { fingerprint } from "../formats/fingerprint.ts";
import { int32, type Tensor } from "../tensor.ts";
import type { MadeExample } from "./examples.ts";
import type { NumberedRecord } from "./records.ts";
import type { Example } from "./types.ts";

/** Consecutive records that one process makes examples of before they are exchanged. */
const SHARE = 256;

/** What is made of a record, without the record, which every process has. */
type Made = Omit<MadeExample, "record" | "place">;

/** The same without its arrays, of which only the length is kept. */
type Head = Omit<Made, "whole"> & { whole: Omit<Example, "ids" | "labels">; length: number };

/** The examples of all records, in order. `make` gets a share of them; it may not depend on the records of other shares. */
export async function* sharedExamples<R extends object>(
  team: Communicator,
  path: string,
  records: AsyncIterable<NumberedRecord<R>>,
  make: (records: AsyncIterable<NumberedRecord<R>>) => AsyncIterable<MadeExample<R>>,
): AsyncGenerator<MadeExample<R>, void, void> {
  let block: NumberedRecord<R>[] = [];
  let before = 0;
  async function* examplesOfBlock(): AsyncGenerator<MadeExample<R>, void, void> {
    const shareOf = (rank: number) => block.slice(rank * SHARE, (rank + 1) * SHARE);
    await checkSame(team, `records of ${path}`, `from record ${before + 1} on`, () =>
      fingerprint(block.map(({ record }) => new TextEncoder().encode(JSON.stringify(record)))),
    );
    const made: MadeExample<R>[] = [];
    for await (const one of make(iterated(shareOf(team.rank)))) made.push(one);
    for (let rank = 0; shareOf(rank).length > 0; rank++) {
      const own = rank === team.rank ? packed(made) : null;
      const given = await tellTensors(team, rank, "examples", own);
      const share = shareOf(rank);
      for (const [i, one] of unpacked(given).entries()) yield { ...share[i]!, ...one };
    }
    before += block.length;
    block = [];
  }
  for await (const record of records) {
    block.push(record);
    if (block.length === SHARE * team.size) yield* examplesOfBlock();
  }
  yield* examplesOfBlock();
}

async function* iterated<T>(items: readonly T[]): AsyncGenerator<T, void, void> {
  yield* items;
}

function packed(made: readonly MadeExample[]): Record<string, Tensor> {
  const heads = made.map(({ record: _, place: __, whole: { ids, labels, ...whole }, ...rest }): Head => {
    return { ...rest, whole, length: ids.length };
  });
  const all = (name: "ids" | "labels") => {
    const joined = new Int32Array(made.reduce((sum, { whole }) => sum + whole[name].length, 0));
    let at = 0;
    for (const { whole } of made) {
      joined.set(whole[name], at);
      at += whole[name].length;
    }
    return int32([joined.length], joined);
  };
  const text = new TextEncoder().encode(JSON.stringify(heads));
  return { heads: { dtype: "uint8", shape: [text.length], data: text }, ids: all("ids"), labels: all("labels") };
}

function unpacked({ heads, ids, labels }: Record<string, Tensor>): Made[] {
  const all = JSON.parse(new TextDecoder().decode(heads!.data as Uint8Array)) as Head[];
  let at = 0;
  return all.map(({ length, whole, ...rest }) => {
    const part = (of: Tensor) => (of.data as Int32Array).slice(at, at + length);
    const made = { ...rest, whole: { ids: part(ids!), labels: part(labels!), ...whole } };
    at += length;
    return made;
  });
}
