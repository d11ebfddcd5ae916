// llama.cpp's GGUF adapter: convert_lora_to_gguf.py's file, as llama-adapter.cpp reads it. A pair blk.N.NAME.weight.lora_a [rank, in] and
// .lora_b [out, rank] for each module; the scale is adapter.lora.alpha / rank. Of the token embedding lora_a is [vocabulary, rank].
import type { Adapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import { isGguf, isGgufAdapter } from "../../formats/gguf/checkpoint.ts";
import { architectureOf, deinterleaved, interleaved, moduleName, tensorName } from "../../formats/gguf/names.ts";
import { type GgufHeader, type GgufTensor, readGguf } from "../../formats/gguf/reader.ts";
import { type GgufSource, writeGguf } from "../../formats/gguf/writer.ts";
import { readRows, transposed } from "../../formats/stored.ts";
import type { AnyBase } from "../../models/base.ts";
import type { AdapterFormat, AdapterLimits } from "./format.ts";
import { adapterOf, cannotSay, checkLimits, checkSayable, mostCommon, needBase, refuse, scaledBy, UNTIE } from "./say.ts";

const TITLE = "a GGUF adapter";
const ALPHA = "adapter.lora.alpha";
/** The one table that llama.cpp adapts. */
const EMBEDDING = "token_embd";

export const ggufAdapter: AdapterFormat = {
  title: "GGUF adapter",
  async isAt(files, path) {
    if (!isGguf(path) || (await files.isFolder(path))) return false;
    const header = await readGguf(files, path).catch(() => null);
    return header !== null && isGgufAdapter(header);
  },
  read: readGgufAdapter,
  write: { ending: ".gguf", run: writeGgufAdapter },
};

/** The architecture of a base, and how its tensors are stored. */
function placesOf(base: AnyBase) {
  const [name, architecture] =
    architectureOf(base.config.modelType) ?? cannotSay(TITLE, `models of type ${base.config.modelType}`, base.checkpoint.folder);
  const isTied = "tieWordEmbeddings" in base.config && base.config.tieWordEmbeddings;
  const layoutOf = (module: string) => architecture.layout?.(`${module}.weight`, base.checkpoint.config);
  return { name, architecture, isTied, layoutOf };
}

async function writeGgufAdapter(files: Files, path: string, adapter: Adapter, given: AnyBase | null): Promise<void> {
  const base = needBase(given, TITLE);
  checkSayable(adapter, TITLE);
  const { name, architecture, isTied, layoutOf } = placesOf(base);
  // llama.cpp takes the rank from the tensor's shape; where one alpha is not enough, the rest goes into B.
  const alphas = adapter.modules.map(({ scale, rank }) => scale * rank);
  const alpha = mostCommon(alphas);
  const outputs = new Set(base.modules.filter(({ isOutputEmbedding }) => isOutputEmbedding).map(({ path }) => path));
  const tensors = adapter.modules.flatMap(({ path: module, isEmbedding, rank, inFeatures, outFeatures }, i): GgufSource[] => {
    const stored = tensorName(architecture, module) ?? cannotSay(TITLE, "this module of the model", module);
    const { loraA, loraB } = adapter.tensors.get(module)!;
    if (isEmbedding && stored !== EMBEDDING) cannotSay(TITLE, "a table of positions", module);
    if (isTied && (isEmbedding || outputs.has(module))) {
      cannotSay(TITLE, "an embedding that is tied to the output layer: llama.cpp has one tensor for both", module, UNTIE);
    }
    const heads = layoutOf(module)?.rotaryHeads;
    const scaled = scaledBy(loraB, alphas[i]! / alpha, module);
    const b = heads === undefined ? scaled : interleaved(scaled, rank, outFeatures / heads);
    const a = isEmbedding ? transposed(loraA, rank, inFeatures) : loraA;
    const shape = isEmbedding ? [inFeatures, rank] : [rank, inFeatures];
    return [
      { name: `${stored}.weight.lora_a`, type: "f32", shape, data: () => [a] },
      { name: `${stored}.weight.lora_b`, type: "f32", shape: [outFeatures, rank], data: () => [b] },
    ];
  });
  await writeGguf(
    files,
    path,
    [
      ["general.architecture", "string", name],
      ["general.type", "string", "adapter"],
      ["adapter.type", "string", "lora"],
      [ALPHA, "float32", alpha],
    ],
    tensors,
  );
}

async function readGgufAdapter(files: Files, path: string, given: AnyBase | null, limits?: AdapterLimits): Promise<Adapter> {
  const base = needBase(given, TITLE);
  const file = await files.realPath(path);
  const header = await readGguf(files, file);
  const { name, architecture, layoutOf } = placesOf(base);
  const said = (key: string, expected: string) => {
    const got = header.metadata.get(key);
    if (got === expected) return;
    const next = "Use the base that the adapter was made for.";
    refuse("file", "the adapter is not one for this base", { subject: `${path}: ${key}`, expected, got: String(got), next });
  };
  said("general.architecture", name);
  said("adapter.type", "lora");
  const fileAlpha = Number(header.metadata.get(ALPHA) ?? 0);
  if (!Number.isFinite(fileAlpha)) {
    refuse("file", "the adapter's alpha is not a number", { subject: `${path}: ${ALPHA}`, next: "The file is damaged." });
  }
  const pairs = pairsOf(header, path);
  checkLimits(path, pairs.size, Math.max(...[...pairs.values()].map(({ b }) => b.shape[1] ?? 0)), limits);
  const kinds = new Map(base.modules.map((module) => [module.path, module]));
  const read = [...pairs].map(async ([stored, { a, b }]) => {
    const { module } = moduleName(architecture, stored);
    const known = module === undefined ? undefined : kinds.get(module);
    if (module === undefined || !known) return unknownModule(path, stored);
    const isEmbedding = known.kind === "embedding";
    const rank = b.shape[1] ?? 0;
    const sides = { inFeatures: known.inFeatures, outFeatures: known.outFeatures };
    const shape = isEmbedding ? [sides.inFeatures, rank] : [rank, sides.inFeatures];
    if (a.shape.join() !== shape.join() || b.shape.join() !== `${sides.outFeatures},${rank}`) {
      refuse("file", "the factors of a module do not fit the base's layer", {
        subject: `${path}: ${stored}`,
        expected: `lora_a [${shape.join(", ")}] and lora_b [${sides.outFeatures}, ${rank}]`,
        got: `[${a.shape.join(", ")}] and [${b.shape.join(", ")}]`,
        next: "Use the base that the adapter was made for.",
      });
    }
    const [storedA, storedB] = [await readRows(files, { ...a, file }), await readRows(files, { ...b, file })];
    const heads = layoutOf(module)?.rotaryHeads;
    const tensors = {
      loraA: isEmbedding ? transposed(storedA, sides.inFeatures, rank) : storedA,
      loraB: heads === undefined ? storedB : deinterleaved(storedB, rank, sides.outFeatures / heads),
    };
    // An alpha of 0 is llama.cpp's sign for a scale of 1.
    return { path: module, isEmbedding, rank, alpha: fileAlpha === 0 ? rank : fileAlpha, ...sides, tensors };
  });
  return adapterOf(base, await Promise.all(read));
}

/** The pairs of factors by the name of their weight. */
function pairsOf({ tensors }: GgufHeader, path: string): Map<string, { a: GgufTensor; b: GgufTensor }> {
  const found = new Map<string, { a?: GgufTensor; b?: GgufTensor }>();
  for (const [stored, tensor] of tensors) {
    const [, weight, side] = /^(.+)\.lora_([ab])$/.exec(stored) ?? [];
    if (weight === undefined || tensor.shape.length !== 2) {
      refuse("file", "the adapter has a tensor that is no factor", {
        subject: path,
        expected: "NAME.weight.lora_a and NAME.weight.lora_b, two dimensions each",
        got: `${stored} [${tensor.shape.join(", ")}]`,
        next: "Norms and whole weights beside an adapter cannot be read. Merge it with llama-export-lora.",
      });
    }
    found.set(weight, { ...found.get(weight), [side!]: tensor });
  }
  const half = [...found].find(([, { a, b }]) => !a || !b);
  if (half || found.size === 0) {
    const facts = { subject: path, expected: "lora_a and lora_b of each module", got: half?.[0] ?? "no tensor" };
    refuse("file", "a factor of the adapter is missing", { ...facts, next: "The file is damaged; convert the adapter again." });
  }
  return found as Map<string, { a: GgufTensor; b: GgufTensor }>;
}

const unknownModule = (path: string, stored: string): never =>
  refuse("file", "the adapter is for a module that the base does not have", {
    subject: path,
    got: stored,
    next: "Use the base that the adapter was made for.",
  });
