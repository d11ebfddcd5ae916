// What a host (Node, a browser) gives to the functions of the public API.
import type { Files } from "../files.ts";
import type { DecodeImage } from "../images/image.ts";
import type { OpenSession } from "../runtime/session.ts";
import type { TimeLimit } from "../text/limit.ts";

export interface Runtime {
  files: Files;
  openSession: OpenSession;
  /** Stops work on text that takes too long, where the host can. */
  timeLimit?: TimeLimit;
  /** Memory of the process that is in use, where the host can tell. */
  memoryBytes?: () => number;
  /** Memory that could be had without swapping, and all that the process may ever have, in bytes; where the host can tell. */
  memoryLimits?: () => { available: number; total: number };
  /** Free bytes on the disk that `folder`, which exists, is on. */
  freeDisk?: (folder: string) => Promise<number>;
  /**
   * Takes `folder`, which exists, for one run, and returns what gives it back; fails with `file/locked` if another has it. What
   * a killed run has not given back is taken over.
   */
  lock?: (folder: string) => Promise<() => Promise<void>>;
  /** Where files may lie while a job is at work that has no folder of its own. */
  temporaryFolder?: string;
  /** Frees memory that nobody holds any more, where the host can be asked to. */
  collect?: () => void;
  /** Decodes image files, where the host can. */
  decodeImage?: DecodeImage;
  /** Of this program, for logs. */
  version?: string;
  /** What it runs on, for logs: names and values in words. */
  environment?: () => Record<string, string>;
}
