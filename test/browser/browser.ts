// Chromium without a window, and the server of the page that it opens. The page runs one task after another in a web worker and
// posts each answer; no driver is needed for that.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { build } from "esbuild";
import type { Answer, Result, Task } from "./run.ts";

const CHROMIUM = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
/** A task that takes longer has failed. */
const TASK_MINUTES = 10;

const FLAGS = [
  ...["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"],
  ...["--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage"],
  // WebGPU on the processor, where there is no graphics card.
  ...["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"],
];

const PAGE = `<!doctype html><script type="module">
const post = (body) => fetch("/answer", { method: "POST", body: JSON.stringify(body) });
for (;;) {
  const task = await (await fetch("/task")).json();
  if (!task) break;
  const worker = new Worker("/worker.js", { type: "module" });
  const result = await new Promise((resolve) => {
    worker.onmessage = ({ data }) => ("progress" in data ? post(data) : resolve(data));
    worker.onerror = ({ message }) => resolve({ failure: "the worker failed: " + message });
    worker.postMessage(task);
  });
  worker.terminate();
  await post(result);
}
</script>`;

/** SharedArrayBuffer is there in isolated pages only. */
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const types: Record<string, string> = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };

/** The page's worker and that of its sessions, bundled. */
async function bundles(): Promise<Map<string, Uint8Array>> {
  const { outputFiles } = await build({
    entryPoints: { worker: "test/browser/page/worker.ts", "session-worker": "src/platform/web/worker.mjs" },
    ...{ bundle: true, splitting: true, format: "esm", platform: "browser", target: "es2022", write: false, outdir: "/" },
    conditions: ["onnxruntime-web-use-extern-wasm"],
    logLevel: "error",
  } as const);
  return new Map(outputFiles.map(({ path, contents }) => [path, contents]));
}

/** Runs `tasks` in Chromium; their results in the same order. */
export async function inBrowser(tasks: readonly Task[], onProgress: (task: Task, text: string) => void): Promise<Result[]> {
  const bundled = await bundles();
  const results: Result[] = [];
  const { promise: finished, resolve, reject } = withResolvers<void>();
  const served = (url: string): Uint8Array | string => {
    if (url === "/") return PAGE;
    if (url === "/task") return JSON.stringify(tasks[results.length] ?? null);
    const own = bundled.get(url === "/worker.mjs" ? "/session-worker.js" : url);
    return own ?? readFileSync(url.startsWith("/ort/") ? `node_modules/onnxruntime-web/dist/${url.slice(5)}` : `.${url}`);
  };
  const server = createServer(async (request, response) => {
    try {
      if (request.method === "POST") {
        const answer: Answer = JSON.parse(await bodyOf(request));
        if ("progress" in answer) onProgress(tasks[results.length]!, answer.progress);
        else if (results.push(answer) === tasks.length) resolve();
      }
      const url = path.posix.normalize(request.url!);
      const content = request.method === "POST" ? "" : served(url);
      response.writeHead(200, {
        ...HEADERS,
        "Content-Type": types[path.extname(url)] ?? (url === "/" ? "text/html" : "text/plain"),
      });
      response.end(content);
    } catch (error) {
      response.writeHead(404).end(String(error));
    }
  });
  const port = await listening(server);
  const profile = mkdtempSync(path.join(tmpdir(), "lowrank-chromium-"));
  const chromium = spawn(CHROMIUM, [...FLAGS, `--user-data-dir=${profile}`, `http://127.0.0.1:${port}/`], {
    detached: true,
    stdio: process.env["VERBOSE"] ? "inherit" : "ignore",
  });
  const exited = once(chromium, "exit");
  const stop = () => chromium.pid !== undefined && chromium.exitCode === null && process.kill(-chromium.pid);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => reject(new Error(signal)));
  chromium.on("error", (cause) => reject(new Error(`${CHROMIUM} does not start (apt-get install chromium)`, { cause })));
  chromium.on("exit", () => reject(new Error(`${CHROMIUM} has ended before the page did`)));
  const late = setTimeout(
    () => reject(new Error(`no answer within ${TASK_MINUTES} minutes a task`)),
    TASK_MINUTES * 60_000 * tasks.length,
  );
  try {
    await finished;
  } finally {
    clearTimeout(late);
    server.close();
    server.closeAllConnections();
    if (stop()) await exited;
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  }
  return results;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString("utf8");
}

async function listening(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

/** Promise.withResolvers, which Node 20 lacks. */
function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let [resolve, reject]: [(value: T) => void, (error: Error) => void] = [() => {}, () => {}];
  const promise = new Promise<T>((yes, no) => {
    [resolve, reject] = [yes, no];
  });
  return { promise, resolve, reject };
}
