"""Writes the LoRA fixtures: what PEFT 0.21.2 does with configurations, expressions and an adapter folder.

Usage:
  python scripts/reference/peft_lora.py matching test/fixtures/lora/peft-matching.json
      Tiny models and configurations: the modules PEFT adapts, with rank, alpha and scale, and the targets it saves,
      or the error it raises. Also what Python's re.fullmatch says of expressions and paths.
  python scripts/reference/peft_lora.py load BASE ADAPTER test/fixtures/lora/peft-loaded.json
      Loads the adapter folder onto a base with PeftModel.from_pretrained: the factors and scales PEFT then holds, the
      difference the adapter makes to the logits, and the same from the factors by hand.
"""

import json
import re
import sys
import tempfile
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaForSequenceClassification, OPTConfig, OPTForCausalLM
from transformers.pytorch_utils import Conv1D

LLAMA = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2)
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, num_hidden_layers=2)),
    "llama-12-layers": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, num_hidden_layers=12)),
    "llama-classifier": lambda: LlamaForSequenceClassification(LlamaConfig(**LLAMA, num_hidden_layers=1, num_labels=3, pad_token_id=0)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=16)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(vocab_size=64, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2)),
}

# (model, fields of LoraConfig)
CASES = [
    ("llama", {}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": "All-Linear", "task_type": "CAUSAL_LM"}),
    ("llama", {"target_modules": ["q_proj", "mlp.down_proj"], "r": 3, "lora_alpha": 7}),
    ("llama", {"target_modules": ["model.layers.1.self_attn.v_proj", "k_proj"]}),
    ("llama", {"target_modules": ["proj"]}),
    ("llama", {"target_modules": ["self_attn"]}),
    ("llama", {"target_modules": r".*\.(q|k)_proj"}),
    ("llama", {"target_modules": r"model\.layers\.\d+\.mlp\.(?:gate|up)_proj"}),
    ("llama", {"target_modules": r"(?i).*Q_PROJ"}),
    ("llama", {"target_modules": r"^(?!.*layers\.0).*self_attn\.(?P<name>[qv])_proj$"}),
    ("llama", {"target_modules": r".*(?<=attn\.)o_proj\Z"}),
    ("llama", {"target_modules": r"q_proj"}),
    ("llama", {"target_modules": r"model.*"}),
    ("llama", {"target_modules": r".*layers\.[^1]\..*_proj", "exclude_modules": r".*(k|up)_proj"}),
    ("llama", {"target_modules": "all-linear", "exclude_modules": ["mlp.gate_proj", "model.layers.0.self_attn.q_proj"]}),
    ("llama", {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}),
    ("llama", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": 1}),
    ("llama", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0], "layers_pattern": "layers"}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["blocks", "lay.rs"]}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": r"(model\.)?layers"}),
    ("llama", {"target_modules": ["q_proj", "model.layers.0.mlp.up_proj"], "layers_to_transform": [1]}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": []}),
    ("llama", {"target_modules": r".*q_proj", "layers_to_transform": [1]}),
    ("llama", {"target_modules": ["q_proj"], "layers_pattern": "layers"}),
    ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {"q_proj": 3, r"layers\.1\..*": 5}}),
    ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {r"layers\.1\..*": 5, "q_proj": 3}}),
    ("llama", {"target_modules": ["q_proj", "o_proj"], "rank_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 2, "k_proj|[a-p]_proj": 7, "self_attn.o_proj": 6}}),
    ("llama", {"target_modules": ["q_proj", "o_proj"], "alpha_pattern": {r"layers\.[01]\.self_attn\.q_proj": 5, "o_pro.": 1}, "use_rslora": True}),
    ("llama", {"target_modules": "all-linear", "rank_pattern": {r"(q|k|v)_proj": 2, "mlp.*": 4}, "alpha_pattern": {".*": 3}, "r": 16, "use_rslora": True}),
    ("llama", {"target_modules": ["q_proj"], "rank_pattern": {"attn.q_proj": 2, r"self_attn\.q_proj|k_proj": 4}}),
    ("llama-12-layers", {"target_modules": "all-linear"}),
    ("llama-12-layers", {"target_modules": "all-linear", "exclude_modules": r".*layers\.(1|11)\..*"}),
    ("llama-12-layers", {"target_modules": ["q_proj"], "layers_to_transform": [1, 11]}),
    ("llama-12-layers", {"target_modules": ["k_proj"], "rank_pattern": {r"layers\.1\..*": 2, r"1\.self_attn\.k_proj": 3, r".*[0-9]{2}.*": 4}}),
    ("llama-12-layers", {"target_modules": ["1.self_attn.q_proj"]}),
    ("llama-classifier", {"target_modules": "all-linear", "task_type": "FEATURE_EXTRACTION"}),
    ("gpt2", {}),
    ("gpt2", {"target_modules": "all-linear", "lora_alpha": 4}),
    ("gpt2", {"target_modules": ["attn.c_proj"], "layers_to_transform": [1], "layers_pattern": "h"}),
    ("gpt_neox", {}),
    ("gpt_neox", {"target_modules": "all-linear", "fan_in_fan_out": True}),
    ("opt", {"target_modules": ["fc1"], "layers_to_transform": [0]}),
    ("opt", {}),
]

PATHS = ["", "a", "q_proj", "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj", "Model.Layers.3", "a b-c_1", "é.ß.x²", "aaab\n"]
EXPRESSIONS = [
    "", ".", ".*", "a", "a|", "|a", ".*?", ".+?", r"[^.]+", r"[^.]*\.?[^.]*", r"(a|b)*", r"(?:a|ab)(?:b\n)?", r"a{3}b\s", r"a{,2}.*", r"a{2,}b\n", "a{", "a{,}b.*",
    r".*\.q_proj", r".*(?:q|down)_proj$", r"^model.*", r"\Amodel\..*\Z", r"(?i)model\.layers\.3", r"(?i:m)odel\.Layers\.3", r"(?i:model)\.layers\.3",
    r"(?s).*", r"aaab$", r"aaab$\n", r"(?m)aaab$\n", r"aaab\Z", r"\w+", r"[\w.]+", r"[\w\s-]+", r"\S+", r"[^\W\d]+", r"é\.ß\.x\w", r"\x61", r"\u0061", r"\141", r"\0141",
    r"[a-c]", r"[]a]", r"[^]]", r"[a-]", r"[-a]", r"[\]a]", r"(?P<x>a)", r"(?P<x>a)(?P=x)", r"(a)\1", r"(?>a)", "a++", "a*+", r"(?(1)a|b)", r"(?#note)a", r"(?x) a",
    r".*(?=proj)proj", r".*(?!q_)..proj", r".*(?<=q_)proj", r".*(?<!q_)proj", r".*(?<=q|down_)proj", r".*\bself_attn\b.*", r".*\Bproj", r"\bq_proj", r".*\.(\d+)\..*", r".*[0-9]{2}.*",
    "(", ")", "[", "a**", "*a", "a{2}{3}", "(?i", "a(?i)", "(?<x>a)", r"\q", "\\", "[b-a]", "(?P<1>a)", "a{3,2}", "^*", "(?)", "{2}", "(^)*a", "(?=a)*a", "(a*)*b\n", "(a*)+b\\s", "((a|b)*?)*\n",
]


def modules_of(model):
    output = model.get_output_embeddings()
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            row = {"path": path, "kind": "linear", "inFeatures": module.in_features, "outFeatures": module.out_features}
        elif isinstance(module, Conv1D):
            row = {"path": path, "kind": "conv1d", "inFeatures": module.weight.shape[0], "outFeatures": module.weight.shape[1]}
        elif isinstance(module, torch.nn.Embedding):
            row = {"path": path, "kind": "embedding", "inFeatures": module.num_embeddings, "outFeatures": module.embedding_dim}
        else:
            continue
        if module is output:
            row["isOutputEmbedding"] = True
        if path in ("score", "classifier"):
            row["isClassifierHead"] = True
        yield row


def adapted(model):
    for path, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            yield {
                "path": path, "rank": module.r["default"], "alpha": module.lora_alpha["default"], "scale": module.scaling["default"],
                "inFeatures": module.lora_A["default"].weight.shape[1], "outFeatures": module.lora_B["default"].weight.shape[0],
            }


def run_case(name, fields):
    case = {"model": name, "config": fields}
    try:
        model = get_peft_model(MODELS[name](), LoraConfig(**fields))
    except Exception as error:
        return {**case, "error": f"{type(error).__name__}: {str(error)[:120]}"}
    with tempfile.TemporaryDirectory() as folder:
        model.peft_config["default"].save_pretrained(folder)
        saved = json.load(open(f"{folder}/adapter_config.json"))
    targets = saved["target_modules"]
    return {
        **case, "modules": list(adapted(model)), "fan_in_fan_out": saved["fan_in_fan_out"],
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
    }


def fullmatch(expression, path):
    try:
        return re.fullmatch(expression, path) is not None
    except re.error:
        return None


def matching(out):
    models = {}
    for name, make in MODELS.items():
        model = make()
        models[name] = {"modelType": model.config.model_type, "modules": list(modules_of(model))}
    rows = [[e, [fullmatch(e, path) for path in PATHS]] for e in EXPRESSIONS]
    write(out, {"models": models, "cases": [run_case(*case) for case in CASES], "paths": PATHS, "expressions": rows})


def load(base, adapter, out):
    torch.manual_seed(0)
    ids = torch.arange(1, 13).reshape(2, 6)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        before = plain(input_ids=ids).logits
    model = PeftModel.from_pretrained(plain, adapter).eval()
    stored = load_file(f"{adapter}/adapter_model.safetensors")
    state = {k.replace(".default", ""): v for k, v in model.state_dict().items() if "lora_" in k}
    assert state.keys() == stored.keys() and all(torch.equal(state[k], stored[k]) for k in stored), "factors differ"
    with torch.no_grad():
        after = model(input_ids=ids).logits
    rows = list(adapted(model))
    # The same by hand: W + scale B A in every adapted module.
    by_hand = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for row in rows:
        prefix = f"base_model.model.{row['path']}"
        delta = row["scale"] * stored[f"{prefix}.lora_B.weight"] @ stored[f"{prefix}.lora_A.weight"]
        by_hand.get_submodule(row["path"]).weight.data += delta
        row["normDelta"] = delta.norm().item()
    with torch.no_grad():
        merged = by_hand(input_ids=ids).logits
    write(out, {
        "modules": rows,
        "sums": {k: [v.double().sum().item(), v.double().pow(2).sum().item()] for k, v in sorted(state.items())},
        "logits_change": (after - before).abs().max().item(),
        "logits_from_factors_off_by": (after - merged).abs().max().item(),
    })


def write(path, value):
    with open(path, "w") as file:
        # One line for each row of a list at the second level keeps differences readable.
        text = json.dumps(value, indent=1, ensure_ascii=False)
        file.write(re.sub(r"\n {3,}|\n {2}(?=[\]}])", " ", text) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    command, *arguments = sys.argv[1:]
    {"matching": matching, "load": load}[command](*arguments)
