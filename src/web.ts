// The public API in a browser: ONNX Runtime Web in workers, files in memory.
import type { Files } from "./files.ts";
import { checkpointPlace } from "./formats/checkpoint.ts";
import { withGguf } from "./formats/gguf/files.ts";
import type { Platform } from "./platform/platform.ts";
import { webFiles } from "./platform/web/files.ts";
import { decodeImage } from "./platform/web/images.ts";
import { type WebEngineOptions, webSessions } from "./platform/web/session.ts";

export * from "./core.ts";
export { type Mounted, webFiles } from "./platform/web/files.ts";
export type { WebEngine, WebEngineOptions } from "./platform/web/session.ts";

export interface WebOptions extends WebEngineOptions {
  /** Where models, data and output lie; empty if absent. */
  files?: Files;
  /** Folders of models that have names, such as `embedded`. */
  models?: Readonly<Record<string, string>>;
  /** Folder of the demo's data. */
  demoData?: string;
}

/** All that WebAssembly can address. */
const WASM_BYTES = 2 ** 32;

/**
 * The platform of a browser, for `createLowrank`. Training shares memory with the engine's worker, so the page has to be isolated: its
 * server sends `Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp`.
 */
export function webPlatform({ files: given = webFiles(), models = {}, demoData, ...engine }: WebOptions): Platform {
  const files = withGguf(given);
  return {
    files,
    openSession: webSessions(files, engine),
    device: engine.engine === "webgpu" ? "webgpu" : "cpu",
    resolveModel: async (reference) => ({
      folder: await checkpointPlace(files, models[reference] ?? reference),
      name: reference,
    }),
    demoData,
    decodeImage,
    memoryLimits: () => ({ available: WASM_BYTES, total: WASM_BYTES }),
    environment: () => ({
      engine: engine.engine,
      browser: navigator.userAgent,
      processor: `${navigator.hardwareConcurrency} cores`,
    }),
  };
}
