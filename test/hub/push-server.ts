// A hub that takes commits: as much of its protocol as Hugging Face's client uses to push, with large files by LFS.
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { json, refuse } from "./server.ts";

export interface PushHub {
  endpoint: string;
  /** Files of each repository, as the last commit left them. */
  repositories: Map<string, { isPrivate: boolean; files: Map<string, Buffer>; commits: string[] }>;
  /** Paths of requests that had the token, and of those that had none. */
  requests: { method: string; url: string; authorization: string | undefined; storage: boolean }[];
  close(): void;
}

const bodyOf = async (request: IncomingMessage): Promise<Buffer> => {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts);
};

export const TOKEN = "hf_test";

/** Starts the hub, and beside it storage at another address, which large files go to. */
export async function pushHub({ refuseWith }: { refuseWith?: number } = {}): Promise<PushHub> {
  const repositories: PushHub["repositories"] = new Map();
  const requests: PushHub["requests"] = [];
  const stored = new Map<string, Buffer>();
  let storageAt = "";
  const storage = createServer(async (request, response) => {
    requests.push({ method: request.method!, url: request.url!, authorization: request.headers.authorization, storage: true });
    stored.set(request.url!.slice(1), await bodyOf(request));
    response.writeHead(200, { etag: "x" }).end();
  });
  const server = createServer(async (request, response) => {
    const { url = "", method = "", headers } = request;
    requests.push({ method, url, authorization: headers.authorization, storage: false });
    const body = await bodyOf(request);
    if (headers.authorization !== `Bearer ${TOKEN}`) return refuse(response, 401);
    if (refuseWith) return refuse(response, refuseWith);
    if (url === "/api/repos/create") {
      const { name, organization, visibility } = JSON.parse(body.toString());
      const id = `${organization}/${name}`;
      if (repositories.has(id)) return refuse(response, 409);
      repositories.set(id, { isPrivate: visibility === "private", files: new Map(), commits: [] });
      return json(response, { url: `http://${headers.host}/${id}`, id });
    }
    const [, id, what] = /^\/(?:api\/models\/)?([^/]+\/[^/.]+)(?:\.git\/info)?\/(preupload|lfs|commit)\//.exec(url) ?? [];
    const repository = repositories.get(id ?? "");
    if (!repository) return refuse(response, 404, "RepoNotFound");
    if (what === "preupload") {
      const { files } = JSON.parse(body.toString()) as { files: { path: string }[] };
      const modes = files.map(({ path }) => ({ path, uploadMode: path.endsWith(".safetensors") ? "lfs" : "regular" }));
      return json(response, { files: modes });
    }
    if (what === "lfs") {
      const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
      const answered = objects.map(({ oid, size }) => ({ oid, size, actions: { upload: { href: `${storageAt}/${oid}` } } }));
      return json(response, { transfer: "basic", objects: answered });
    }
    const lines = body.toString().trim().split("\n");
    for (const line of lines) {
      const { key, value } = JSON.parse(line);
      if (key === "file") repository.files.set(value.path, Buffer.from(value.content, value.encoding ?? "base64"));
      if (key === "lfsFile") {
        const bytes = stored.get(value.oid)!;
        if (createHash("sha256").update(bytes).digest("hex") !== value.oid) return refuse(response, 400);
        repository.files.set(value.path, bytes);
      }
    }
    const commit = createHash("sha1").update(body).digest("hex");
    repository.commits.push(commit);
    return json(response, {
      success: true,
      commitOid: commit,
      commitUrl: `http://${headers.host}/${id}/commit/${commit}`,
      hookOutput: "",
    });
  });
  for (const one of [storage, server]) {
    await new Promise<void>((resolve) => one.listen(0, "127.0.0.1", resolve));
    one.unref();
  }
  storageAt = `http://127.0.0.1:${(storage.address() as AddressInfo).port}`;
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    repositories,
    requests,
    close() {
      for (const one of [storage, server]) {
        one.closeAllConnections();
        one.close();
      }
    },
  };
}
