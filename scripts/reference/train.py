"""The numbers test/unit/optimizer.test.ts and schedule.test.ts compare with, computed by PyTorch, Transformers and PEFT.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python scripts/reference/train.py test/fixtures/train

optimizer.json: one small PEFT model (an embedding and a linear layer with a lora_B bias), fixed gradients, and for each case
the parameters and the moments after the last step, and the norm and the parameters at every step.
schedules.json: the factor on the learning rate at every step.
"""

import json
import math
import sys
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

STEPS = 12
ADAM = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.linear = nn.Linear(3, 4)

    def forward(self, ids):
        return self.linear(self.embed(ids))


def build():
    torch.manual_seed(0)
    # lora_bias=True is refused for embeddings, so the linear layer gets its bias by hand.
    model = get_peft_model(Model(), LoraConfig(r=2, target_modules=["embed", "linear"]))
    model.base_model.model.linear.lora_B["default"].bias = nn.Parameter(torch.zeros(4))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.5)
    return model


def trainable(model):
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def flat(tensors):
    return [x for t in tensors for x in t.detach().flatten().tolist()]


def run(optimizer_of, decay, max_norm, gradients):
    model = build()
    optimizer = optimizer_of(model, decay)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 3, STEPS)
    named = trainable(model)
    thetas, norms = [], []
    for gradient in gradients:
        offset = 0
        for _, p in named:
            p.grad = torch.tensor(gradient[offset : offset + p.numel()]).reshape(p.shape)
            offset += p.numel()
        norms.append(nn.utils.clip_grad_norm_([p for _, p in named], max_norm or math.inf).item())
        optimizer.step()
        schedule.step()
        thetas.append(flat(p for _, p in named))
    state = [optimizer.state[p] for _, p in named]
    return dict(thetas=thetas, norms=norms, m=flat(s["exp_avg"] for s in state), v=flat(s["exp_avg_sq"] for s in state))


def plain(model, decay):
    return torch.optim.AdamW([p for _, p in trainable(model)], weight_decay=decay, **ADAM)


def loraplus(model, decay):
    adam = {k: v for k, v in ADAM.items() if k != "lr"}
    return create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=ADAM["lr"], loraplus_lr_ratio=16, loraplus_weight_decay=decay, **adam)


def optimizers():
    model = build()
    named = trainable(model)
    entries, offset = [], 0
    for name, p in named:
        key = name.replace(".default", "")
        entries.append(dict(key=key, offset=offset, shape=list(p.shape), group="B" if "_B" in key else "A"))
        offset += p.numel()
    generator = torch.Generator().manual_seed(1)
    # Sizes from 1e-4 to 10, and a column of zeros, so that eps and clipping both show.
    gradients = [(torch.randn(offset, generator=generator) * 10 ** (step % 6 - 4)).tolist() for step in range(STEPS)]
    for gradient in gradients:
        gradient[0] = 0.0
    cases = {
        "plain": dict(weightDecay=0.0, maxGradNorm=None),
        "decay": dict(weightDecay=0.1, maxGradNorm=None),
        "clip": dict(weightDecay=0.1, maxGradNorm=0.5),
        "loraplus": dict(weightDecay=0.1, maxGradNorm=0.5, loraPlusRatio=16),
    }
    for case in cases.values():
        make = loraplus if "loraPlusRatio" in case else plain
        case.update(run(make, case["weightDecay"], case["maxGradNorm"], gradients))
    return dict(steps=STEPS, warmup=3, learningRate=ADAM["lr"], beta1=0.9, beta2=0.999, eps=1e-8, entries=entries,
                theta=flat(p for _, p in named), gradients=gradients, cases=cases)


def schedules():
    rows = []
    for name in ["constant", "linear", "cosine"]:
        for warmup, steps in [(0, 7), (3, 11), (5, 5), (4, 3), (1, 2), (0, 1)]:
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            make = getattr(transformers, f"get_{name}_schedule_with_warmup")
            schedule = make(optimizer, warmup) if name == "constant" else make(optimizer, warmup, steps)
            factors = []
            for _ in range(steps + 2):
                factors.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
            rows.append(dict(name=name, warmup=warmup, steps=steps, factors=factors))
    return rows


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name, value in [("optimizer", optimizers()), ("schedules", schedules())]:
        (out / f"{name}.json").write_text(json.dumps(value) + "\n")
