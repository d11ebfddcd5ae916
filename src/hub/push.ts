// Files into a repository on the hub, in one commit, by Hugging Face's own client: large ones by LFS or Xet, as the hub asks for.
import { openAsBlob } from "node:fs";
import { LowrankError } from "../errors.ts";
import type { Environment, HubName } from "./cache.ts";
import { connect } from "./client.ts";
import { hubError } from "./failures.ts";

export interface PushOptions {
  /** Made as a private repository if it is not there; public if false. */
  isPrivate: boolean;
  message: string;
  environment?: Environment;
  signal?: AbortSignal;
  onEvent?: (event: PushEvent) => void;
}

export type PushEvent =
  | { type: "plain-token"; endpoint: string; sent: boolean }
  | { type: "created"; model: string; url: string }
  | { type: "pushing"; file: string; share: number; state: "hashing" | "uploading" };

/** A file as it will be called, and where it lies, or what it holds. */
export interface PushedFile {
  path: string;
  content: { file: string } | { text: string };
}

/**
 * Puts files into the repository `name.id`, branch `name.revision`, which is made if it is not there. One commit has all of them, or
 * nothing is changed. Resolves to the commit. Throws `hub/*`.
 */
export async function pushToHub(name: HubName, pushed: readonly PushedFile[], options: PushOptions): Promise<string> {
  const { environment = process.env, signal, onEvent } = options;
  const hub = connect(environment, { name, signal, wait: async () => {} });
  if (hub.plainToken) onEvent?.({ type: "plain-token", endpoint: hub.endpoint, sent: hub.plainToken === "sent" });
  if (hub.token === null) {
    throw hubError("token", "pushing needs an access token that may write", hub, {
      expected: "HF_TOKEN, or the file that `hf auth login` writes",
      got: hub.plainToken === "withheld" ? "one that is not sent over http" : "none",
      next: `Make one at ${hub.endpoint}/settings/tokens.`,
      exitCode: 2,
    });
  }
  const { commitIter, createRepo } = await import("@huggingface/hub");
  const common = { hubUrl: hub.endpoint, accessToken: hub.token, fetch: fetchOf(hub.endpoint, hub.token) };
  const repo = { type: "model", name: name.id } as const;
  try {
    const created = await createRepo({ ...common, repo, visibility: options.isPrivate ? "private" : "public" }).catch((error) => {
      if (statusOf(error) === 409) return null; // it is there
      throw error;
    });
    if (created) onEvent?.({ type: "created", model: name.id, url: created.repoUrl });
    const operations = await Promise.all(
      pushed.map(async ({ path, content }) => ({
        ...{ operation: "addOrUpdate" as const, path },
        content: "file" in content ? await openAsBlob(content.file) : new Blob([content.text]),
      })),
    );
    const steps = commitIter({ ...common, repo, operations, title: options.message, branch: name.revision, abortSignal: signal });
    for (;;) {
      const next = await steps.next();
      if (next.done) return next.value!.commit.oid;
      if (next.value.event !== "fileProgress" || next.value.state === "error") continue;
      const { path: file, progress: share, state } = next.value;
      onEvent?.({ type: "pushing", file, share, state });
    }
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    if (signal?.aborted) {
      throw hubError("stopped", "pushing was stopped, before anything was changed", hub, { next: "Run it again.", cause: error });
    }
    throw refusedPush(error, name, hub.endpoint);
  }
}

/** `fetch` that gives the token to the hub alone. */
const fetchOf = (endpoint: string, token: string): typeof fetch => {
  const own = new URL(endpoint).origin;
  return (input, init) => {
    const url = new URL(input instanceof Request ? input.url : String(input));
    const headers = new Headers(init?.headers);
    if (url.origin !== own && headers.get("authorization") === `Bearer ${token}`) headers.delete("authorization");
    headers.set("user-agent", "lowrank");
    return fetch(input, { ...init, headers });
  };
};

const statusOf = (error: unknown): number | undefined => (error as { statusCode?: number }).statusCode;

function refusedPush(cause: unknown, name: HubName, endpoint: string): LowrankError {
  const status = statusOf(cause);
  const { message } = cause as Error;
  const facts = { got: `${status === undefined ? "" : `status ${status}: `}${message.slice(0, 300)}`, cause };
  const fail = (code: string, text: string, next: string, exitCode: 1 | 2 = 2) =>
    hubError(code, text, { name }, { ...facts, next, exitCode });
  if (status === 401 || status === 403)
    return fail("token", "the access token may not write there", `Give HF_TOKEN a token that may: ${endpoint}/settings/tokens.`);
  if (status === 404) return fail("missing", "the hub has no such branch or owner", "Check the owner's name, and the branch.");
  if (status === undefined) return fail("unreachable", "the hub cannot be reached", "Check the network and HF_ENDPOINT.", 1);
  return fail("refused", "the hub refuses the request", "Try again later.", 1);
}
