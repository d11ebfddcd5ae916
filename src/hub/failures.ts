// What can go wrong with the hub: each failure one error with a next step (huggingface_hub's error codes).
import { type Failure, LowrankError } from "../errors.ts";
import type { Hub } from "./client.ts";

type Asked = Pick<Hub, "name">;

/** An error about a model on the hub. Exit code 1, since most are no fault of what was typed. */
export const hubError = (code: string, message: string, { name }: Asked, failure: Failure): LowrankError =>
  new LowrankError(`hub/${code}`, message, { subject: name.id, exitCode: 1, ...failure });

export const stopped = (hub: Asked): LowrankError =>
  hubError("stopped", "the download was stopped", hub, { next: "Run it again: it resumes where it stopped." });

export function malformed(hub: Asked, got: string, cause?: unknown): LowrankError {
  const next = "Check HF_ENDPOINT if it is set; else try again later.";
  return hubError("answer", "the hub's response does not follow its protocol", hub, { got, next, cause });
}

export function badRedirect(hub: Asked, got: string): LowrankError {
  const next = "Try again later; check HF_ENDPOINT if it is set.";
  const expected = "few redirects, to https and to the internet";
  return hubError("redirects", "the hub redirects too often, or to where it must not", hub, { expected, got, next });
}

export function unreachable(hub: Hub, url: string, error: unknown): LowrankError {
  const { message, cause } = error as Error & { cause?: NodeJS.ErrnoException };
  const host = new URL(url).host;
  return hubError("unreachable", `no answer from ${host}`, hub, {
    got: cause?.message || cause?.code || message || (error as NodeJS.ErrnoException).code,
    next: `Check the network${host === new URL(hub.endpoint).host ? " and HF_ENDPOINT" : ""}; what has been downloaded stays. With --offline only folders and the cache are used.`,
    cause: error,
  });
}

/** The error of an answer that is no success. `code` is its header x-error-code, `said` what the hub says about it. */
export function refusal(hub: Hub, { status, code, said }: { status: number; code: string; said: string }): LowrankError {
  const { endpoint, token, name } = hub;
  const page = `${endpoint}/${name.id}`;
  const setToken =
    hub.plainToken === "withheld"
      ? "set HF_ENDPOINT to an https address: over http the token is not sent"
      : `set HF_TOKEN to a token of ${endpoint}/settings/tokens`;
  const hasToken = token !== null;
  const error = (kind: string, message: string, next: string, more: Failure = {}) =>
    hubError(kind, message, hub, { got: `status ${status}${said ? `: ${said}` : ""}`, next, ...more });
  if (status === 429) {
    const higher = hasToken ? "" : `, or ${setToken}: requests with a token have a higher limit`;
    return error("rate-limited", "the hub accepts no more requests for now", `Try again later${higher}.`);
  }
  if (status >= 500) return error("server", "the hub fails to answer", "Try again later; what has been downloaded stays.");
  if (code === "GatedRepo" || (status === 403 && code !== "RepoNotFound")) {
    const message = "the model's licence must be accepted first";
    return error("gated", message, `Accept it at ${page}, then ${setToken}.`, { exitCode: 2 });
  }
  if (code === "RevisionNotFound") {
    const more: Failure = { subject: `${name.id}@${name.revision}`, expected: "a branch, a tag or a commit", exitCode: 2 };
    return error("no-revision", "the model has no such revision", `See the branches at ${page}/tree/main.`, more);
  }
  if (status === 401 && hasToken && code !== "RepoNotFound") {
    return error("token", "the hub does not accept the access token", `Then ${setToken}, or remove it.`, { exitCode: 2 });
  }
  if (status === 404 || status === 401) {
    const next = `Check the spelling at ${page}. If the model is private, ${setToken}${hasToken ? " that may read it" : ""}.`;
    return error("missing", "the hub has no such model", next, { expected: "owner/name of a model", exitCode: 2 });
  }
  return error("refused", "the hub refuses the request", `See ${page}.`);
}
