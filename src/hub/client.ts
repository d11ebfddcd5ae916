// Requests to the hub: bounded in time, size, redirects and retries; every failure one error with a next step (huggingface_hub's codes).
import { readFileSync } from "node:fs";
import path from "node:path";
import { LowrankError } from "../errors.ts";
import { type Environment, hubHome } from "./cache.ts";

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
/** Answers to one question: pages of a listing, of a thousand entries each. */
const MAX_ANSWERS = 200;
const MAX_TOKEN_BYTES = 4096;

/** The hub as this process may use it. */
export interface Hub {
  /** Without a slash at its end. */
  endpoint: string;
  token: string | null;
  timeoutSeconds: number;
  signal?: AbortSignal;
  /** Waits before a retry, and reports why. */
  wait: (seconds: number, reason: string) => Promise<void>;
}

/** What a request is for, in errors. */
export interface Wanted {
  /** `owner/name`. */
  id: string;
  revision: string;
}

/** The hub by the environment variables that Python honours. Throws `hub/endpoint` or `hub/token` where they can't be used. */
export function connect(environment: Environment, { signal, wait }: Pick<Hub, "signal" | "wait">): Hub {
  const endpoint = (environment["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:$/.test(parsed(endpoint)?.protocol ?? "")) {
    throw new LowrankError("hub/endpoint", "is not an address", {
      subject: "HF_ENDPOINT",
      expected: "an address as in https://huggingface.co",
      got: endpoint,
      next: "Correct the environment variable, or unset it.",
    });
  }
  const seconds = Number(environment["HF_HUB_DOWNLOAD_TIMEOUT"]);
  const timeoutSeconds = seconds > 0 && seconds <= 3600 ? seconds : DEFAULT_TIMEOUT_SECONDS;
  return { endpoint, token: tokenOf(environment), timeoutSeconds, signal, wait };
}

const parsed = (text: string, from?: string): URL | null => (URL.canParse(text, from) ? new URL(text, from) : null);

function tokenOf(environment: Environment): string | null {
  const given = environment["HF_TOKEN"] ?? environment["HUGGING_FACE_HUB_TOKEN"];
  const file = environment["HF_TOKEN_PATH"] || path.join(hubHome(environment), "token");
  const token = (given ?? fileText(file)).trim();
  if (token === "") return null;
  if (/^[\x21-\x7e]+$/.test(token) && token.length <= MAX_TOKEN_BYTES) return token;
  throw new LowrankError("hub/token", "the access token has characters that no token has", {
    subject: given === undefined ? file : "HF_TOKEN",
    expected: "one word, as in hf_…",
    next: "Copy the token again, or remove it.",
  });
}

function fileText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/** One answer of the hub, and how to stop reading it. */
export interface Answer {
  response: Response;
  /** Call it with each part of the body that has come, and at the end with `true`. */
  alive: (ended?: boolean) => void;
}

/**
 * One request, tried again where the failure may pass. Resolves to an answer with a status of success, or one of `statuses`.
 * The token goes to the hub's own address only.
 */
export async function request(
  hub: Hub,
  url: string,
  { headers = {}, statuses = [], wanted }: { headers?: Record<string, string>; statuses?: number[]; wanted: Wanted },
): Promise<Answer> {
  for (let retry = 0; ; retry++) {
    let failure: LowrankError;
    let seconds = Math.min(MAX_WAIT_SECONDS, 2 ** retry / 2);
    try {
      const answer = await follow(hub, url, headers, wanted);
      const { response } = answer;
      if (response.ok || statuses.includes(response.status)) return answer;
      failure = await refusal(hub, response, wanted).finally(() => answer.alive(true));
      if (response.status !== 429 && response.status < 500) throw failure;
      if (response.status === 429) seconds = Math.min(MAX_WAIT_SECONDS, retryAfter(response) ?? 4 * seconds);
    } catch (error) {
      if (hub.signal?.aborted) throw stopped(wanted);
      if (error instanceof LowrankError && error.code !== "hub/unreachable") throw error;
      failure = error instanceof LowrankError ? error : unreachable(hub, url, wanted, error);
    }
    if (retry === MAX_RETRIES) throw failure;
    await pause(hub, seconds, failure.message, wanted);
  }
}

export async function pause(hub: Hub, seconds: number, reason: string, wanted: Wanted): Promise<void> {
  try {
    await hub.wait(seconds, reason);
  } catch {
    throw stopped(wanted);
  }
}

/** Follows redirects by hand: they are counted, never lead from https to http, and lose the token at another address. */
async function follow(hub: Hub, start: string, headers: Record<string, string>, wanted: Wanted): Promise<Answer> {
  const own = new URL(hub.endpoint).origin;
  let url = new URL(start);
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const authorization: Record<string, string> =
      hub.token !== null && url.origin === own ? { authorization: `Bearer ${hub.token}` } : {};
    const { signal, alive } = watched(hub);
    const all = { "user-agent": "lowrank", "accept-encoding": "identity", ...headers, ...authorization };
    const response = await fetch(url, { headers: all, redirect: "manual", signal }).catch((error) => {
      alive(true);
      throw error;
    });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || location === null) return { response, alive };
    alive(true);
    const next = parsed(location, url.href);
    if (next === null || !/^https?:$/.test(next.protocol) || (url.protocol === "https:" && next.protocol !== "https:")) {
      throw badRedirect(wanted, `from ${url.origin} to ${location.slice(0, 200)}`);
    }
    url = next;
  }
  throw badRedirect(wanted, `more than ${MAX_REDIRECTS} redirects, the last to ${url.origin}${url.pathname.slice(0, 100)}`);
}

/** A signal that fires when the user stops, or when nothing came for too long. */
function watched(hub: Hub): { signal: AbortSignal; alive: (ended?: boolean) => void } {
  const controller = new AbortController();
  const stop = () => controller.abort(hub.signal?.reason);
  const late = () => controller.abort(new Error(`nothing came for ${hub.timeoutSeconds} seconds`));
  let timer = setTimeout(late, 1000 * hub.timeoutSeconds);
  if (hub.signal?.aborted) stop();
  hub.signal?.addEventListener("abort", stop);
  return {
    signal: controller.signal,
    alive: (ended = false) => {
      clearTimeout(timer);
      if (!ended) timer = setTimeout(late, 1000 * hub.timeoutSeconds);
      else {
        hub.signal?.removeEventListener("abort", stop);
        controller.abort();
      }
    },
  };
}

/** The whole body, at most `limit` bytes of it; null if there is more. All of it must come in the time of one silence. */
async function bodyOf(response: Response, limit: number): Promise<Uint8Array | null> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body ?? []) {
    length += part.length;
    if (length > limit) return null;
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** `fetch` for @huggingface/hub: an answer that is no file, read whole, as JSON. Refusals are thrown, not returned. */
export function answers(hub: Hub, wanted: Wanted): typeof fetch {
  let count = 0;
  return async (input, init) => {
    if (++count > MAX_ANSWERS) throw malformed(wanted, `a listing of more than ${MAX_ANSWERS} pages`);
    const url = input instanceof Request ? input.url : String(input);
    const answer = await request(hub, url, { headers: Object.fromEntries(new Headers(init?.headers)), wanted });
    try {
      const body = await bodyOf(answer.response, MAX_ANSWER_BYTES).catch((error) => {
        throw hub.signal?.aborted ? stopped(wanted) : unreachable(hub, url, wanted, error);
      });
      if (body === null) throw malformed(wanted, `more than ${MAX_ANSWER_BYTES} bytes`);
      const text = new TextDecoder().decode(body);
      try {
        JSON.parse(text);
      } catch (cause) {
        throw malformed(wanted, `text that is no JSON: ${text.slice(0, 80)}`, cause);
      }
      const { headers } = answer.response;
      return new Response(text, { headers: { "content-type": "application/json", link: headers.get("link") ?? "" } });
    } finally {
      answer.alive(true);
    }
  };
}

/** Seconds of a Retry-After header: a number, or a date. */
function retryAfter(response: Response): number | null {
  const text = response.headers.get("retry-after") ?? "";
  const seconds = /^\d{1,9}$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(0, seconds);
}

/** The error of an answer that is no success. */
async function refusal(hub: Hub, response: Response, wanted: Wanted): Promise<LowrankError> {
  const { status, headers } = response;
  const code = headers.get("x-error-code") ?? "";
  const said = headers.get("x-error-message") ?? (await messageOf(response));
  const got = `status ${status}${said ? `: ${said}` : ""}`;
  const subject = wanted.id;
  const page = `${hub.endpoint}/${wanted.id}`;
  const token = `set HF_TOKEN to a token of ${hub.endpoint}/settings/tokens`;
  if (status === 429) {
    const next =
      hub.token === null ? `Try again later, or ${token}: requests with a token have a higher limit.` : "Try again later.";
    return new LowrankError("hub/rate-limited", "the hub accepts no more requests for now", { subject, got, next, exitCode: 1 });
  }
  if (status >= 500) {
    return new LowrankError("hub/server", "the hub fails to answer", {
      subject,
      got,
      next: "Try again later; what has been downloaded stays.",
      exitCode: 1,
    });
  }
  if (code === "GatedRepo" || (status === 403 && code !== "RepoNotFound")) {
    return new LowrankError("hub/gated", "the model's licence must be accepted first", {
      subject,
      got,
      next: `Accept it at ${page}, then ${token}.`,
    });
  }
  if (code === "RevisionNotFound") {
    return new LowrankError("hub/no-revision", "the model has no such revision", {
      subject: `${wanted.id}@${wanted.revision}`,
      expected: "a branch, a tag or a commit",
      next: `See the branches at ${page}/tree/main.`,
    });
  }
  if (status === 401 && hub.token !== null && code !== "RepoNotFound") {
    return new LowrankError("hub/token", "the hub does not accept the access token", {
      subject,
      got,
      next: `Then ${token}, or remove it.`,
    });
  }
  if (status === 404 || status === 401) {
    const next = `Check the spelling at ${page}. If the model is private, ${token}${hub.token === null ? "" : " that may read it"}.`;
    return new LowrankError("hub/missing", "the hub has no such model", {
      subject,
      expected: "owner/name of a model",
      got,
      next,
    });
  }
  return new LowrankError("hub/refused", "the hub refuses the request", { subject, got, next: `See ${page}.`, exitCode: 1 });
}

async function messageOf(response: Response): Promise<string> {
  try {
    const body = await bodyOf(response, MAX_ERROR_BYTES);
    const { error } = JSON.parse(new TextDecoder().decode(body ?? new Uint8Array()));
    return typeof error === "string" ? error : "";
  } catch {
    return "";
  }
}

export const stopped = ({ id }: Wanted): LowrankError =>
  new LowrankError("hub/stopped", "the download was stopped", {
    subject: id,
    next: "Run it again: it resumes where it stopped.",
    exitCode: 1,
  });

export function unreachable(hub: Hub, url: string, { id }: Wanted, error: unknown): LowrankError {
  const { message, cause } = error as Error & { cause?: NodeJS.ErrnoException };
  const host = new URL(url).host;
  return new LowrankError("hub/unreachable", `no answer from ${host}`, {
    subject: id,
    got: cause?.message || cause?.code || message,
    next: `Check the network${host === new URL(hub.endpoint).host ? " and HF_ENDPOINT" : ""}; what has been downloaded stays. With --offline only folders and the cache are used.`,
    exitCode: 1,
    cause: error,
  });
}

const badRedirect = ({ id }: Wanted, got: string): LowrankError =>
  new LowrankError("hub/redirects", "the hub redirects too often", {
    subject: id,
    got,
    next: "Try again later; check HF_ENDPOINT if it is set.",
    exitCode: 1,
  });

export const malformed = ({ id }: Wanted, got: string, cause?: unknown): LowrankError =>
  new LowrankError("hub/answer", "the hub's response does not follow its protocol", {
    subject: id,
    got,
    next: "Check HF_ENDPOINT if it is set; else try again later.",
    exitCode: 1,
    cause,
  });
