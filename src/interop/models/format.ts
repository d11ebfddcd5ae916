// What a format of whole models is. Each is a row of index.ts (docs/add-a-format.md).
import type { AdapterHost } from "../../adapters/adapter-folder.ts";
import type { Files } from "../../files.ts";
import type { AnyBase } from "../../models/base.ts";
import type { OpenSession } from "../../runtime/session.ts";

export interface ModelOptions {
  /** What weights are stored in, of the row's `dtypes`: one, or several where it takes them. */
  dtypes: readonly string[];
  /** The engine, for rows that put weights into blocks with it. */
  openSession?: OpenSession;
  /** What the host has for folders that are written. */
  host?: AdapterHost;
  /** The most bytes that one file may have, where a format has several. */
  maxFileBytes?: number;
  onProgress?: (progress: { tensor: string; done: number; total: number }) => void;
}

/** A row of the table. */
export interface ModelFormat {
  /** What it is called. */
  title: string;
  /** How the name of its file ends; absent if it is a folder. */
  ending?: string;
  /** What weights can be stored in, what they are where nothing is said (as they are stored already, if nothing), and how many at once. */
  dtypes: { names: readonly string[]; usual: readonly string[]; most?: 1 };
  /** The paths of what is written, all new. */
  outputs(path: string): string[];
  /** Writes the model; what the format cannot say is refused by name. */
  write(files: Files, path: string, model: AnyBase, options: ModelOptions): Promise<void>;
}
