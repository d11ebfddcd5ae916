// What a format of whole models is. Each is a row of index.ts (docs/add-a-format.md).
import type { Files } from "../../files.ts";
import type { WritableType } from "../../formats/gguf/quantize.ts";
import type { AnyBase } from "../../models/base.ts";

export interface ModelOptions {
  /** What weights are stored in; what they are stored in already if absent. */
  dtype?: WritableType;
  onProgress?: (progress: { tensor: string; done: number; total: number }) => void;
}

/** A row of the table. */
export interface ModelFormat {
  /** What it is called. */
  title: string;
  /** How the name of its file ends; absent if it is a folder. */
  ending?: string;
  /** The paths of what is written, all new. */
  outputs(path: string): string[];
  /** Writes the model; what the format cannot say is refused by name. */
  write(files: Files, path: string, model: AnyBase, options: ModelOptions): Promise<void>;
}
