"""Makes the golden case of a model family or of a task: what Transformers and PEFT compute from a tiny model with random weights.

Usage:
  python scripts/reference/golden_case.py [--task TASK] [--save MODULE]... CONFIG.json test/fixtures/cases/NAME [TARGET ...]

TASK is a name of TASKS below (default: causal), which the oracle finds in scripts/oracle/case-task.ts. CONFIG.json is a config.json of a
tiny model (two layers, dims of a few dozen, all different). TARGET names the modules to adapt (default: all-linear; name them for a
mixture of experts, because PEFT then adapts the experts too, and for a model with a classifier, which is trained in full). MODULE is an
entry of modules_to_save. Texts are three rows of 13, 9 and 6 tokens, padded on the right; a window should be shorter than 12. The folder
gets base/, adapter/ (random, B too), io.safetensors (inputs, labels, logits of both), grads.safetensors, trained/ (after ten steps of
AdamW), merged/ and meta.json with losses and gradient norms.
Made with transformers 5.24.0, peft 0.21.2 and torch 2.15.0.
"""

import argparse
import json
import math
import shutil
import tempfile
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageClassification
from transformers.pytorch_utils import Conv1D

IGNORE = -100
LENGTHS, PROMPTS = [13, 9, 6], [3, 2, 1]
TRAIN = dict(optimizer="adamw", steps=10, lr=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0,
             schedule="constant", warmup_steps=0, max_grad_norm=None)


@torch.no_grad()
def randomize(model, gen):
    """Matrices with variance 1 / fan-in, norms around their first value, biases that are not zero: every term shows."""
    seen = set()
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if id(p) in seen:  # tied
                continue
            seen.add(id(p))
            noise = torch.randn(p.shape, generator=gen)
            if name.endswith("bias"):
                p.copy_(0.2 * noise)
            elif "Norm" in type(module).__name__:
                p.add_(0.2 * noise)
            elif isinstance(module, nn.Embedding):
                p.copy_(0.4 * noise)
            else:
                p.copy_(noise / math.sqrt(p.shape[0 if isinstance(module, Conv1D) else -1]))


def text_batch(config, gen):
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for row, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS)):
        ids[row, :length] = torch.randint(3, config.vocab_size, (length,), generator=gen)  # 0 to 2 are padding, start and end
        mask[row, :length] = 1
        labels[row, prompt:length] = ids[row, prompt:length]
    return {"input_ids": ids, "attention_mask": mask}, labels


def next_token_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


def image_numbers_batch(config, gen, rows=4):
    pixels = torch.randn(rows, config.num_channels, config.image_size, config.image_size, generator=gen)
    return {"pixel_values": pixels}, torch.randn(rows, generator=gen)


def image_classes_batch(config, gen):
    inputs, _ = image_numbers_batch(config, gen)
    return inputs, torch.randint(0, config.num_labels, (len(inputs["pixel_values"]),), generator=gen)


def squared_error(logits, labels):
    return F.mse_loss(logits.squeeze(-1), labels)


# By name: the model's class, its batch as inputs and labels, the loss of its logits, what LoraConfig is given.
TASKS = {
    "causal": (AutoModelForCausalLM, text_batch, next_token_loss, dict(task_type="CAUSAL_LM")),
    "image-class": (AutoModelForImageClassification, image_classes_batch, F.cross_entropy, dict(modules_to_save=["classifier"])),
    "image-regression": (AutoModelForImageClassification, image_numbers_batch, squared_error, dict(modules_to_save=["classifier"])),
}


def tensors_of(model):
    return get_peft_model_state_dict(model, state_dict=model.state_dict(keep_vars=True))


def copies(tensors):
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def load(auto, folder):
    return auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def adapted(auto, case):
    return PeftModel.from_pretrained(load(auto, case / "base"), case / "adapter", is_trainable=True).eval()


def save_weights(model, folder):
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        folder.mkdir()
        shutil.copyfile(Path(place) / "model.safetensors", folder / "model.safetensors")


def main(task, saved, config_file, output, targets):
    auto, batch_of, loss_of, options = TASKS[task]
    if saved:
        options = {**options, "modules_to_save": saved}
    case = Path(output)
    case.mkdir(parents=True)
    gen = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    torch.manual_seed(0)
    keys = json.loads(Path(config_file).read_text())
    config = AutoConfig.for_model(**keys)
    model = auto.from_config(config, attn_implementation="eager").eval()
    randomize(model, gen)
    model.save_pretrained(case / "base")
    (case / "base" / "generation_config.json").unlink(missing_ok=True)

    model = load(auto, case / "base")
    inputs, labels = batch_of(config, gen)
    with torch.no_grad():
        base = model(**inputs).logits
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets or "all-linear", **options)
    model = get_peft_model(model, lora)
    with torch.no_grad():
        for _, p in sorted(tensors_of(model).items()):
            p.copy_(0.1 * torch.randn(p.shape, generator=gen))
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(case / "adapter")
    (case / "adapter" / "README.md").unlink(missing_ok=True)
    written = case / "adapter" / "adapter_config.json"
    fields = json.loads(written.read_text())
    if isinstance(fields["target_modules"], list):  # a set in PEFT: in another order each time
        fields["target_modules"].sort()
    written.write_text(json.dumps(fields, indent=2) + "\n")

    model = adapted(auto, case)  # from here on everything comes from what was written
    with torch.no_grad():
        logits = model(**inputs).logits
    loss = loss_of(model(**inputs).logits, labels)
    loss.backward()
    gradients = {name: p.grad for name, p in tensors_of(model).items()}
    save_file(copies(gradients), case / "grads.safetensors")
    io = {**inputs, "labels": labels, "logits_base": base, "logits_adapter": logits, "loss": loss.detach()}
    save_file({name: tensor.contiguous() for name, tensor in io.items()}, case / "io.safetensors")

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=TRAIN["lr"], betas=tuple(TRAIN["betas"]), eps=TRAIN["eps"], weight_decay=0.0)
    log = {"losses": [], "lrs": [], "grad_norms": []}
    for _ in range(TRAIN["steps"]):
        optimizer.zero_grad(set_to_none=True)
        step = loss_of(model(**inputs).logits, labels)
        step.backward()
        log["losses"].append(step.item())
        log["grad_norms"].append(nn.utils.clip_grad_norm_(parameters, math.inf).item())
        log["lrs"].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    with torch.no_grad():
        after = loss_of(model(**inputs).logits, labels).item()
    (case / "trained").mkdir()
    save_file(copies(tensors_of(model)), case / "trained" / "adapter_model.safetensors", metadata={"format": "pt"})
    save_weights(adapted(auto, case).merge_and_unload(), case / "merged")

    meta = dict(name=case.name, kind="model", family=config.model_type, model_type=config.model_type, task=task,
                outputs=["logits"], micro_batches=1, train=TRAIN, loss=loss.item(), **log, loss_after=after,
                trainable_parameters=sum(p.numel() for p in parameters), trainable_tensors=len(gradients))
    (case / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="causal")
    parser.add_argument("--save", action="append", metavar="MODULE")
    parser.add_argument("config")
    parser.add_argument("output")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    args = parser.parse_args()
    main(args.task, args.save, args.config, args.output, args.targets)
