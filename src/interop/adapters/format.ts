// What a format of adapters is. Each is a row of index.ts (docs/add-a-format.md).
import type { Adapter } from "../../adapters/peft-files.ts";
import type { Files } from "../../files.ts";
import type { AnyBase } from "../../models/base.ts";
import type { Platform } from "../../platform/platform.ts";

/** Limits of what is read from strangers. */
export type AdapterLimits = Platform["adapterLimits"];

/** A row of the table. */
export interface AdapterFormat {
  /** What it is called. */
  title: string;
  /** Whether what lies at a path, a file or a folder, is one. What cannot be read is none. */
  isAt(files: Files, path: string): Promise<boolean>;
  /**
   * Reads it. `base` is the model that it is for; null where none was given, which rows that need one refuse by `needBase`. What the
   * format has and an adapter of ours has not is refused by name.
   */
  read(files: Files, path: string, base: AnyBase | null, limits?: AdapterLimits): Promise<Adapter>;
  /** Writes it. Absent from a format that is only read. What the format cannot say is refused by name (`say.ts`). */
  write?: {
    /** How the name of its one file ends; absent if it is a folder. */
    ending?: string;
    /** `place` is the file, or a new folder that exists; `from` is where the adapter was read. */
    run(files: Files, place: string, adapter: Adapter, base: AnyBase | null, from: string): Promise<void>;
  };
}
