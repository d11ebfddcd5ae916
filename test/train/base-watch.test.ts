// The base's weight files while a run goes on and between its runs: what changed ends it, what did not is not read again; NaN is named.
// slow
import assert from "node:assert/strict";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  cpSync,
  existsSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { describe, it } from "node:test";
import { openCheckpoint, readWeights } from "../../src/formats/checkpoint.ts";
import { bytesOf } from "../../src/formats/dtypes.ts";
import { fromFloat32, toFloat32 } from "../../src/formats/float.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { nodeFiles } from "../../src/platform/node/files.ts";
import { digest } from "../../src/platform/node/host.ts";
import { refused } from "../helpers/assert.ts";
import { engine, filesWith, goodBase, makePlace, type Place } from "../helpers/hostile.ts";

const weights = "model.safetensors";
const options = { steps: 4, checkpointEvery: 1, schedule: "constant" };

const at = async (work: (place: Place) => Promise<unknown>) => {
  const place = makePlace();
  try {
    await work(place);
  } finally {
    place.leave();
  }
};

const { tensors } = await openCheckpoint(nodeFiles, goodBase);
/** Where the largest tensor begins: no fingerprint looks there. */
const { offset } = [...tensors.values()].reduce((a, b) => (b.length > a.length ? b : a));

/** Changes the lowest bit of a weight, in place. */
function flip(file: string): void {
  const byte = readFileSync(file)[offset]!;
  const handle = openSync(file, "r+");
  writeSync(handle, Uint8Array.of(byte ^ 1), 0, 1, offset);
  closeSync(handle);
}

/** Trains four steps, with `damage` done to the base while the third is computed. */
const during = (damage: (base: string) => void) => async (place: Place) => {
  const base = place.base();
  const openSession = engine((run) => {
    if (run === 3) damage(base);
    return 1;
  });
  await place.train({ ...options, base }, { openSession, digest });
};

describe("a base whose weight file changes while a run goes on", () => {
  const changes: Record<string, (base: string) => void> = {
    "in place, in one bit": (base) => flip(`${base}/${weights}`),
    "by becoming shorter": (base) => truncateSync(`${base}/${weights}`, 1000),
    "by being removed": (base) => rmSync(`${base}/${weights}`),
    "by another file of its name": (base) => {
      copyFileSync(`${base}/${weights}`, `${base}/other`);
      flip(`${base}/other`);
      renameSync(`${base}/other`, `${base}/${weights}`);
    },
  };
  for (const [name, damage] of Object.entries(changes)) {
    it(`${name}: ends the run, and nothing is saved from then on`, () =>
      at(async (place) => {
        const error = await refused(during(damage)(place), "train/base-changed", { subject: /model\.safetensors$/ });
        assert.match(error.next!, /checkpoint-2\b/);
        const names = ["checkpoint-3", "checkpoint-4", "adapter_model.safetensors"];
        assert.deepEqual(
          names.filter((each) => existsSync(`${place.at("output")}/${each}`)),
          [],
        );
      }));
  }

  it("in its mode alone: the run goes on", () => at(during((base) => chmodSync(`${base}/${weights}`, 0o600))));
});

describe("a run that is resumed", () => {
  /** A run that is stopped after its second step. */
  const stopped = async (place: Place, base: string) => {
    const stop = new AbortController();
    const openSession = engine((run) => {
      if (run === 2) stop.abort();
      return 1;
    });
    await place.train({ ...options, base, signal: stop.signal }, { openSession, digest });
  };
  const resume = (place: Place, platform: object = {}) =>
    place.train(
      { base: undefined, data: undefined, steps: undefined, learningRate: undefined, resume: true },
      { digest, ...platform },
    );

  it("refuses a base that differs in one bit", () =>
    at(async (place) => {
      const base = place.base();
      await stopped(place, base);
      flip(`${base}/${weights}`);
      await refused(resume(place), "train/resume-mismatch", { subject: /model\.safetensors$/, expected: /SHA-256/ });
    }));

  it("reads a file whose stamp is another one, and accepts it if its content is the same", () =>
    at(async (place) => {
      const base = place.base();
      await stopped(place, base);
      cpSync(`${goodBase}/${weights}`, `${base}/${weights}`);
      await resume(place);
    }));

  it("does not read a file again whose stamp is the same", () =>
    at(async (place) => {
      const base = place.base();
      await stopped(place, base);
      let bytes = 0;
      const files = filesWith("read", (read) => (file, offset, length) => {
        if (file.endsWith(weights) && file.includes("/base/")) bytes += length;
        return read(file, offset, length);
      });
      await resume(place, { files });
      assert.ok(bytes > 0 && bytes < 50_000, `${bytes} bytes`);
    }));
});

describe("a base with a weight that is no number", () => {
  /** The good base in `dtype`, with a value in one of its tensors, and maybe a tensor that no model reads. */
  const withValue = async (place: Place, dtype: "bfloat16", name: string, value: number) => {
    const base = place.base();
    const checkpoint = await openCheckpoint(nodeFiles, goodBase);
    const sources = [{ name: "causal_mask", shape: [3], values: Float32Array.of(0, value, 1) }];
    for (const [each, { shape }] of checkpoint.tensors) {
      const values = Float32Array.from(toFloat32(await readWeights(nodeFiles, checkpoint, each)));
      if (each === name) values[3] = value;
      sources.push({ name: each, shape, values });
    }
    await writeSafetensors(
      nodeFiles,
      `${base}/${weights}`,
      sources.map(({ name: own, shape, values }) => ({
        name: own,
        dtype,
        shape,
        data: () => bytesOf(fromFloat32(values, dtype)),
      })),
    );
    return base;
  };

  it("is refused before anything is trained", () =>
    at(async (place) => {
      const base = await withValue(place, "bfloat16", "model.norm.weight", Number.NaN);
      await refused(place.train({ base }), "checkpoint/not-finite", { subject: /model\.norm\.weight/, got: "NaN" });
      assert.ok(!existsSync(place.at("output")));
    }));

  it("is accepted where nothing reads it, as a mask of infinities", () =>
    at(async (place) => place.train({ base: await withValue(place, "bfloat16", "none", Number.NEGATIVE_INFINITY) })));
});
