"""What Transformers makes of YaRN configs: writes test/fixtures/configs/yarn.json. python scripts/reference/yarn.py"""

import json
from pathlib import Path

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

KEYS = dict(model_type="llama", hidden_size=1024, num_attention_heads=8, num_hidden_layers=1, vocab_size=64)
CASES = [
    dict(rope_theta=1e6, factor=4.0, original_max_position_embeddings=32768),
    dict(rope_theta=1e4, factor=16.0, original_max_position_embeddings=4096, beta_fast=16, beta_slow=2, attention_factor=1.25),
    dict(rope_theta=5e4, factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=0.707),
    dict(rope_theta=1.5e5, factor=32.0, original_max_position_embeddings=4096, truncate=False),
]

rows = []
for case in CASES:
    parameters = dict(rope_type="yarn", **case)
    config = LlamaConfig(**KEYS, max_position_embeddings=131072, rope_parameters=parameters)
    frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](config)
    rows.append(dict(rope_parameters=parameters, attentionFactor=factor, inverseFrequencies=frequencies.tolist()))
path = Path(__file__).parents[2] / "test/fixtures/configs/yarn.json"
path.write_text(json.dumps(rows, indent=1) + "\n")
