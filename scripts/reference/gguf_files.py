"""Writes test/fixtures/gguf/: models and blocks as gguf-py 0.19 writes them, the reference of llama.cpp.

  <architecture>.gguf    a golden base of test/fixtures/cases, its matrices in float16, under the names of gguf-py's tensor_mapping.py and
                         with what convert_hf_to_gguf.py does to tensors of that architecture
  tiny-llama.gguf        test/fixtures/tiny-llama in Q8_0, with its vocabulary
  blocks.json            for each quantized type random blocks (base64) and the float32 values that gguf.quants.dequantize makes of them

Usage: python scripts/reference/gguf_files.py    (needs gguf, safetensors, torch)
"""

import base64
import json
import os

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter, MODEL_ARCH_NAMES, get_tensor_name_map, quants
from gguf.constants import GGML_QUANT_SIZES
from safetensors.torch import load_file

FIXTURES = "test/fixtures"
OUT = f"{FIXTURES}/gguf"
os.makedirs(OUT, exist_ok=True)

CASES = {
    "llama": "llama-gqa-tied",
    "llama-bias": "llama-attnbias-mlpbias",
    "llama-rope": "llama-mha-untied-llama3rope",
    "qwen2": "qwen2-bias",
    "qwen3": "qwen3-qknorm",
    "gemma3": "gemma3-text",
    "phi3": "phi3-fused",
    "gpt2": "gpt2-conv1d",
}


def permuted(weight, heads):
    """What convert_hf_to_gguf.py's LlamaModel.permute does."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def converted(arch, config, name, data):
    if arch == "llama" and ".q_proj." in name:
        return permuted(data, config["num_attention_heads"])
    if arch == "llama" and ".k_proj." in name:
        return permuted(data, config["num_key_value_heads"])
    if arch == "gemma3" and name.endswith("norm.weight"):
        return data + 1
    if arch == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return data.T
    return data


def llama3_factors(config):
    """The factors of LlamaModel.generate_extra_tensors."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return None
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    factors = []
    for freq in 1.0 / (config["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)):
        wavelen = 2 * np.pi / freq
        old = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if wavelen < old / high:
            factors.append(1)
        elif wavelen > old / low:
            factors.append(scaling["factor"])
        else:
            smooth = (old / wavelen - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def metadata(writer, arch, config):
    rope = {**config, **(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
    get = lambda *keys: next(config[key] for key in keys if key in config)
    heads = get("num_attention_heads", "n_head")
    hidden = get("hidden_size", "n_embd")
    writer.add_context_length(get("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(hidden)
    writer.add_block_count(get("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    writer.add_head_count(heads)
    if arch == "gpt2":
        return writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    dim = config.get("head_dim") or hidden // heads
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(dim * rope.get("partial_rotary_factor", 1)))
    if "head_dim" in config:
        writer.add_key_length(dim)
        writer.add_value_length(dim)
    if rope.get("rope_type") == "linear":
        writer.add_string(f"{arch}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(rope["factor"])
    if arch == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_uint32("gemma3.attention.sliding_window_pattern", config["sliding_window_pattern"])


def write(file, arch, folder, quantize, vocabulary=None):
    config = json.load(open(f"{folder}/config.json"))
    writer = GGUFWriter(f"{OUT}/{file}.gguf", arch)
    metadata(writer, arch, config)
    if vocabulary:
        vocabulary(writer)
    layers = config.get("num_hidden_layers") or config.get("n_layer")
    names = get_tensor_name_map(next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch), layers)
    factors = llama3_factors(config)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, data in load_file(f"{folder}/model.safetensors").items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target, name
        data = np.ascontiguousarray(converted(arch, config, name, data.float().numpy()))
        if data.ndim == 1:
            writer.add_tensor(target, data)
        else:
            writer.add_tensor(target, quants.quantize(data, quantize), raw_dtype=quantize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_vocabulary(writer):
    tokenizer = json.load(open(f"{FIXTURES}/tiny-llama/tokenizer.json"))
    config = json.load(open(f"{FIXTURES}/tiny-llama/tokenizer_config.json"))
    vocab = tokenizer["model"]["vocab"]
    tokens = dict((id, token) for token, id in vocab.items())
    control = {token["id"] for token in tokenizer["added_tokens"]}
    tokens.update({token["id"]: token["content"] for token in tokenizer["added_tokens"]})
    ordered = [tokens[i] for i in range(len(tokens))]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(ordered)
    writer.add_token_types([3 if i in control else 1 for i in range(len(ordered))])
    writer.add_token_merges(merges)
    ids = {content: i for i, content in enumerate(ordered)}
    for name, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("pad", writer.add_pad_token_id)):
        token = config.get(f"{name}_token")
        if token:
            add(ids[token])
    if config.get("chat_template"):
        writer.add_chat_template(config["chat_template"])


for file, case in CASES.items():
    write(file, file.split("-")[0], f"{FIXTURES}/cases/{case}/base", Q.F16)
write("tiny-llama", "llama", f"{FIXTURES}/tiny-llama", Q.Q8_0, tiny_vocabulary)

random = np.random.default_rng(0)
blocks = {}
for kind in (Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL):
    elements, size = GGML_QUANT_SIZES[kind]
    count = 512 // elements
    data = random.integers(0, 256, (count, size), dtype=np.uint8)
    # Scales are the float16 at the front or the end of a block: those of a model are small and finite.
    places = {Q.Q2_K: (80, 82), Q.Q3_K: (108,), Q.Q6_K: (208,), Q.Q4_1: (0, 2), Q.Q5_1: (0, 2), Q.Q4_K: (0, 2), Q.Q5_K: (0, 2)}
    for at in places.get(kind, (0,)):
        data[:, at : at + 2] = random.normal(0, 0.05, (count, 1)).astype(np.float16).view(np.uint8)
    values = quants.dequantize(data, kind).reshape(-1).astype("<f4")
    encode = lambda array: base64.b64encode(array.tobytes()).decode()
    blocks[kind.name.lower()] = {"blocks": encode(data), "values": encode(values)}
json.dump(blocks, open(f"{OUT}/blocks.json", "w"), indent=1)
