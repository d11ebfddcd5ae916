// llama.cpp's own quantiser, in the library of node-llama-cpp, whose JavaScript does not offer it: quantize.ts MODULE IN.gguf OUT.gguf.
import { readdirSync } from "node:fs";
import path from "node:path";
import koffi from "koffi";

/** llama.h's LLAMA_FTYPE_MOSTLY_Q4_K_M. */
const Q4_K_M = 15;

const [folder, input, output] = process.argv.slice(2) as [string, string, string];
const bins = path.join(folder, "../@node-llama-cpp/linux-x64/bins/linux-x64");
const named = (pattern: RegExp) => path.join(bins, readdirSync(bins).find((name) => pattern.test(name))!);
for (const pattern of [/^libggml-base\./, /^libggml-cpu-x64\./, /^libggml\.v/]) koffi.load(named(pattern), { global: true });
const library = koffi.load(named(/^libllama\./));
// The fields behind the first two stay as the library gives them; the struct is smaller than this.
const params = koffi.struct("llama_model_quantize_params", {
  nthread: "int32_t",
  ftype: "int32_t",
  rest: koffi.array("uint8_t", 120),
});
const given = library.func("llama_model_quantize_default_params", params, [])();
const quantize = library.func("llama_model_quantize", "uint32_t", ["str", "str", koffi.pointer(params)]);
const status = quantize(input, output, { ...given, ftype: Q4_K_M });
if (status !== 0) throw new Error(`llama_model_quantize: ${status}`);
