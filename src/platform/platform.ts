// What a host (Node, a browser) gives to the functions of the public API. Time, text and randomness come from JavaScript and the
// web's own globals (performance, TextEncoder, crypto), which every host has.
import type { Communicator } from "../distributed/communicator.ts";
import type { Files, LockFolder } from "../files.ts";
import type { MakeDigest } from "../formats/checksums.ts";
import type { DecodeImage } from "../images/image.ts";
import type { DeviceName } from "../runtime/devices.ts";
import type { OpenSession } from "../runtime/session.ts";
import type { TimeLimit } from "../text/limit.ts";

export type { Digest } from "../formats/checksums.ts";

export interface Platform {
  /** The version of lowrank, for logs. */
  version?: string;
  files: Files;
  /** Hashes. Without it there are no checksums. */
  digest?: MakeDigest;
  /** The engine. */
  openSession: OpenSession;
  /** The processes that this one works with, in `finetune` and `sweep`; none if absent. */
  team?: Communicator;
  /** Threads of one matrix product, if nothing else is asked for; as many as the engine takes if absent. */
  threads?: number;
  /** What it computes on; the processor if absent. */
  device?: DeviceName;
  /** Engines on other devices. */
  devices?: Devices;
  /** Whether it runs programs of several stages, with weights in other forms than float32. */
  stages?: boolean;
  /** The folder of a model by its name. Without it a name is a folder. */
  resolveModel?: (reference: string, options?: HubOptions) => Promise<ModelFolder>;
  /** Folder of the demo's train.jsonl and test.jsonl, which come with the package. */
  demoData?: string;
  /** What draws the charts of a report. */
  chartLibrary?: () => Promise<ChartLibrary>;
  /** Decodes image files. */
  decodeImage?: DecodeImage;
  /** Stops work on text that takes too long. */
  timeLimit?: TimeLimit;
  /** Memory of the process that is in use, in bytes. */
  memoryBytes?: () => number;
  /** Memory that could be had without swapping, and all that the process may ever have, in bytes. */
  memoryLimits?: () => { available: number; total: number };
  /** Free bytes on the disk that `folder`, which exists, is on. */
  freeDisk?: (folder: string) => Promise<number>;
  /** Keeps other runs out of a folder that is written to. */
  lock?: LockFolder;
  /** The most that an adapter which is read may have; the defaults are in docs/safety.md. */
  adapterLimits?: { maxRank?: number; maxModules?: number };
  /** Where a job without a folder of its own keeps temporary files. */
  temporaryFolder?: string;
  /** Seconds until a batch system ends the process. */
  secondsLeft?: () => number;
  /** Collects garbage now. */
  collect?: () => void;
  /** What it runs on, for logs: names and values in words. */
  environment?: () => Record<string, string>;
}

export interface Devices {
  /** Those beside the processor that the machine seems to have. */
  found(): DeviceName[];
  /** The engine on a device. Rejects with `runtime/device` where that does not start. */
  open(device: DeviceName): Promise<OpenSession>;
}

export interface ChartLibrary {
  script: string;
  style: string;
  license: string;
}

/** The name of the model that comes with the package. */
export const EMBEDDED = "embedded";

/** The folder a reference stands for, and what to call the model. */
export interface ModelFolder {
  folder: string;
  /** As PEFT's `base_model_name_or_path` has it: the reference as given, a hub model's without its revision. */
  name: string;
}

/** The progress of a download. */
export type HubEvent =
  /** Before the first request: the hub's address is http and there is a token, which is sent only if that is this machine. */
  | { type: "plain-token"; endpoint: string; sent: boolean }
  /** Before the first file: what is downloaded, and how much of it is there already. */
  | { type: "download"; model: string; commit: string; folder: string; files: number; bytes: number; there: number }
  /** `bytesPerSecond` and `secondsLeft` are null until they can be estimated. */
  | { type: "downloading"; file: string; done: number; bytes: number; bytesPerSecond: number | null; secondsLeft: number | null }
  /** A failure that may pass: the request is made again. */
  | { type: "waiting"; seconds: number; reason: string }
  | { type: "downloaded"; model: string; commit: string; folder: string };

export interface HubOptions {
  /** Make no request. Default: what HF_HUB_OFFLINE says. */
  offline?: boolean;
  /** Ask the hub what the revision is now, even if the cache has one that is whole. */
  refresh?: boolean;
  onEvent?: (event: HubEvent) => void;
  /** Aborting stops the download with `hub/stopped`; the next one resumes it. */
  signal?: AbortSignal;
  /** Default: the process's. */
  environment?: Readonly<Record<string, string | undefined>>;
  /** Waits before a request is made again. Default: as long as the hub asks for. */
  wait?: (seconds: number, reason: string) => Promise<void>;
}
