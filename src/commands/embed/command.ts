// lowrank embed: texts and images in, their unit vectors out: JSON lines, or one tensor in a safetensors file.
import { z } from "zod";
import { LowrankError } from "../../errors.ts";
import { checkOutputFile, type Files } from "../../files.ts";
import { bytesOf } from "../../formats/dtypes.ts";
import { writeSafetensors } from "../../formats/safetensors.ts";
import { poolings } from "../../models/heads/head.ts";
import { option } from "../../options.ts";
import { print, printJson } from "../../terminal/terminal.ts";
import { taskOption } from "../../train/options.ts";
import { grouped } from "../../units.ts";
import { inBatches, inputLines, inputOptions } from "../classify/inputs.ts";
import { adapterOption, anyBase, base, defineCommand, device, threads } from "../command.ts";

/** The tensor in the file. */
const TENSOR = "embeddings";

export const command = defineCommand({
  summary: "unit vectors of texts and images, to search and compare with",
  options: {
    files: inputOptions.files,
    base,
    adapter: adapterOption("an adapter to attach"),
    anyBase,
    task: taskOption,
    text: inputOptions.text,
    image: inputOptions.image,
    pooling: option(z.enum(poolings).optional(), {
      help: "sentence embeddings: how token states are pooled into a vector (the adapter's or the model's way)",
    }),
    promptName: option(z.string().optional(), {
      value: "NAME",
      help: "which of the model's prompts is put before texts (its own choice, mostly none)",
    }),
    output: option(z.string().optional(), {
      value: "FILE",
      help: "a .safetensors file for the vectors (JSON lines on standard output)",
    }),
    force: option(z.boolean().optional(), { help: "replace the file of --output if it exists" }),
    device,
    threads,
  },
  argument: "files",
  examples: [
    "--base sentence-transformers/all-MiniLM-L6-v2 --output vectors.safetensors < texts.txt",
    "--base openai/clip-vit-base-patch32 --output vectors.safetensors *.jpg",
  ],
  async run(values, { platform, api, json }) {
    const { output, force } = values;
    if (output !== undefined) {
      checkName(output);
      await checkOutputFile(platform.files, output, { force, inputs: [values.base, values.adapter] });
    }
    const embedder = await api.openEmbedder(values.base, values);
    const kept: Float32Array[] = [];
    const put = (kind: "text" | "image", inputs: string[], vectors: Float32Array[]) => {
      if (output !== undefined) kept.push(...vectors);
      else
        for (const [i, vector] of vectors.entries())
          printJson({ type: "embedding", [kind]: inputs[i], embedding: numbers(vector) });
    };
    try {
      const { text = [], image = [], files = [] } = values;
      const images = [...image, ...files];
      const isGiven = text.length + images.length > 0;
      for await (const block of inBatches(isGiven ? text : inputLines("--text TEXT, image files"))) {
        put("text", block, await embedder.embedTexts(block));
      }
      for await (const block of inBatches(images)) put("image", block, await embedder.embedImages(block));
    } finally {
      await embedder.close();
    }
    if (output !== undefined) {
      const shape = await writeVectors(platform.files, output, kept);
      const count = `${grouped(shape[0])} ${shape[0] === 1 ? "vector" : "vectors"}`;
      if (json) printJson({ type: "embedded", output, tensor: TENSOR, shape });
      else print(`${count} of ${shape[1]} numbers: ${output}, tensor ${TENSOR}`);
    }
    return 0;
  },
});

/** A vector as JSON has it: nine digits identify every float32. */
const numbers = (vector: Float32Array): number[] => Array.from(vector, (value) => Number(value.toPrecision(9)));

function checkName(output: string): void {
  if (output.endsWith(".safetensors")) return;
  throw new LowrankError("cli/value", "vectors are written as safetensors", {
    subject: "--output",
    expected: "a name that ends in .safetensors",
    got: output,
    next: "Change the name, or leave out --output for JSON lines.",
  });
}

/** Writes the vectors as one tensor, a row for each, texts before images; resolves to its shape. */
async function writeVectors(files: Files, output: string, vectors: readonly Float32Array[]): Promise<[number, number]> {
  const width = vectors[0]?.length ?? 0;
  const data = new Float32Array(vectors.length * width);
  for (const [row, vector] of vectors.entries()) data.set(vector, row * width);
  const shape: [number, number] = [vectors.length, width];
  const tensor = { name: TENSOR, dtype: "float32", shape, data: () => bytesOf(data) } as const;
  await writeSafetensors(files, output, [tensor], { format: "pt" });
  return shape;
}
