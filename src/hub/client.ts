// Requests to the hub: bounded in time, size, redirects and retries (the addresses and headers that huggingface_hub uses).
import { readFileSync } from "node:fs";
import path from "node:path";
import { LowrankError } from "../errors.ts";
import { orEmpty } from "../platform/node/files.ts";
import { type Environment, type HubName, hubHome } from "./cache.ts";
import { type HubResponse, isLoopback, type Send, sender } from "./connection.ts";
import { badRedirect, malformed, refusal, stopped, unreachable } from "./failures.ts";

/** Redirects of one request; a file's download has one or two. */
const MAX_REDIRECTS = 5;
/** Requests that are made in place of one that failed for a reason that passes. */
export const MAX_RETRIES = 4;
/** Longest time between two of them, in seconds, whatever the server asks for. */
const MAX_WAIT_SECONDS = 60;
/** Seconds without an answer, or without a byte of it, after which a connection counts as lost. */
const DEFAULT_TIMEOUT_SECONDS = 30;
/** Largest answer that is no file: a page of a listing has some hundred kilobytes. */
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
const MAX_ERROR_BYTES = 64 * 1024;
const MAX_TOKEN_BYTES = 4096;

/** The hub as this process may use it for one model. */
export interface Hub {
  name: HubName;
  /** Without a slash at its end. */
  endpoint: string;
  token: string | null;
  /** Whether the hub is spoken to without encryption and there is a token: "sent" to this machine alone, "withheld" elsewhere. */
  plainToken: "sent" | "withheld" | null;
  send: Send;
  timeoutSeconds: number;
  signal?: AbortSignal;
  /** Waits before a retry, and reports why. */
  wait: (seconds: number, reason: string) => Promise<void>;
}

/**
 * The hub by the environment variables that Python honours. Unlike there, a token is not sent without encryption, except to
 * this machine. Throws `hub/endpoint` or `hub/token` where they can't be used.
 */
export function connect(environment: Environment, asked: Pick<Hub, "name" | "signal" | "wait">): Hub {
  const endpoint = (environment["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, "");
  const url = addressFrom(endpoint);
  if (url === null) {
    throw new LowrankError("hub/endpoint", "is not an address", {
      subject: "HF_ENDPOINT",
      expected: "an address as in https://huggingface.co, without a user's name",
      got: endpoint.replace(/\/\/[^/]*@/, "//…@"),
      next: "Correct the environment variable, or unset it.",
    });
  }
  const seconds = Number(environment["HF_HUB_DOWNLOAD_TIMEOUT"]);
  const timeoutSeconds = seconds > 0 && seconds <= 3600 ? seconds : DEFAULT_TIMEOUT_SECONDS;
  const token = tokenOf(environment);
  const plainToken = token === null || url.protocol === "https:" ? null : isLoopback(url) ? "sent" : "withheld";
  const send = sender(url, environment, (to, got) => badRedirect(asked, `to ${to.origin}, which is at ${got}`));
  return { ...asked, endpoint, token: plainToken === "withheld" ? null : token, plainToken, send, timeoutSeconds };
}

/** The address that a text names, seen from another one; null if it is none, has a user's name, or leads from https to http. */
function addressFrom(text: string, from?: URL): URL | null {
  const url = URL.canParse(text, from?.href) ? new URL(text, from) : null;
  if (url?.username || url?.password) return null;
  return url?.protocol === "https:" || (url?.protocol === "http:" && from?.protocol !== "https:") ? url : null;
}

function tokenOf(environment: Environment): string | null {
  const given = environment["HF_TOKEN"] ?? environment["HUGGING_FACE_HUB_TOKEN"];
  const file = environment["HF_TOKEN_PATH"] || path.join(hubHome(environment), "token");
  const token = (given ?? orEmpty(() => readFileSync(file, "utf8"))).trim();
  if (token === "") return null;
  if (/^[\x21-\x7e]+$/.test(token) && token.length <= MAX_TOKEN_BYTES) return token;
  throw new LowrankError("hub/token", "the access token has characters that no token has", {
    subject: given === undefined ? file : "HF_TOKEN",
    expected: "one word, as in hf_…",
    next: "Copy the token again, or remove it.",
  });
}

/** What is done with an answer: its next part is waited for, something else is waited for, or it is not read any more. */
type Watch = (now: "waiting" | "busy" | "ended") => void;

/** One answer of the hub, and how its silence is watched. */
export interface Answer {
  response: HubResponse;
  watch: Watch;
}

/** One request, tried again where the failure may pass. Resolves to an answer with a status of success, or one of `statuses`. */
export async function request(
  hub: Hub,
  url: string,
  { headers = {}, statuses = [] }: { headers?: Record<string, string>; statuses?: number[] } = {},
): Promise<Answer> {
  for (let retry = 0; ; retry++) {
    let failure: LowrankError;
    let seconds = 2 ** retry / 2;
    try {
      const answer = await follow(hub, url, headers);
      const { response } = answer;
      const { status } = response;
      if ((status >= 200 && status < 300) || statuses.includes(status)) return answer;
      const code = response.headers.get("x-error-code") ?? "";
      const said = await messageOf(response).finally(() => answer.watch("ended"));
      failure = refusal(hub, { status, code, said });
      if (status !== 429 && status < 500) throw failure;
      if (status === 429) seconds = retryAfter(response) ?? 4 * seconds;
    } catch (error) {
      if (hub.signal?.aborted) throw stopped(hub);
      if (error instanceof LowrankError) throw error;
      failure = unreachable(hub, url, error);
    }
    if (retry === MAX_RETRIES) throw failure;
    await pause(hub, Math.min(MAX_WAIT_SECONDS, seconds), failure.message);
  }
}

export const pause = (hub: Hub, seconds: number, reason: string): Promise<void> =>
  hub.wait(seconds, reason).catch(() => Promise.reject(stopped(hub)));

/** Follows redirects: they are counted, never lead from https to http, and lose the token at another address. */
async function follow(hub: Hub, start: string, headers: Record<string, string>): Promise<Answer> {
  const own = new URL(hub.endpoint).origin;
  let url = new URL(start);
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const authorization: Record<string, string> =
      hub.token !== null && url.origin === own ? { authorization: `Bearer ${hub.token}` } : {};
    const { signal, watch } = watched(hub);
    const all = { "user-agent": "lowrank", "accept-encoding": "identity", ...headers, ...authorization };
    const response = await hub.send(url, all, signal).catch((error) => {
      watch("ended");
      throw error;
    });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || location === null) return { response, watch };
    watch("ended");
    const next = addressFrom(location, url);
    if (next === null) throw badRedirect(hub, `from ${url.origin} to ${location.slice(0, 200)}`);
    url = next;
  }
  throw badRedirect(hub, `more than ${MAX_REDIRECTS} redirects, the last to ${url.origin}${url.pathname.slice(0, 100)}`);
}

/** A signal that fires when the user stops, or when nothing came for too long while it was waited for. */
function watched({ signal, timeoutSeconds }: Hub): { signal: AbortSignal; watch: Watch } {
  const own = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const watch: Watch = (now) => {
    clearTimeout(timer);
    if (now === "ended") own.abort();
    if (now !== "waiting") return;
    timer = setTimeout(() => own.abort(new Error(`nothing came for ${timeoutSeconds} seconds`)), 1000 * timeoutSeconds);
  };
  watch("waiting");
  return { signal: AbortSignal.any(signal ? [own.signal, signal] : [own.signal]), watch };
}

/** The whole body as text; null if it has more than `limit` bytes. All of it must come in the time of one silence. */
async function textOf(response: HubResponse, limit: number): Promise<string | null> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body) {
    length += part.length;
    if (length > limit) return null;
    parts.push(part);
  }
  return new TextDecoder().decode(Buffer.concat(parts));
}

/** An answer that is no file: what its JSON holds, and the address of the page after it. */
export async function getJson(hub: Hub, url: string): Promise<{ value: unknown; next: string | null }> {
  const { response, watch } = await request(hub, url);
  const text = await textOf(response, MAX_ANSWER_BYTES)
    .catch((error) => Promise.reject(hub.signal?.aborted ? stopped(hub) : unreachable(hub, url, error)))
    .finally(() => watch("ended"));
  if (text === null) throw malformed(hub, `more than ${MAX_ANSWER_BYTES} bytes`);
  const [, link] = /<([^>]*)>\s*;\s*rel="next"/.exec(response.headers.get("link") ?? "") ?? [];
  const next = link === undefined ? null : addressFrom(link, new URL(url));
  if (link !== undefined && next === null) throw malformed(hub, `a next page at ${link.slice(0, 200)}`);
  try {
    return { value: JSON.parse(text), next: next?.href ?? null };
  } catch (cause) {
    throw malformed(hub, `text that is no JSON: ${text.slice(0, 80)}`, cause);
  }
}

/** Seconds of a Retry-After header: a number, or a date by the clock of the server, which its header Date gives. */
function retryAfter({ headers }: HubResponse): number | null {
  const text = headers.get("retry-after") ?? "";
  const now = headers.has("date") ? Date.parse(headers.get("date")!) : Date.now();
  const seconds = /^\d{1,9}$/.test(text) ? Number(text) : (Date.parse(text) - now) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(0, seconds);
}

/** What a refusal says of itself. */
async function messageOf(response: HubResponse): Promise<string> {
  const header = response.headers.get("x-error-message");
  if (header) return header;
  try {
    const { error } = JSON.parse((await textOf(response, MAX_ERROR_BYTES)) ?? "{}");
    return typeof error === "string" ? error : "";
  } catch {
    return "";
  }
}
