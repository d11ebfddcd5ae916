// Contrastive training (Radford et al. 2021): which text of a batch belongs to which image, and which image to which text.
import { addImage } from "../../data/images.ts";
import type { Value } from "../../graph/graph.ts";
import { add, mul } from "../../graph/ops/elementwise.ts";
import { iota, scalar } from "../../graph/ops/leaves.ts";
import { crossEntropy } from "../../graph/ops/loss.ts";
import { contrastiveLogits } from "../../models/heads/contrastive.ts";
import { modelOutputs } from "../../models/registry.ts";
import { grouped } from "../../units.ts";
import { exclusiveScores } from "../common/classification.ts";
import { figureColumns, meanLoss } from "../common/measures.ts";
import { amongAll } from "../common/meeting.ts";
import { encodeTexts, fieldsFormat, type RecordKind, readPath, readText, recordData, recordTask } from "../common/record-data.ts";
import { type RetrievalMeasures, recallTable, retrievalMeasures, vectorOf, vectors, withProducts } from "../common/retrieval.ts";
import type { Measure, Measuring, ScoreTable, Task } from "../task.ts";

interface ImageText {
  /** The path of a file. */
  image: string;
  text: string;
}

const format = (image: string, text: string) =>
  fieldsFormat<ImageText>("images and texts", { image, text }, { image: readPath, text: readText });

export const imageTexts: RecordKind<ImageText> = {
  formats: ({ imageColumn, textColumn }) => ({
    candidates:
      (imageColumn ?? textColumn) === undefined
        ? ["image", "file_name"].flatMap((image) => ["text", "caption"].map((text) => format(image, text)))
        : [format(imageColumn ?? "image", textColumn ?? "text")],
    naming: "--image-column and --text-column",
    pair: ["--image-column", "--text-column"],
    folder: "metadata",
  }),
  answers: [],
  async example({ image, text }, _, parts) {
    const { whole, isCut } = encodeTexts(text, null, parts);
    return { whole: { ...whole, images: [await addImage(parts.images!, image)] }, isCut };
  },
};

/** The mean contrastive loss of the pairs, each among those of its batch, and recall@k among all. */
export interface ContrastiveScore extends RetrievalMeasures {
  loss: number;
}

/** Images count once, however many texts they have. */
function measure({ examples, engine }: Measuring): Measure<ContrastiveScore> {
  const mean = meanLoss();
  const images = new Map<number, Float32Array>();
  const texts = new Array<Float32Array>(examples.length);
  const imageOf = new Int32Array(examples.length);
  return {
    async add(ran) {
      mean.add(ran);
      const { imageEmbeds, textEmbeds } = ran.results;
      for (const [row, { images: [image] = [] }] of (await examples.read(ran.rows)).entries()) {
        const number = ran.rows[row]!;
        texts[number] = vectorOf(textEmbeds!, row);
        imageOf[number] = image!;
        if (!images.has(image!)) images.set(image!, vectorOf(imageEmbeds!, row));
      }
    },
    async score() {
      const order = [...images.keys()].sort((a, b) => a - b);
      const places = new Map(order.map((image, place) => [image, place]));
      const width = texts[0]!.length;
      const [imageVectors, textVectors] = [order.map((image) => images.get(image)!), texts].map((rows) => vectors(rows, width));
      const imageRows = imageOf.map((image) => places.get(image)!);
      return withProducts(engine, async (products) => ({
        loss: mean.loss(),
        ...(await retrievalMeasures(products, imageVectors!, textVectors!, imageRows)),
      }));
    },
  };
}

const scores: ScoreTable<ContrastiveScore> = {
  columns: figureColumns({ loss: "loss" }),
  details({ batchSize, ...sides }) {
    const { images, texts } = (sides.base ?? sides.adapter)!;
    const found = (direction: "imageToText" | "textToImage") => recallTable(sides, (score) => score[direction]);
    return [
      `The loss is that of pairs among ${batchSize} (--batch-size); it grows with their number.`,
      `images that find a text of theirs, of ${grouped(images)}, among ${grouped(texts)} texts`,
      found("imageToText"),
      `texts that find their image, of ${grouped(texts)}, among ${grouped(images)} images`,
      found("textToImage"),
    ];
  },
};

const embeds = ["imageEmbeds", "textEmbeds"];

export const contrastive: Task<ContrastiveScore> = {
  ...recordTask,
  what: "comparing images and texts",
  head: "contrastive",
  pipeline: "zero-shot-image-classification",
  peft: { taskType: null },
  // The last is that of images with classes, which a model is evaluated on.
  columns: ["imageColumn", "textColumn", "labelColumn"],
  // The loss of a pair among itself is 0, whatever θ is.
  fewestRows: 2,
  data: recordData(imageTexts),
  meeting: { outputs: embeds },
  loss(config, { meets }) {
    const { imageEmbeds, textEmbeds, logitScale, ...logits } = modelOutputs(config);
    const [images, texts] = [imageEmbeds!, textEmbeds!].map((own, i) => (meets ? amongAll(own, embeds[i]!) : own)) as [
      Value,
      Value,
    ];
    const { logitsPerText, logitsPerImage } = meets ? contrastiveLogits(texts, images, logitScale!) : logits;
    // Row i belongs to column i.
    const both = add(
      crossEntropy(logitsPerText!, iota(logitsPerText!.shape[0]!)),
      crossEntropy(logitsPerImage!, iota(logitsPerImage!.shape[0]!)),
    );
    return { outputs: { loss: mul(both, scalar(0.5, both)), imageEmbeds: imageEmbeds!, textEmbeds: textEmbeds! } };
  },
  measure,
  scores,
  prediction: {
    classify: { reads: "image", read: exclusiveScores },
    embed: { text: "textEmbeds", image: "imageEmbeds" },
    zeroShot: true,
  },
};
