"""An adapter of Mixtral under Transformers 4's names of experts, and what PEFT makes of it, for test/adapters/places.test.ts.

    python scripts/reference/older_experts.py

writes test/fixtures/older-experts/adapter-v4 (each expert's layers by themselves) and adapter (saved again by PEFT). Needs peft 0.21.
"""

import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = Path(__file__).resolve().parents[2] / "test/fixtures"
CASE = FIXTURES / "cases/mixtral-all-linear"
OUT = FIXTURES / "older-experts"
RANK = 2
TARGETS = ["q_proj", "w1", "w2", "w3", "gate"]

torch.manual_seed(0)
config = json.loads((CASE / "adapter/adapter_config.json").read_text())
own = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": TARGETS, "target_parameters": None}
config.update(own, rank_pattern={}, alpha_pattern={})
tensors = {}
for name, weight in load_file(CASE / "base/model.safetensors").items():
    if name.removesuffix(".weight").split(".")[-1] in TARGETS:
        path = "base_model.model." + name.removesuffix(".weight")
        tensors[f"{path}.lora_A.weight"] = torch.randn(RANK, weight.shape[1]) * 0.3
        tensors[f"{path}.lora_B.weight"] = torch.randn(weight.shape[0], RANK) * 0.3
older = OUT / "adapter-v4"
older.mkdir(parents=True, exist_ok=True)
(older / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
save_file(tensors, older / "adapter_model.safetensors", metadata={"format": "pt"})
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(CASE / "base"), older)
model.save_pretrained(OUT / "adapter")
(OUT / "adapter/README.md").unlink(missing_ok=True)
