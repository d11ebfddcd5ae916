// An adapter or a merged model to the hub: which files, with which base's name, and a model card.
import { z } from "zod";
import { formatAdapterConfig } from "../../adapters/config.ts";
import { ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, type Adapter, readAdapter } from "../../adapters/peft-files.ts";
import { LowrankError } from "../../errors.ts";
import type { Files } from "../../files.ts";
import { hasWeights } from "../../formats/checkpoint.ts";
import { SUMS_NAME } from "../../formats/checksums.ts";
import { parseJsonObject, readText } from "../../formats/json.ts";
import { headFolders, isHeadFile, isSideFile, isTokenizerFile } from "../../formats/side-files.ts";
import { type PushedFile, type PushOptions, pushToHub } from "../../hub/push.ts";
import { hubName } from "../../hub/reference.ts";
import { type Given, option } from "../../options.ts";
import type { Platform } from "../../platform/platform.ts";
import { readMetrics } from "../../train/run-log.ts";
import { CERTIFICATE_NAME, type Certificate } from "../certify/certify.ts";
import { modelCard } from "./card.ts";

const CARD_NAME = "README.md";

export const pushOptions = {
  folder: option(z.string(), { help: "the folder of an adapter, a run's output, or a merged model" }),
  to: option(z.string(), { value: "OWNER/NAME[@BRANCH]", help: "the repository on the hub, which is made if it is not there" }),
  baseModel: option(z.string().optional(), {
    value: "OWNER/NAME",
    help: "the base's name on the hub, where the adapter's configuration has the path of a folder",
  }),
  public: option(z.boolean().default(false), { help: "make a new repository public; it is private otherwise" }),
  license: option(z.string().optional(), { help: "the licence, as the hub calls it: apache-2.0, mit, …" }),
  language: option(z.array(z.string()).optional(), { value: "CODE", help: "languages of the data: en, de, …", commas: true }),
  message: option(z.string().default("Upload with lowrank"), { help: "what the commit is called" }),
  dryRun: option(z.boolean().default(false), { help: "show the files and the card, and push nothing" }),
};
export type PushFolderOptions = Given<typeof pushOptions> & Pick<PushOptions, "environment" | "signal" | "onEvent">;

/** What was pushed, or would be: `commit` is null after a dry run. */
export interface Pushed {
  model: string;
  files: string[];
  card: string;
  commit: string | null;
}

export interface ToPush {
  /** owner/name and branch. */
  id: string;
  revision: string;
  files: PushedFile[];
  card: string;
}

/**
 * What is pushed of a folder: weights, configuration, tokenizer, certificate and a model card; no checkpoint, no log and no path of this
 * machine. A README.md that is there is kept. Throws `push/*`.
 */
export async function filesToPush(options: PushFolderOptions, { files, adapterLimits, version = "" }: Platform): Promise<ToPush> {
  const { folder, to } = options;
  const name = hubName(to);
  if (!name)
    throw refuse("option", "this is no name of a repository on the hub", {
      subject: "to",
      expected: "owner/name or owner/name@branch",
      got: to,
    });
  const isAdapter = await files.exists(`${folder}/${ADAPTER_CONFIG_NAME}`);
  if (!isAdapter && !(await hasWeights(files, folder))) {
    const expected = `${ADAPTER_CONFIG_NAME} and ${ADAPTER_WEIGHTS_NAME}, or a model's config.json and weights`;
    throw refuse("nothing", "the folder has nothing that can be pushed", { subject: folder, expected });
  }
  const adapter = isAdapter ? await readAdapter(files, folder, adapterLimits) : null;
  const base = await baseOf(files, adapter, options);
  const wanted = (file: string) =>
    isHeadFile(file) ||
    (isAdapter
      ? file === ADAPTER_WEIGHTS_NAME || isTokenizerFile(file)
      : isSideFile(file) || /^model.*\.safetensors(\.index\.json)?$/.test(file) || /^certificate\.(json|html)$/.test(file));
  const inHead = (await headFolders(files, folder)).map((name) => `${name}/config.json`);
  const all = [...(await files.list(folder)), ...inHead];
  const names = all.filter((file) => wanted(file) && file !== CARD_NAME && file !== SUMS_NAME).sort();
  const pushed: PushedFile[] = names.map((path) => ({ path, content: { file: `${folder}/${path}` } }));
  if (adapter) {
    const text = formatAdapterConfig({ ...adapter.config, baseModelNameOrPath: base });
    pushed.push({ path: ADAPTER_CONFIG_NAME, content: { text } });
  }
  const own = await files.exists(`${folder}/${CARD_NAME}`);
  const { license, language } = options;
  const made = async () => {
    const metrics = await readMetrics(files, folder);
    const certificate = await readCertificate(files, folder);
    return modelCard({ id: name.id, base, adapter, metrics, certificate, license, language, version });
  };
  const card = own ? await readText(files, `${folder}/${CARD_NAME}`) : await made();
  pushed.push({ path: CARD_NAME, content: { text: card } });
  return { ...name, files: pushed, card };
}

/** The base's name on the hub: another machine has no such folder. A path such as models/smol can have the form of a name. */
async function baseOf(files: Files, adapter: Adapter | null, { baseModel, folder }: PushFolderOptions): Promise<string> {
  const given = baseModel ?? adapter?.config.baseModelNameOrPath ?? undefined;
  const isPath = baseModel === undefined && given !== undefined && (await files.exists(given));
  const found = given === undefined || isPath ? null : hubName(given);
  if (found) return given!;
  throw refuse("base", "what it was made from has no name on the hub", {
    subject: folder,
    expected: "owner/name of the base model",
    got: isPath ? `${given}, which is a path on this machine` : (given ?? "none"),
    next: "Give it with --base-model, such as --base-model HuggingFaceTB/SmolLM2-135M-Instruct.",
  });
}

async function readCertificate(files: Platform["files"], folder: string): Promise<Certificate | null> {
  const path = `${folder}/${CERTIFICATE_NAME}`;
  if (!(await files.exists(path))) return null;
  const found = parseJsonObject(await readText(files, path), path) as unknown as Certificate;
  const isWhole = typeof found.passed === "boolean" && typeof found.weights?.compared === "number";
  return isWhole ? found : null;
}

const refuse = (
  code: string,
  message: string,
  facts: { subject: string; expected: string; got?: string; next?: string },
): LowrankError => new LowrankError(`push/${code}`, message, { next: "Correct it.", ...facts });

/** Pushes what `filesToPush` chooses, unless it is a dry run. */
export async function pushFolder(options: PushFolderOptions, platform: Platform): Promise<Pushed> {
  const { files, card, id, revision } = await filesToPush(options, platform);
  const pushed = { model: id, files: files.map(({ path }) => path), card };
  if (options.dryRun) return { ...pushed, commit: null };
  const { message = "Upload with lowrank", public: isPublic, environment, signal, onEvent } = options;
  const how = { isPrivate: !isPublic, message, environment, signal, onEvent };
  return { ...pushed, commit: await pushToHub({ id, revision }, files, how) };
}
