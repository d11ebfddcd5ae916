// What processes tell each other beside sums: values as JSON, tensors that one of them computed, whether all have the same.
import { LowrankError } from "../errors.ts";
import { byteLength, bytesOf, tensorFromBytes } from "../formats/dtypes.ts";
import type { DType, Tensor } from "../tensor.ts";
import type { Communicator } from "./communicator.ts";

/** What process `root` finds, in every process: anything that JSON has. Only that process calls `find`. */
export async function tell<T>(team: Communicator, root: number, what: string, find: () => Promise<T> | T): Promise<T> {
  if (team.size === 1) return find();
  const own = team.rank === root ? new TextEncoder().encode(JSON.stringify((await find()) ?? null)) : null;
  const length = Float64Array.of(own?.length ?? 0);
  await team.broadcast(bytesOf(length), root, `length of ${what}`);
  const bytes = own ?? new Uint8Array(length[0]!);
  await team.broadcast(bytes, root, what);
  return JSON.parse(new TextDecoder().decode(bytes)) as T;
}

/** What `work` gives in this process. Where it is refused in some, it is in all, by the first one's words: none waits for the others. */
export async function agreed<T>(team: Communicator, what: string, work: () => Promise<T>): Promise<T> {
  if (team.size === 1) return work();
  const outcome = await work().then(
    (value) => ({ value }),
    (error: unknown) => {
      if (error instanceof LowrankError) return { error };
      throw error;
    },
  );
  const refused = (await gathered(team, Number("error" in outcome), what)).indexOf(1);
  if (refused >= 0) {
    const { error, message, ...facts } = (await tell(team, refused, `what fails: ${what}`, () =>
      "error" in outcome ? { ...outcome.error.toJSON(), exitCode: outcome.error.exitCode } : {},
    )) as { error: string; message: string; got?: string };
    const by = `process ${refused} of ${team.size}`;
    throw new LowrankError(error, message, { ...facts, got: facts.got === undefined ? by : `${facts.got} (${by})` });
  }
  return (outcome as { value: T }).value;
}

/** Tensors of process `root`, by name, in every process. Only that process gives them. */
export async function tellTensors(
  team: Communicator,
  root: number,
  what: string,
  own: Record<string, Tensor> | null,
): Promise<Record<string, Tensor>> {
  const heads = await tell(team, root, `shapes of ${what}`, () =>
    Object.entries(own!).map(([name, { dtype, shape }]) => ({ name, dtype, shape: [...shape] })),
  );
  const sizes = heads.map(({ dtype, shape }: { dtype: DType; shape: number[] }) => byteLength(dtype, shape));
  const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, size) => sum + size, 0));
  const bytes = new Uint8Array(sizes.reduce((sum, size) => sum + size, 0));
  if (own) for (const [i, { name }] of heads.entries()) bytes.set(bytesOf(own[name]!.data), starts[i]);
  await team.broadcast(bytes, root, what);
  const parts = heads.map(({ name, dtype, shape }, i): [string, Tensor] => {
    return [name, tensorFromBytes(dtype, shape, bytes.subarray(starts[i]!, starts[i]! + sizes[i]!))];
  });
  return Object.fromEntries(parts);
}

/** A number of every process, in the order of their ranks. */
export async function gathered(team: Communicator, own: number, what: string): Promise<Float64Array> {
  const all = new Float64Array(team.size);
  all[team.rank] = own;
  await team.allReduce(all, what);
  return all;
}

/** Processes that wait for what one of them does alone hear this often that it goes on. */
const NEWS_MS = 30_000;

/** What `own` resolves to, once that of every process has, however long it takes: all hear of each other now and then. */
export async function awaited<T>(team: Communicator, own: Promise<T> | T, what: string): Promise<T> {
  if (team.size === 1) return own;
  let isDone = false;
  const ended = Promise.resolve(own).finally(() => {
    isDone = true;
  });
  for (;;) {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await Promise.race([
      ended,
      new Promise<void>((resolve) => {
        timer = setTimeout(resolve, NEWS_MS);
      }),
    ]).finally(() => clearTimeout(timer));
    if (!(await gathered(team, Number(isDone), what)).includes(0)) return own;
  }
}

/**
 * What each item gives by `compute`, in order, in every process: the items are shared out in turn, and what one process computed
 * goes to all. `compute` gets the number of an item.
 */
export async function* sharedOut(
  team: Communicator,
  count: number,
  what: string,
  compute: (item: number) => Promise<Record<string, Tensor>>,
): AsyncGenerator<Record<string, Tensor>, void, void> {
  for (let first = 0; first < count; first += team.size) {
    const mine = first + team.rank;
    const own = mine < count ? await compute(mine) : null;
    for (let item = first; item < Math.min(count, first + team.size); item++) {
      if (team.size === 1) yield own!;
      else yield tellTensors(team, item - first, `${what} ${item}`, item === mine ? own : null);
    }
  }
}

/** As many digits of a fingerprint as a sum of numbers keeps exactly. */
export const hashNumber = (fingerprint: string): number => Number.parseInt(fingerprint.slice(0, 12), 16);

/**
 * Fails in every process if something is not the same in all, by what `fingerprinted` gives, which a process by itself does not call.
 * `when` says since when that may be.
 */
export async function checkSame(team: Communicator, what: string, when: string, fingerprinted: () => string): Promise<void> {
  if (team.size === 1) return;
  const all = await gathered(team, hashNumber(fingerprinted()), `hash of ${what}`);
  const others = [...all.keys()].filter((rank) => all[rank] !== all[0]);
  if (others.length === 0) return;
  throw new LowrankError("distributed/different", `processes do not have the same ${what} ${when}`, {
    subject: others.length === 1 ? `process ${others[0]}` : `processes ${others.slice(0, 8).join(", ")}`,
    expected: "what process 0 has",
    got: "something else, by a hash",
    next: "Copy the files to every machine again. If they are the same, resume from a checkpoint before that step, without the machine that errs.",
    exitCode: 1,
  });
}
