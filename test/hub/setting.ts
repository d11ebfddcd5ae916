// A hub with one small model, an empty cache, and a download between them, for the tests of this folder.
import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { afterEach } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import type { HubEvent, HubOptions } from "../../src/platform/platform.ts";
import { refused } from "../helpers/assert.ts";
import { temporaryFolder } from "../helpers/temporary-folder.ts";
import { blobOf, type FakeHub, type Fault, type Files, fakeHub, type Model } from "./server.ts";

const root = temporaryFolder();
export const commit = "1".repeat(40);
export const id = "owner/tiny";
export const weights = randomBytes(300_000);
export const small: Files = {
  "config.json": Buffer.from('{"model_type": "llama"}'),
  "tokenizer.json": Buffer.from("{}"),
  "tokenizer_config.json": Buffer.from('{"a": 1}'),
  "model.safetensors": weights,
};
export const model = (files: Files = small, entries?: unknown[]): Model => ({ id, commit, files, entries });

export const hubs: FakeHub[] = [];
afterEach(() => {
  for (const hub of hubs.splice(0)) hub.close();
});

let homes = 0;
const newHome = (): string => path.join(root, `home-${homes++}`);

interface Setting {
  hub: FakeHub;
  home: string;
  events: HubEvent[];
  waits: number[];
  options: HubOptions;
  /** The model's folder in the cache. */
  folder: string;
  blob(file: string): string;
}

/** A hub and an empty cache. Waits take no time. */
export async function setting(models: Model[] = [model()], fault?: Fault, more: Record<string, string> = {}): Promise<Setting> {
  const hub = await fakeHub(models, fault);
  hubs.push(hub);
  const home = newHome();
  const [events, waits]: [HubEvent[], number[]] = [[], []];
  const environment = { HF_HOME: home, HF_ENDPOINT: hub.endpoint, ...more };
  const wait = async (seconds: number) => void waits.push(seconds);
  const folder = path.join(home, "hub", "models--owner--tiny");
  const blob = (file: string) => path.join(folder, "blobs", blobOf(file, models.at(-1)!.files[file]!));
  return { hub, home, events, waits, folder, blob, options: { environment, wait, onEvent: (event) => events.push(event) } };
}

export const failure = (options: HubOptions, reference = id): Promise<LowrankError> =>
  refused(resolveModel(reference, options), undefined, { subject: /owner\// });

/** Bytes of what a snapshot has under a name. */
export const inSnapshot = ({ folder }: Setting, file: string, of = commit) =>
  readFileSync(path.join(folder, "snapshots", of, file));
export const leftovers = ({ folder }: Setting): string[] =>
  readdirSync(path.join(folder, "blobs")).filter((name) => name.includes("."));

/** Whether a request is for the weights. */
export const isWeights = (url = "") => url.endsWith("/model.safetensors");
