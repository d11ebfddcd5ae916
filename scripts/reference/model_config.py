"""Writes test/fixtures/configs/model-configs.json: configs and what Transformers 5.23.0 reads from them.

Usage: python scripts/reference/model_config.py GOLDENS BASE_CONFIG_JSON
GOLDENS holds cases/*/base/config.json, algebra/*/base/config.json and parameter-counts.json.
"""

import glob
import json
import os
import sys

from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 112}
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

VARIANTS = {
    "llama, every default": {"model_type": "llama"},
    "mistral, every default": {"model_type": "mistral"},
    "qwen2, every default": {"model_type": "qwen2"},
    "qwen3, every default": {"model_type": "qwen3"},
    "llama, head_dim 64, llama3 in v5 keys": {
        **TINY, "model_type": "llama", "head_dim": 64, "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "original_max_position_embeddings": 8192, **LLAMA3},
    },
    "llama, head_dim 128, llama3 in v4 keys": {
        **TINY, "model_type": "llama", "head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 8192, **LLAMA3, "factor": 8.0},
    },
    "llama, llama3 without original length": {
        **TINY, "model_type": "llama", "max_position_embeddings": 2048, "rope_scaling": {"rope_type": "llama3", **LLAMA3},
    },
    "llama, llama3, original length beside": {
        **TINY, "model_type": "llama", "max_position_embeddings": 2048, "original_max_position_embeddings": 100,
        "rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 512, **LLAMA3},
    },
    "llama, linear under type": {
        **TINY, "model_type": "llama", "rope_theta": 12345.5, "rope_scaling": {"type": "linear", "factor": 2.5},
    },
    "llama, linear in v5 keys": {
        **TINY, "model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 20000},
    },
    "llama, both forms": {
        **TINY, "model_type": "llama", "rope_theta": 3e4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "llama, empty rope_scaling": {
        **TINY, "model_type": "llama", "rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "llama, nulls and lists": {
        **TINY, "model_type": "llama", "num_key_value_heads": None, "head_dim": None, "bos_token_id": None,
        "eos_token_id": [3, 5, 8], "pad_token_id": None, "torch_dtype": "float16", "sliding_window": 5,
    },
    "llama, dtype beside torch_dtype": {
        **TINY, "model_type": "llama", "torch_dtype": "float16", "dtype": "bfloat16", "eos_token_id": None,
        "attention_bias": True, "num_key_value_heads": 1,
    },
    "mistral, no window": {**TINY, "model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None},
    "mistral, keys of others ignored": {
        **TINY, "model_type": "mistral", "num_key_value_heads": 4, "sliding_window": 7, "attention_bias": True, "mlp_bias": True,
        "layer_types": ["full_attention"] * 3, "use_sliding_window": False,
    },
    "qwen2, window from layer 1": {
        **TINY, "model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1,
    },
    "qwen2, window off": {
        **TINY, "model_type": "qwen2", "num_key_value_heads": 2, "sliding_window": 6, "max_window_layers": 1, "attention_bias": False,
    },
    "qwen2, head_dim given": {**TINY, "model_type": "qwen2", "num_key_value_heads": None, "head_dim": 10},
    "qwen3, layer_types": {
        **TINY, "model_type": "qwen3", "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 6,
        "layer_types": ["sliding_attention", "attention", "full_attention"], "attention_bias": True, "rope_theta": 1000000,
    },
    "qwen3, window beyond the layers": {**TINY, "model_type": "qwen3", "num_key_value_heads": 4, "use_sliding_window": True},
}


def rope(config):
    """The RoPE parameters under our names."""
    parameters = config.rope_parameters
    kind = parameters["rope_type"]
    result = {"type": kind, "theta": parameters["rope_theta"]}
    if kind != "default":
        result["factor"] = parameters["factor"]
    if kind == "llama3":
        result["lowFreqFactor"] = parameters["low_freq_factor"]
        result["highFreqFactor"] = parameters["high_freq_factor"]
        result["originalMaxPositions"] = parameters["original_max_position_embeddings"]
    return result


def reading(values):
    """What Transformers' own config object says, under our names, and its inverse frequencies."""
    config = AutoConfig.for_model(**values)
    # Before the config is looked at: a model's RoPE settles `original_max_position_embeddings` only when it is built.
    inverse = LlamaRotaryEmbedding(config).inv_freq.double().tolist()
    family = config.model_type
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = getattr(config, "sliding_window", None) if family != "llama" else None
    layers = config.num_hidden_layers
    whole = "sliding_attention" if window is not None else "full_attention"
    types = config.layer_types if family in ("qwen2", "qwen3") else [whole] * layers
    eos = config.eos_token_id
    bias = {"llama": lambda: config.attention_bias, "qwen3": lambda: config.attention_bias, "qwen2": lambda: True}
    expected = {
        "modelType": family,
        "vocabSize": config.vocab_size,
        "hiddenSize": config.hidden_size,
        "intermediateSize": config.intermediate_size,
        "layers": layers,
        "heads": config.num_attention_heads,
        "kvHeads": config.num_key_value_heads,
        "headDim": head_dim,
        "hiddenAct": config.hidden_act,
        "rmsNormEps": config.rms_norm_eps,
        "maxPositions": positions(config),
        "tieWordEmbeddings": config.tie_word_embeddings,
        "attentionBias": bias.get(family, lambda: False)(),
        "attentionOutputBias": config.attention_bias if family in ("llama", "qwen3") else False,
        "mlpBias": config.mlp_bias if family == "llama" else False,
        "slidingWindow": window,
        "layerTypes": types,
        "rope": rope(config),
        "dtype": str(config.dtype).removeprefix("torch.") if config.dtype is not None else None,
        "bosId": config.bos_token_id,
        "eosIds": [] if eos is None else eos if isinstance(eos, list) else [eos],
        "padId": config.pad_token_id,
    }
    return {"expected": expected, "inverseFrequencies": inverse}


def positions(config):
    """max_position_embeddings, times the factor of linear scaling."""
    scaling = rope(config)
    return int(config.max_position_embeddings * (scaling["factor"] if scaling["type"] == "linear" else 1))


def main(goldens, base_config):
    sources = {}
    for path in sorted(glob.glob(f"{goldens}/cases/*/base/config.json") + glob.glob(f"{goldens}/algebra/*/base/config.json")):
        sources[path.split(os.sep)[-3]] = json.load(open(path))
    sources["smollm2-135m-instruct"] = json.load(open(base_config))
    for row in json.load(open(f"{goldens}/parameter-counts.json")):
        sources[row["name"]] = row["config"]
    sources |= VARIANTS

    rows, seen = [], set()
    for name, values in sources.items():
        key = json.dumps(values, sort_keys=True)
        if values["model_type"] not in FAMILIES or key in seen:
            continue
        seen.add(key)
        # A copy, since a config writes into the dicts it is given.
        rows.append({"name": name, "config": values, **reading(json.loads(key))})
    with open("test/fixtures/configs/model-configs.json", "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(len(rows), "configs")


if __name__ == "__main__":
    main(*sys.argv[1:])
