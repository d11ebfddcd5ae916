"""Writes test/fixtures/gguf/quantized.json: float32 values and the blocks that gguf-py (gguf.quants) makes of them.

Usage: python scripts/reference/gguf_quantized.py    (needs gguf, numpy)
"""

import base64
import json

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import quants

TYPES = {"f16": Q.F16, "bf16": Q.BF16, "q8_0": Q.Q8_0, "q4_0": Q.Q4_0}
rng = np.random.default_rng(0)
KINDS = {
    "normal": rng.normal(size=256),
    "small": rng.normal(size=128) * 1e-6,
    "wide": rng.normal(size=128) * np.exp(rng.normal(size=128) * 3),
    "tied": np.round(rng.normal(size=128) * 4) / 4,
}


def text(array):
    return base64.b64encode(array.tobytes()).decode()


out = {}
for kind, values in KINDS.items():
    values = values.astype(np.float32)
    blocks = {name: text(np.asarray(quants.quantize(values, q))) for name, q in TYPES.items()}
    out[kind] = {"values": text(values), "blocks": blocks}
with open("test/fixtures/gguf/quantized.json", "w") as file:
    json.dump(out, file, indent=1)
    file.write("\n")
