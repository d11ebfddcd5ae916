// How well a base, alone and with an adapter, predicts the targets of a data file: the forward pass of training, nothing else.
import type { ExampleReport } from "../data/dataset.ts";
import type { TrainOn } from "../data/examples.ts";
import type { ColumnNames } from "../data/records.ts";
import type { AnyBatch } from "../data/types.ts";
import { check } from "../graph/graph.ts";
import { readAdapter } from "../lora/adapter.ts";
import { adapterAgainst } from "../lora/fit.ts";
import type { AdapterModule } from "../lora/match.ts";
import { type Base, loadBase } from "../models/base.ts";
import { checkMadeFor } from "../models/fingerprint.ts";
import { weightFiles } from "../models/weights.ts";
import { lower } from "../onnx/lower.ts";
import type { Runtime } from "../runtime/runtime.ts";
import { float32, sizeOf } from "../tensor.ts";
import { batchFeeds, lossGraph, type ObjectiveShape } from "../train/causal-lm.ts";
import { dataReader, evaluationBatches, finished, shapeOf } from "../train/datasets.ts";
import { evaluate as meanLoss } from "../train/evals.ts";
import { thetaOf } from "../train/subject.ts";
import { adaptedGraph, loraEntries } from "../train/trained.ts";

export interface EvaluateOptions extends ColumnNames {
  /** Folder of the base checkpoint. */
  base: string;
  /** A file of records, in any format of docs/data.md. */
  data: string;
  /** Folder of an adapter to evaluate beside the base. */
  adapter?: string;
  /** Take an adapter that was made for another base of the same shape. */
  anyBase?: boolean;
  /** As in training. */
  trainOn?: TrainOn;
  maxLength?: number;
  date?: string;
  /** Rows that are run at once. Default 4. */
  batchSize?: number;
  /** Threads of one matrix product. Default: all cores. */
  threads?: number;
}

/** Mean over all targets, in nats a token, and e to its power. */
export interface Score {
  loss: number;
  perplexity: number;
}

export interface Evaluation {
  data: ExampleReport;
  base: Score;
  adapter: Score | null;
}

/** Evaluates the base on a data file, and the adapter on it where one is given. */
export async function evaluate(options: EvaluateOptions, runtime: Runtime): Promise<Evaluation> {
  const { files, openSession, timeLimit, temporaryFolder } = runtime;
  const base = await loadBase(files, options.base, timeLimit);
  const given = options.adapter === undefined ? null : await readAdapter(files, options.adapter);
  const adapter = given && adapterAgainst(given, base.modules);
  if (adapter) {
    await checkMadeFor(base, adapter, options.anyBase);
  }
  const { trainOn = "completion", batchSize = 4, threads } = options;
  const spill = temporaryFolder && `${temporaryFolder}/lowrank-${crypto.randomUUID()}`;
  const reader = await dataReader(runtime, base, { ...options, trainOn }, { spill });
  try {
    const { examples, report } = await finished(reader.read(options.data));
    const batches = evaluationBatches(reader.rows(examples), batchSize);
    const weights = weightFiles(base.checkpoint);
    const model = lower(evaluationGraph(base, adapter?.modules ?? [], shapeOf(batches.sizes)), weights.locate);
    const session = await openSession(model, { weightsFolder: weights.folder, threads });
    try {
      const entries = loraEntries({ modules: adapter?.modules ?? [] });
      const score = (theta: Float32Array): Promise<Score> => {
        const factors = entries.map(({ key, offset, shape }) => [
          key,
          float32(shape, theta.subarray(offset, offset + sizeOf(shape))),
        ]);
        const loss = async (batch: AnyBatch) => {
          const results = await session.run({ ...batchFeeds(batch), ...Object.fromEntries(factors) });
          return Number(results["loss"]!.data[0]);
        };
        return meanLoss({ loss }, theta, batches);
      };
      // With B at zero an adapter changes nothing.
      const zeros = new Float32Array(entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0));
      return { data: report, base: await score(zeros), adapter: adapter && (await score(thetaOf(adapter))) };
    } finally {
      await session.close();
    }
  } finally {
    await reader.close();
  }
}

/** Σ of the targets' losses; the factors are inputs under their keys. */
function evaluationGraph({ config }: Base, modules: readonly AdapterModule[], shape: ObjectiveShape) {
  const graph = lossGraph(config, shape);
  return check(adaptedGraph(graph, { modules }).graph);
}
