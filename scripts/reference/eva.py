"""Writes test/fixtures/eva: batches, and what PEFT 0.21.2's initialize_lora_eva_weights makes of them on a tiny Llama.

    python scripts/reference/eva.py test/fixtures/eva
"""
import sys
from pathlib import Path

import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.eva import initialize_lora_eva_weights
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

BASE = Path(__file__).parents[2] / "test/fixtures/cases/lora-init-pissa/base"
TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "default": (EvaConfig(), {}),
    "even": (EvaConfig(rho=1.0), {}),
    "whiten": (EvaConfig(rho=1.5, whiten=True, adjust_scaling_factors=False, use_label_mask=False), {"use_rslora": True}),
}


def make_batches(vocab: int) -> list[dict[str, torch.Tensor]]:
    gen = torch.Generator().manual_seed(7)
    frequencies = torch.arange(1, vocab + 1).float() ** -1.2  # skewed, so that directions differ in weight
    rows, width = 4, 24
    batches = []
    for _ in range(3):
        ids = torch.multinomial(frequencies.expand(rows, vocab), width, replacement=True, generator=gen)
        mask, labels = torch.ones(rows, width, dtype=torch.long), ids.clone()
        labels[:, :4] = -100
        for row in range(rows):
            end = width - 3 * row
            mask[row, end:], ids[row, end:], labels[row, end:] = 0, 0, -100
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


def main(out: Path) -> None:
    out.mkdir(exist_ok=True)
    load = lambda: AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    batches = make_batches(load().config.vocab_size)
    save_file({f"micro{i}.{key}": value for i, batch in enumerate(batches) for key, value in batch.items()}, out / "batches.safetensors")
    for name, (eva, more) in ADAPTERS.items():
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights="eva", eva_config=eva,
                            task_type="CAUSAL_LM", **more)
        model = get_peft_model(load(), config)
        model.peft_config["default"].base_model_name_or_path = "base"
        initialize_lora_eva_weights(model, batches, show_progress_bar=False)
        model.save_pretrained(out / name)
        (out / name / "README.md").unlink()


main(Path(sys.argv[1]))
