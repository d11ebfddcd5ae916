// Training on losses in which the rows of a batch meet, where several processes share the batch: embeddings first, gradients then.
import type { Batch, BatchSize } from "../data/types.ts";
import type { Communicator } from "../distributed/communicator.ts";
import { tellTensors } from "../distributed/exchange.ts";
import { type Graph, nodesOf } from "../graph/graph.ts";
import { countOf, othersOf, placesOf } from "../tasks/common/meeting.ts";
import type { Meeting } from "../tasks/task.ts";
import { float32, intVector, sizeOf, type Tensor } from "../tensor.ts";
import { lengthOf, lengthsOfBatch } from "./memory.ts";
import { lengthsIn, type Objective } from "./objective.ts";

/**
 * An objective whose batches are the parts of `shareOf` that this process has. Rows are embedded, the embeddings of all are exchanged,
 * and the gradient of the whole batch's loss is taken by this process's own: the sum over the processes is exact. It costs one
 * forward pass more. The loss is shared out among those that have rows.
 */
export function together<O extends Objective>(
  objective: O,
  { outputs, feeds = [] }: Meeting,
  team: Communicator,
  loss: Graph,
): O {
  const inputs = nodesOf(loss).filter(({ op }) => op === "input");
  /** The batch by itself. */
  const blank = (batch: Batch): Batch => {
    const lengths = lengthsIn(inputs, batch.feeds);
    const given = outputs.flatMap((name): [string, Tensor][] => {
      const shape = loss.outputs[name]!.shape.map((dim) => lengthOf(dim, lengths));
      const places = Array.from({ length: shape[0]! }, (_, i) => i);
      return [
        [othersOf(name), float32(shape, new Float32Array(sizeOf(shape)))],
        [placesOf(name), intVector(places)],
      ];
    });
    return { ...batch, feeds: { ...batch.feeds, ...Object.fromEntries(given) } };
  };
  /** The batch with what the loss reads of all rows: `parts` has the tensors of each process. */
  const withOthers = (batch: Batch, parts: readonly Record<string, Tensor>[]): Batch => {
    const counts = parts.map((part) => part[outputs[0]!]?.shape[0] ?? 0);
    const all = counts.reduce((sum, count) => sum + count, 0);
    // Rows are dealt out in turn (`shareOf`); what an example has beside its first row comes behind.
    const placeOf = (part: number, row: number) => row * team.size + part;
    const given: Record<string, Tensor> = {};
    for (const name of outputs) {
      const lengths = parts.map((part) => part[name]?.shape[0] ?? 0);
      const rows = lengths.reduce((sum, length) => sum + length, 0);
      const width = parts.find((part) => part[name])![name]!.shape[1]!;
      const others = new Float32Array(rows * width);
      let behind = all;
      for (const [p, part] of parts.entries()) {
        const places = Array.from({ length: lengths[p]! }, (_, i) => (i < counts[p]! ? placeOf(p, i) : behind++));
        if (p === team.rank) given[placesOf(name)] = intVector(places);
        else
          for (const [i, place] of places.entries())
            others.set((part[name]!.data as Float32Array).subarray(i * width, (i + 1) * width), place * width);
      }
      given[othersOf(name)] = float32([rows, width], others);
    }
    for (const name of feeds) {
      const values = new Float32Array(all);
      for (const [p, part] of parts.entries())
        for (let i = 0; i < counts[p]!; i++) values[placeOf(p, i)] = Number(part[name]!.data[i]);
      given[name] = float32([all], values);
    }
    return { ...batch, feeds: { ...batch.feeds, ...given } };
  };
  return {
    ...objective,
    meets: true,
    async lossAndGradient(batch, theta, divisor, key) {
      const made = batch.targets > 0 ? await objective.evaluate(blank(batch), theta, key) : {};
      const tensors = { ...some(made, outputs), ...some(batch.feeds, feeds) };
      const parts: Record<string, Tensor>[] = [];
      for (let rank = 0; rank < team.size; rank++)
        parts.push(await tellTensors(team, rank, `embeddings of step ${key.step + 1}`, rank === team.rank ? tensors : null));
      if (batch.targets === 0) return { loss: 0, gradient: new Float32Array(0) };
      const { loss, gradient } = await objective.lossAndGradient(withOthers(batch, parts), theta, divisor, key);
      return { loss: loss / parts.filter((part) => outputs[0]! in part).length, gradient };
    },
    evaluate: (batch, theta, key) => objective.evaluate(blank(batch), theta, key),
  };
}

const some = (tensors: Record<string, Tensor>, names: readonly string[]): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(tensors).filter(([name]) => names.includes(name)));

/** Sizes of batches with how many rows meet in each loss, at most. */
export function* sizesTogether(
  sizes: Iterable<BatchSize>,
  { outputs }: Meeting,
  loss: Graph,
  processes: number,
): Generator<BatchSize> {
  for (const size of sizes) {
    const own = lengthsOfBatch(size);
    const counts = outputs.map((name) => [countOf(name), processes * lengthOf(loss.outputs[name]!.shape[0]!, own)]);
    yield { ...size, lengths: { ...size.lengths, ...Object.fromEntries(counts) } };
  }
}
