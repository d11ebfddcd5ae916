// Zero-shot classification (Radford et al. 2021): the classes of an image by its cosine with a text for each label.
import { LowrankError } from "../errors.ts";
import { readWeights } from "../formats/checkpoint.ts";
import { toFloat32 } from "../formats/float.ts";
import type { AnyBase } from "../models/base.ts";
import { openProducts, type Products, rowsOf, type Vectors, vectors } from "../tasks/common/retrieval.ts";
import type { Prediction } from "../tasks/task.ts";
import { asImage, imageRunner, rowsIn, textRunner } from "./inputs.ts";
import type { TaskModel } from "./task-model.ts";
import type { PredictorOptions, Scorer } from "./types.ts";

/** Most labels of one classification; ImageNet has 1000, its whole tree 21,841. */
const MAX_ZERO_SHOT_LABELS = 32_768;
/** Most templates; CLIP's authors use 80. */
const MAX_TEMPLATES = 1000;
/** Most texts that labels and templates make. */
const MAX_ZERO_SHOT_TEXTS = 1 << 21;

/** What makes a text of a label, where nothing else is said. */
export const DEFAULT_TEMPLATE = "a photo of a {}";
/** What stands for the label in a template. */
const PLACE = "{}";
/** Texts that are in memory at once. */
const BLOCK_TEXTS = 1024;

/** For each image the cosines with the texts of the labels, times the scale that the model was trained with. */
export function zeroShotScorer(
  outputs: NonNullable<Prediction["embed"]>,
  base: AnyBase,
  model: TaskModel,
  options: PredictorOptions,
): Scorer {
  const { files, openSession, threads } = options;
  const texts = textRunner(base, model);
  const images = imageRunner(base, model, options);
  let products: Products | undefined;
  let kept: { key: string; vectors: Promise<Vectors> } | undefined;
  const vectorsOf = (labels: readonly string[], templates: readonly string[]): Promise<Vectors> => {
    const key = JSON.stringify([labels, templates]);
    if (kept?.key !== key)
      kept = { key, vectors: labelVectors(labels, templates, async (block) => (await texts(outputs.text!, block)).rows) };
    return kept.vectors;
  };
  return {
    async score(inputs, { labels, template = DEFAULT_TEMPLATE }) {
      const templates = typeof template === "string" ? [template] : template;
      checkLabels(labels);
      checkTemplates(templates, labels.length);
      const given = inputs.map(asImage);
      const own = await vectorsOf(labels, templates).catch((error: unknown) => {
        kept = undefined;
        throw error;
      });
      const found = await images(outputs.image!, given);
      const scale = Math.exp(toFloat32(await readWeights(files, base.checkpoint, "logit_scale"))[0]!);
      products ??= await openProducts({ openSession, threads });
      const data = new Float32Array(inputs.length * labels.length);
      for await (const { first, products: block } of products.blocks(vectors(found.rows, own.width), own)) {
        data.set(
          block.map((cosine) => cosine * scale),
          first * labels.length,
        );
      }
      return { labels, rows: rowsIn(data, inputs.length), cut: found.cut };
    },
    forget() {
      kept = undefined;
    },
    async close() {
      await products?.close();
    },
  };
}

/** A unit vector for each label: the mean of the unit vectors of its texts, of length 1 again. */
async function labelVectors(
  labels: readonly string[],
  templates: readonly string[],
  embed: (texts: string[]) => Promise<Float32Array[]>,
): Promise<Vectors> {
  const block = Math.max(1, Math.floor(BLOCK_TEXTS / templates.length));
  let sums: Vectors = { data: new Float32Array(), width: 1 };
  for (let from = 0; from < labels.length; from += block) {
    const some = labels.slice(from, from + block);
    const rows = await embed(some.flatMap((label) => templates.map((each) => each.replaceAll(PLACE, () => label))));
    const width = rows[0]!.length;
    if (from === 0) sums = { data: new Float32Array(labels.length * width), width };
    for (const [i, row] of rows.entries()) {
      const start = (from + Math.floor(i / templates.length)) * sums.width;
      for (let k = 0; k < sums.width; k++) sums.data[start + k]! += row[k]!;
    }
  }
  if (templates.length > 1) for (let label = 0; label < rowsOf(sums); label++) toUnit(sums, label);
  return sums;
}

function toUnit({ data, width }: Vectors, row: number): void {
  const own = data.subarray(row * width, (row + 1) * width);
  const length = Math.sqrt(own.reduce((sum, value) => sum + value * value, 0));
  for (let i = 0; i < width; i++) own[i]! /= length;
}

function checkLabels(labels: readonly string[] | undefined): asserts labels is readonly string[] {
  const refuse = (message: string, got: string): never => {
    throw new LowrankError("predict/labels", message, {
      subject: "labels",
      expected: `2 to ${MAX_ZERO_SHOT_LABELS} different texts, as in cat, dog`,
      got,
      next: "Give the labels to choose from (--labels cat,dog).",
    });
  };
  if (!labels || labels.length === 0) return refuse("the model compares images with texts, and there are no labels", "none");
  if (labels.length < 2 || labels.length > MAX_ZERO_SHOT_LABELS)
    refuse("the number of labels is out of range", String(labels.length));
  const seen = new Set<string>();
  for (const [i, label] of labels.entries()) {
    if (typeof label !== "string" || label.trim() === "") refuse("a label is empty", `label ${i + 1} of ${labels.length}`);
    if (seen.has(label)) refuse("a label occurs twice", label);
    seen.add(label);
  }
}

function checkTemplates(templates: readonly string[], labels: number): void {
  const refuse = (got: string): never => {
    throw new LowrankError("predict/template", "the template has no place for the label", {
      subject: "template",
      expected: `1 to ${MAX_TEMPLATES} texts with ${PLACE} in them, as in "${DEFAULT_TEMPLATE}"; ${MAX_ZERO_SHOT_TEXTS} texts with all labels`,
      got,
      next: `Put ${PLACE} where the label goes.`,
    });
  };
  const wrong = templates.find((template) => typeof template !== "string" || !template.includes(PLACE));
  if (wrong !== undefined) refuse(String(wrong));
  const isTooMany = templates.length > MAX_TEMPLATES || templates.length * labels > MAX_ZERO_SHOT_TEXTS;
  if (templates.length === 0 || isTooMany) refuse(`${templates.length} templates, ${labels} labels`);
}
