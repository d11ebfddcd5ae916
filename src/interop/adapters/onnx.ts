// ONNX Runtime's adapter, for the model that interop/models/onnx.ts writes: its parameters are inputs of that model.
import type { Adapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import { toFloat32 } from "../../formats/float.ts";
import { isOnnxAdapter, onnxAdapterBytes, readOnnxAdapter, type StoredParameter } from "../../formats/onnx-adapter.ts";
import type { AnyBase } from "../../models/base.ts";
import { float32, type Tensor } from "../../tensor.ts";
import { factorNames, slotsIn } from "../onnx/slots.ts";
import type { AdapterFormat, AdapterLimits } from "./format.ts";
import { adapterOf, cannotSay, checkLimits, checkSayable, needBase, type ReadModule, refuse, scaledBy } from "./say.ts";

const TITLE = "an ONNX Runtime adapter";

export const onnxAdapter: AdapterFormat = {
  title: "ONNX Runtime adapter",
  isAt: isOnnxAdapter,
  read: readFactors,
  write: { ending: ".onnx_adapter", run: writeFactors },
};

async function writeFactors(files: Files, path: string, adapter: Adapter, given: AnyBase | null): Promise<void> {
  const slots = new Map(slotsIn(needBase(given, TITLE).modules).map((slot) => [slot.path, slot]));
  checkSayable(adapter, TITLE);
  const parameters = new Map<string, Tensor>();
  for (const { path: module, rank, scale, inFeatures, outFeatures } of adapter.modules) {
    const { isEmbedding } =
      slots.get(module) ?? cannotSay(TITLE, "a module that is neither a linear layer nor an embedding", module);
    const { loraA, loraB } = adapter.tensors.get(module)!;
    const names = factorNames(module, isEmbedding);
    parameters.set(names.loraA, float32([rank, inFeatures], loraA));
    parameters.set(names.loraB, float32([outFeatures, rank], scaledBy(loraB, scale, module)));
  }
  await files.write(path, onnxAdapterBytes(parameters));
}

async function readFactors(files: Files, path: string, given: AnyBase | null, limits?: AdapterLimits): Promise<Adapter> {
  const base = needBase(given, TITLE);
  const stored = await readOnnxAdapter(files, path);
  const read: (Omit<ReadModule, "tensors"> & { a: StoredParameter; b: StoredParameter })[] = [];
  const left = new Set(stored.keys());
  for (const module of slotsIn(base.modules)) {
    const names = factorNames(module.path, module.isEmbedding);
    const [a, b] = [stored.get(names.loraA), stored.get(names.loraB)];
    if (!a || !b) continue;
    left.delete(names.loraA);
    left.delete(names.loraB);
    const { path: place, inFeatures, outFeatures, isEmbedding } = module;
    const rank = a.shape[0] ?? 0;
    if (a.shape.join() !== `${rank},${inFeatures}` || b.shape.join() !== `${outFeatures},${rank}` || rank === 0) {
      refuse("file", "the factors of a module do not fit the base's layer", {
        subject: `${path}: ${place}`,
        expected: `A [rank, ${inFeatures}] and B [${outFeatures}, rank]`,
        got: `[${a.shape.join(", ")}] and [${b.shape.join(", ")}]`,
        next: "Use the base that the adapter was made for.",
      });
    }
    read.push({ path: place, isEmbedding, alpha: rank, rank, inFeatures, outFeatures, a, b });
  }
  const [unknown] = left;
  if (unknown !== undefined || read.length === 0) {
    refuse("file", "the file has a tensor that is no factor of a module of the base", {
      subject: path,
      expected: Object.values(factorNames("MODULE")).join(" and "),
      got: unknown ?? "no tensor",
      next: "Use the base that the adapter was made for. Names of other exports are not known here.",
    });
  }
  checkLimits(path, read.length, Math.max(...read.map(({ rank }) => rank)), limits);
  return adapterOf(
    base,
    read.map(({ a, b, ...module }) => ({ ...module, tensors: { loraA: toFloat32(a.read()), loraB: toFloat32(b.read()) } })),
  );
}
