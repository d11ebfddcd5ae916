// lowrank merge and lowrank download killed again and again: what is there is whole or is not there, and the next one completes it.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, watch, writeFileSync } from "node:fs";
import path from "node:path";
import { LowrankError } from "../../src/errors.ts";
import { resolveModel } from "../../src/hub/reference.ts";
import { purpose, uniform } from "../../src/random.ts";
import { blobOf, type Fault, type Files, fakeHub } from "../hub/server.ts";
import { finish, killedAfter, type Launched, launch } from "./process.ts";

interface Options {
  /** How a lowrank process is started: arguments of node. */
  program: readonly string[];
  kills: number;
  seed: number;
  folder: string;
  /** Longest time between start and a kill that is aimed by the clock. */
  lifeMs: number;
  onKill?: (kill: FolderKill) => void;
}

export interface FolderKill {
  aim: string;
  /** What it left. */
  left: "nothing" | "a part" | "the whole";
}

export interface FolderCrashes {
  kills: FolderKill[];
  /** Merges or downloads that were brought to their end, each compared with the undisturbed one to the bit. */
  finished: number;
}

/** What a kill is aimed at: what is waited for, and the longest time in milliseconds from there on. */
type Aim = [name: string, ms: number, arm: (child: Launched, shoot: () => void) => { close(): void } | undefined];

/** Kills processes until there have been kills enough, and brings each job to its end. */
async function killing(
  { kills, seed, onKill }: Options,
  /** The n-th job: where it works, how a process of it starts, what a kill has left, and what is true at its end. */
  begin: (n: number) => {
    aims: Aim[];
    start(): Launched;
    left(): Promise<FolderKill["left"]>;
    /** `clean`: the last process was not killed. */
    end(clean: boolean): Promise<void>;
  },
): Promise<FolderCrashes> {
  const result: FolderCrashes = { kills: [], finished: 0 };
  const draws = uniform(seed, [purpose.sample], 3 * 100_000);
  let draw = 0;
  for (let n = 0; result.kills.length < kills; n++) {
    const job = begin(n);
    for (let state: "clean" | FolderKill["left"] = "nothing"; state !== "clean" && state !== "the whole"; ) {
      // One process in four is left alone, so that jobs end, though no first one; and all are when there have been kills enough.
      const isFirst = result.finished === 0 && result.kills.length === 0;
      const spared = (draws[draw++]! < 1 / 4 && !isFirst) || result.kills.length >= kills;
      const [aim, ms, arm] = job.aims[Math.floor(draws[draw++]! * job.aims.length)]!;
      const part = draws[draw++]!;
      const child = job.start();
      const killed = !spared && (await killedAfter(child, part * ms, (shoot) => arm(child, shoot)));
      if (!killed) await finish(child);
      state = killed ? await job.left() : "clean";
      if (state !== "clean") {
        const kill = { aim, left: state };
        result.kills.push(kill);
        onKill?.(kill);
      }
      if (state === "clean" || state === "the whole") await job.end(state === "clean");
    }
    result.finished++;
  }
  return result;
}

const starting = (lifeMs: number): Aim => ["start", lifeMs, (_, shoot) => void shoot()];

const hashOf = (file: string): string => createHash("sha256").update(readFileSync(file)).digest("hex");

/** Hashes of the files of a folder and of those in it, by path; of what links lead to. */
function contents(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
  const files = names.filter((name) => existsSync(path.join(folder, name)) && statSync(path.join(folder, name)).isFile());
  return Object.fromEntries(files.sort().map((name) => [name, hashOf(path.join(folder, name))]));
}

const visible = (folder: string) =>
  Object.fromEntries(Object.entries(contents(folder)).filter(([name]) => !name.startsWith(".")));

/** Merges, into a new folder and into an empty one in turn, beside somebody's files with names like those of merges. */
export async function crashMerges(options: Options & { merge: readonly string[] }): Promise<FolderCrashes> {
  const { program, folder, lifeMs, merge } = options;
  const into = (output: string) => launch(program, ["merge", ...merge, "--json", "--output", output]);
  const whole = path.join(folder, "whole");
  await finish(into(whole));
  const undisturbed = visible(whole);
  return killing(options, (n) => {
    const around = path.join(folder, `merge-${n}`);
    const output = path.join(around, "merged");
    const foreign = [".merged.new/thesis.tex", ".merged.old/thesis.tex", ".other.new/model.safetensors", "thesis.tex"];
    for (const name of foreign) {
      mkdirSync(path.dirname(path.join(around, name)), { recursive: true });
      writeFileSync(path.join(around, name), name);
    }
    const isThere = n % 2 === 1;
    if (isThere) mkdirSync(output);
    const checkForeign = () => {
      for (const name of foreign) assert.equal(readFileSync(path.join(around, name), "utf8"), name);
    };
    return {
      aims: [
        starting(lifeMs),
        [
          "writing",
          80,
          (_, shoot) =>
            watch(isThere ? output : around, (_, name) => {
              if (/^\.merged\..{36}\.new$/.test(String(name))) shoot();
            }),
        ],
        [
          "naming",
          15,
          (child, shoot) => void child.onEvent(({ done, total }) => done !== undefined && done === total && shoot()),
        ],
      ],
      start: () => into(output),
      async left() {
        checkForeign();
        const found = existsSync(output) ? visible(output) : {};
        // Without config.json nothing takes the folder for a model.
        if ("config.json" in found) assert.deepEqual(found, undisturbed);
        for (const [name, bytes] of Object.entries(found)) assert.equal(bytes, undisturbed[name], name);
        if ("config.json" in found) return "the whole";
        const unfinished = [around, ...(isThere ? [output] : [])].flatMap((place) => readdirSync(place));
        return unfinished.some((name) => /^\.merged\..{36}\.new$/.test(name)) ? "a part" : "nothing";
      },
      async end(clean) {
        checkForeign();
        assert.deepEqual(visible(output), undisturbed);
        const others = readdirSync(around).filter(
          (name) => name !== "merged" && !foreign.some((own) => own.split("/")[0] === name),
        );
        if (clean) assert.deepEqual([others, Object.keys(contents(output)).length], [[], Object.keys(undisturbed).length]);
        rmSync(around, { recursive: true });
      },
    };
  });
}

/** Bytes of a part of the weights, and milliseconds between two of them. */
const PART_BYTES = 16_384;
const PART_MS = 4;

/** Sends weights in parts, so that there is time to be killed in. */
const trickle =
  (files: Files): Fault =>
  ({ url, headers }, response) => {
    const bytes = files[url!.match(/\/resolve\/\w+\/(.*\.safetensors)$/)?.[1] ?? ""];
    if (!bytes) return false;
    const start = Number(/^bytes=(\d+)-$/.exec(headers.range ?? "")?.[1] ?? 0);
    const range = { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
    response.writeHead(headers.range ? 206 : 200, { "content-length": bytes.length - start, ...(headers.range && range) });
    let at = start;
    const timer = setInterval(() => {
      response.write(bytes.subarray(at, at + PART_BYTES));
      at += PART_BYTES;
      if (at < bytes.length) return;
      clearInterval(timer);
      response.end();
    }, PART_MS);
    response.on("close", () => clearInterval(timer));
    return true;
  };

const COMMIT = "1".repeat(40);
const ID = "owner/model";

/** Downloads of a model with `files` into an empty cache, from a server of this process. */
export async function crashDownloads(options: Options & { files: Files }): Promise<FolderCrashes> {
  const { program, folder, lifeMs, files } = options;
  const hub = await fakeHub([{ id: ID, commit: COMMIT, files }], trickle(files));
  const environmentOf = (home: string) => ({ HF_HOME: home, HF_ENDPOINT: hub.endpoint, HF_HUB_OFFLINE: "", HF_TOKEN: "" });
  const into = (home: string) => launch(program, ["download", ID, "--json"], environmentOf(home));
  const byBlob = new Map(Object.entries(files).map(([name, bytes]) => [blobOf(name, bytes), bytes]));
  byBlob.set(COMMIT, Buffer.from(COMMIT)); // what becomes refs/main
  try {
    const whole = path.join(folder, "whole");
    await resolveModel(ID, { environment: environmentOf(whole) });
    const undisturbed = contents(whole);
    return await killing(options, (n) => {
      const home = path.join(folder, `home-${n}`);
      const model = path.join(home, "hub/models--owner--model");
      const blobs = path.join(model, "blobs");
      /** Bytes of the weights that a kill left, and how many requests there had been. */
      let kept = { bytes: 0, requests: 0 };
      const checkResumed = () => {
        const first = hub.requests.slice(kept.requests).find(({ url }) => url.endsWith(".safetensors"));
        if (first && kept.bytes > 0) assert.equal(first.range, `bytes=${kept.bytes}-`);
      };
      const onEvent = (child: Launched, type: string, isAt: (done: number, bytes: number) => boolean, shoot: () => void) =>
        child.onEvent((event) => event.type === type && isAt(event.done ?? 0, event.bytes ?? 0) && shoot());
      return {
        aims: [
          starting(lifeMs),
          ["downloading", 150, (child, shoot) => void onEvent(child, "download", () => true, shoot)],
          ["naming", 15, (child, shoot) => void onEvent(child, "downloading", (done, bytes) => done === bytes, shoot)],
        ],
        start: () => into(home),
        async left() {
          checkResumed();
          const names = existsSync(blobs) ? readdirSync(blobs) : [];
          kept = { bytes: 0, requests: hub.requests.length };
          for (const name of names) {
            const found = readFileSync(path.join(blobs, name));
            const right = byBlob.get(name.replace(/\.incomplete$/, ""))!;
            const isPart = name.endsWith(".incomplete");
            assert.ok(found.equals(isPart ? right.subarray(0, found.length) : right), name);
            if (isPart && right === files["model.safetensors"] && found.length < right.length) kept.bytes = found.length;
          }
          const offline = { environment: environmentOf(home), offline: true };
          const found = await resolveModel(ID, offline).catch((error: LowrankError) => error);
          if (found instanceof LowrankError) assert.equal(found.code, "hub/offline");
          else assert.deepEqual(readFileSync(path.join(found.folder, "model.safetensors")), files["model.safetensors"]);
          if (existsSync(path.join(model, "refs/main"))) assert.deepEqual(visible(home), undisturbed);
          if (existsSync(path.join(model, "refs/main"))) return "the whole";
          return names.length > 0 ? "a part" : "nothing";
        },
        async end() {
          checkResumed();
          assert.deepEqual(visible(home), undisturbed);
          rmSync(home, { recursive: true });
        },
      };
    });
  } finally {
    hub.close();
  }
}
