// What a host (Node, a browser) gives to the functions of the public API.
import type { Files } from "../files.ts";
import type { OpenSession } from "./session.ts";

export interface Runtime {
  files: Files;
  openSession: OpenSession;
  /** Memory of the process that is in use, where the host can tell. */
  memoryBytes?: () => number;
}
