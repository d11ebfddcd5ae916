// bfloat16 and float16 against their definitions, over every pattern and every tie.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { bytesOf } from "../../src/formats/dtypes.ts";
import {
  allFinite,
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  fromFloat32,
  toFloat32,
} from "../../src/formats/float.ts";

/** The value of a pattern by the definition of its format. */
function valueOfPattern(pattern: number, exponentBits: number, fractionBits: number): number {
  const bias = 2 ** (exponentBits - 1) - 1;
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern >> fractionBits) & (2 ** exponentBits - 1);
  const fraction = pattern & (2 ** fractionBits - 1);
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  const significand = exponent === 0 ? fraction : fraction + 2 ** fractionBits;
  return sign * significand * 2 ** (Math.max(exponent, 1) - bias - fractionBits);
}

const FORMATS = [
  { name: "bfloat16", exponentBits: 8, fractionBits: 7, decode: bfloat16ToFloat32, encode: float32ToBfloat16 },
  { name: "float16", exponentBits: 5, fractionBits: 10, decode: float16ToFloat32, encode: float32ToFloat16 },
] as const;

const every = Uint16Array.from({ length: 65536 }, (_, i) => i);

for (const { name, exponentBits, fractionBits, decode, encode } of FORMATS) {
  describe(name, () => {
    const values = decode(every);
    const infinity = ((2 ** exponentBits - 1) << fractionBits) & 0x7fff;

    it("every pattern has the value that its format defines", () => {
      let compared = 0;
      for (const pattern of every) {
        const expected = valueOfPattern(pattern, exponentBits, fractionBits);
        assert.ok(Object.is(values[pattern], expected), `pattern ${pattern}: ${values[pattern]} for ${expected}`);
        compared++;
      }
      assert.equal(compared, 65536);
    });

    it("every pattern comes back, a NaN as a quiet NaN of its sign", () => {
      const back = encode(values);
      for (const pattern of every) {
        if (Number.isNaN(values[pattern])) assert.ok(Number.isNaN(decode(back.subarray(pattern, pattern + 1))[0]));
        else assert.equal(back[pattern], pattern);
      }
      const signed = new Float32Array(Uint32Array.of(0x7f800001, 0xff800001).buffer);
      assert.deepEqual(
        [...encode(signed)].map((bits) => bits >> 15),
        [0, 1],
      );
    });

    it("rounds between two neighbours to the nearest, a tie to the even pattern", () => {
      const inputs: number[] = [];
      const expected: number[] = [];
      for (let low = 0; low < infinity - 1; low++) {
        const middle = (values[low]! + values[low + 1]!) / 2;
        if (Math.fround(middle) !== middle) continue; // between the smallest bfloat16 values float32 has no middle
        const bits = new Uint32Array(Float32Array.of(middle).buffer)[0]!;
        const [below, above] = new Float32Array(Uint32Array.of(bits - 1, bits + 1).buffer);
        inputs.push(middle, -middle, below!, above!);
        const even = low % 2 === 0 ? low : low + 1;
        expected.push(even, even | 0x8000, low, low + 1);
      }
      assert.ok(inputs.length > 100_000);
      assert.deepEqual(encode(Float32Array.from(inputs)), Uint16Array.from(expected));
    });

    it("what rounds beyond the largest value is infinity; what is too small is a signed zero", () => {
      const largest = values[infinity - 1]!;
      const half = (largest - values[infinity - 2]!) / 2;
      const below = new Float32Array(1);
      new Uint32Array(below.buffer)[0] = new Uint32Array(Float32Array.of(largest + half).buffer)[0]! - 1;
      assert.deepEqual(
        [...encode(Float32Array.of(largest + half, below[0]!, Number.POSITIVE_INFINITY, -3.4e38, 1e-45, -1e-45))],
        [infinity, infinity - 1, infinity, name === "float16" ? infinity | 0x8000 : 0xff80, 0, 0x8000],
      );
    });
  });
}

describe("toFloat32 and fromFloat32", () => {
  it("pass float32 through and convert the others", () => {
    const data = Float32Array.of(1, -0.5, 3.140625);
    assert.equal(toFloat32({ dtype: "float32", shape: [3], data }), data);
    assert.equal(fromFloat32(data, "float32"), data);
    for (const dtype of ["float64", "bfloat16", "float16"] as const) {
      assert.deepEqual(toFloat32({ dtype, shape: [3], data: fromFloat32(data, dtype) }), data);
    }
  });

  it("refuse integers by name", () => {
    const tensor = { dtype: "int32", shape: [1], data: Int32Array.of(1) } as const;
    assert.throws(() => toFloat32(tensor), { code: "float/not-floating", got: "int32" });
    assert.throws(() => fromFloat32(Float32Array.of(1), "int8"), { code: "float/not-floating", got: "int8" });
  });
});

describe("allFinite", () => {
  for (const dtype of ["float64", "float32", "bfloat16", "float16"] as const) {
    it(`finds NaN and infinity at any place of ${dtype} values, and nothing else`, () => {
      const extremes = Float32Array.of(0, -0, 1e-45, -6e-8, 65504, -65504, ...(dtype === "float16" ? [1] : [3.3e38, -3.3e38]), 2);
      for (const length of [1, 2, 3, 7, 8]) {
        const values = extremes.slice(-length);
        const bytes = bytesOf(fromFloat32(values, dtype));
        assert.ok(allFinite(bytes, dtype));
        const moved = new Uint8Array(bytes.length + 1);
        moved.set(bytes, 1);
        assert.ok(allFinite(moved.subarray(1), dtype), "at an odd address");
        for (let at = 0; at < length; at++) {
          for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
            const broken = fromFloat32(values.with(at, value), dtype);
            assert.ok(!allFinite(bytesOf(broken), dtype), `${value} at ${at} of ${length}`);
          }
        }
      }
    });
  }
});
