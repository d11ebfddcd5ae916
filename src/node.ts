// The public API on Node: its file system, ONNX Runtime for Node, the Hugging Face hub.
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { createLowrank, type Lowrank } from "./core.ts";
import { withGguf } from "./formats/gguf/files.ts";
import { resolveModel } from "./hub/reference.ts";
import { nodeFiles } from "./platform/node/files.ts";
import {
  chartLibrary,
  collect,
  digest,
  environment,
  freeDisk,
  memoryLimits,
  secondsLeft,
  version,
} from "./platform/node/host.ts";
import { decodeImage } from "./platform/node/images.ts";
import { lockFolder } from "./platform/node/lock.ts";
import { nodeDevices, openNodeSession } from "./platform/node/session.ts";
import { timeLimit } from "./platform/node/time-limit.ts";
import type { Platform } from "./platform/platform.ts";

export const nodePlatform: Platform = {
  version,
  files: withGguf(nodeFiles),
  digest,
  openSession: openNodeSession,
  devices: nodeDevices,
  stages: true,
  resolveModel,
  demoData: fileURLToPath(new URL("../models/demo", import.meta.url)),
  chartLibrary,
  decodeImage,
  timeLimit,
  memoryBytes: () => process.memoryUsage.rss(),
  memoryLimits,
  freeDisk,
  lock: lockFolder,
  temporaryFolder: tmpdir(),
  collect,
  environment,
  secondsLeft,
};

export const lowrank: Lowrank = createLowrank(nodePlatform);
