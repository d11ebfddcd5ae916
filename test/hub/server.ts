// A server that speaks as much of the hub's protocol as a download needs, with faults on demand.
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type Files = Record<string, Buffer>;

export interface Model {
  id: string;
  commit: string;
  files: Files;
  /** Entries that the listing has beside the files'. */
  entries?: unknown[];
}

/** Answers a request in place of the server; false leaves it to the server. */
export type Fault = (request: IncomingMessage, response: ServerResponse, count: number) => boolean;

export interface FakeHub {
  endpoint: string;
  /** Method, path and range of each request that came. */
  requests: { url: string; range: string | undefined; authorization: string | undefined }[];
  /** Of those, the paths of files. */
  downloads(): string[];
  close(): void;
}

const isLarge = (path: string) => path.endsWith(".safetensors");
export const blobOf = (path: string, bytes: Buffer): string =>
  isLarge(path)
    ? createHash("sha256").update(bytes).digest("hex")
    : createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

/** Entries of one page of a listing. */
const PAGE = 5;

/** Starts a hub with `models`, the last of each name being what its branch main is. */
export async function fakeHub(models: Model[], fault: Fault = () => false): Promise<FakeHub> {
  const requests: FakeHub["requests"] = [];
  const server = createServer((request, response) => {
    const { url = "" } = request;
    requests.push({ url, range: request.headers.range, authorization: request.headers.authorization });
    if (!fault(request, response, requests.filter((one) => one.url === url).length)) answer(models, request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.unref();
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    downloads: () => requests.flatMap(({ url }) => url.match(/\/resolve\/\w+\/(.*)/)?.[1] ?? []),
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

export function json(response: ServerResponse, value: unknown, headers: Record<string, string> = {}, status = 200): true {
  response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
  return true;
}

export const refuse = (response: ServerResponse, status: number, code = "", headers: Record<string, string> = {}): true =>
  json(response, { error: `failed with ${status}` }, { ...(code ? { "x-error-code": code } : {}), ...headers }, status);

function answer(models: Model[], { url = "", headers }: IncomingMessage, response: ServerResponse): unknown {
  const { pathname, searchParams } = new URL(url, "http://hub");
  const find = (id: string, revision: string) =>
    models.findLast((model) => model.id === id && ["main", "HEAD", "dev", model.commit].includes(revision));
  const known = (id: string) => models.some((model) => model.id === id);

  const [, infoId, infoRevision] = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/([^/]+)$/.exec(pathname) ?? [];
  if (infoId) {
    const model = find(infoId, decodeURIComponent(infoRevision!));
    if (!model) return refuse(response, 404, known(infoId) ? "RevisionNotFound" : "RepoNotFound");
    return json(response, { _id: "1", id: model.id, sha: model.commit, private: false, gated: false });
  }
  const [, treeId, treeRevision] = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/([^/]+)$/.exec(pathname) ?? [];
  if (treeId) {
    const model = find(treeId, treeRevision!)!;
    const own = Object.entries(model.files).map(([path, bytes]) => {
      const blob = blobOf(path, bytes);
      const lfs = isLarge(path) ? { lfs: { oid: blob, size: bytes.length, pointerSize: 134 } } : {};
      return { type: "file", path, size: bytes.length, oid: isLarge(path) ? "0".repeat(40) : blob, ...lfs };
    });
    const all = [...own, ...(model.entries ?? [])];
    const start = Number(searchParams.get("cursor") ?? 0);
    const next = `http://${headers.host}${pathname}?recursive=true&cursor=${start + PAGE}`;
    return json(response, all.slice(start, start + PAGE), start + PAGE < all.length ? { link: `<${next}>; rel="next"` } : {});
  }
  const [, fileId, fileRevision, path] = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(pathname) ?? [];
  const bytes = fileId ? find(fileId, fileRevision!)?.files[decodeURIComponent(path!)] : undefined;
  if (!bytes) return refuse(response, 404, "EntryNotFound");
  return sendFile(response, bytes, headers.range, {
    etag: `"${blobOf(path!, bytes)}"`,
    "x-linked-size": String(bytes.length),
    "x-linked-etag": `"${blobOf(path!, bytes)}"`,
  });
}

/** A file, or the part of it that is asked for. */
export function sendFile(response: ServerResponse, bytes: Buffer, range?: string, headers: Record<string, string> = {}): void {
  const start = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  if (range !== undefined && start >= bytes.length) {
    response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    return;
  }
  const part = range === undefined ? {} : { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
  response.writeHead(range === undefined ? 200 : 206, { "content-length": bytes.length - start, ...part, ...headers });
  response.end(bytes.subarray(start));
}

/** Sends the first `count` bytes of what a file is from where it was asked for, and cuts the connection. */
export function cut(response: ServerResponse, bytes: Buffer, range: string | undefined, count: number): true {
  const start = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  const part = range === undefined ? {} : { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
  response.writeHead(range === undefined ? 200 : 206, { "content-length": bytes.length - start, ...part });
  response.write(bytes.subarray(start, start + count), () => response.destroy());
  return true;
}
