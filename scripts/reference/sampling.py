"""Writes test/fixtures/generate/sampling.json: what Transformers 5.23.0 makes of logits, through the processors that
`generate` itself builds, so that their order is its own.

Usage: python scripts/reference/sampling.py
"""

import json

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

VOCAB = 60
LARGE = 150_000

CASES = {
    "nothing": {},
    "temperature": {"temperature": 0.7},
    "high temperature": {"temperature": 1.9},
    "top-k": {"top_k": 5},
    "top-k 1": {"top_k": 1},
    "top-k above the vocabulary": {"top_k": 500},
    "top-k with ties": {"top_k": 3, "logits": "ties"},
    "top-p": {"top_p": 0.9},
    "low top-p": {"top_p": 0.1},
    "tiny top-p": {"top_p": 1e-6},
    "high top-p": {"top_p": 0.999},
    "top-p with ties": {"top_p": 0.6, "logits": "ties"},
    "top-p at the border": {"top_p": 0.8, "logits": "border"},
    "top-p of equal logits": {"top_p": 0.5, "logits": "flat"},
    "repetition": {"repetition_penalty": 1.3},
    "repetition below 1": {"repetition_penalty": 0.8},
    "all": {"temperature": 0.8, "top_k": 12, "top_p": 0.85, "repetition_penalty": 1.1},
    "all, masked logits": {"temperature": 1.4, "top_k": 30, "top_p": 0.95, "repetition_penalty": 1.2, "logits": "masked"},
    "greedy": {"do_sample": False, "temperature": 0.3, "top_k": 2, "top_p": 0.1, "repetition_penalty": 1.5},
}

LARGE_CASES = {
    "large, top-k": {"top_k": 50},
    "large, top-p": {"top_p": 0.9},
    "large, all": {"temperature": 0.6, "top_k": 2000, "top_p": 0.95, "repetition_penalty": 1.05},
}


def large_logits():
    """Numbers that float32 holds exactly, which the test makes by the same formula."""
    ids = torch.arange(LARGE, dtype=torch.int64)
    return ((((ids * 2654435761) % 2**32) >> 8).double() / 2**20 - 8).float()


def main():
    torch.manual_seed(7)
    logits = {
        "plain": torch.randn(VOCAB) * 2.5,
        "ties": (torch.randn(VOCAB) * 2).round(),
        "border": torch.log(torch.tensor([0.3, 0.2, 0.5])),
        "flat": torch.zeros(10),
        "masked": torch.where(torch.arange(VOCAB) % 3 == 0, -torch.inf, torch.randn(VOCAB) * 2),
        "large": large_logits(),
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    # A left-padded prompt: the penalty must leave the padding's id 9 alone.
    prompt = torch.tensor([[9, 9, 3, 17, 3, 44, 58]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])

    def processed(options):
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, **options}
        name = options.pop("logits", "plain")
        config = GenerationConfig(**options)
        processors = model._get_logits_processor(config, prompt.shape[1], model_kwargs={"attention_mask": mask}, device="cpu")
        scores = processors(prompt, logits[name][None].clone())[0]
        shown = {key: value for key, value in options.items() if key != "do_sample"}
        if not options["do_sample"]:
            shown["temperature"] = 0
        return name, shown, scores

    rows, large = [], []
    for title, options in CASES.items():
        name, shown, scores = processed(options)
        probabilities = scores.softmax(-1).tolist()
        finite = [score if score > -torch.inf else None for score in scores.tolist()]
        rows.append({"name": title, "logits": name, "options": shown, "scores": finite, "probabilities": probabilities, "argmax": scores.argmax().item()})
    for title, options in LARGE_CASES.items():
        _, shown, scores = processed({**options, "logits": "large"})
        kept = torch.nonzero(scores > -torch.inf)[:, 0]
        large.append({"name": title, "options": shown, "kept": kept.numel(), "idSum": kept.sum().item(), "scoreSum": scores[kept].double().sum().item()})
    inputs = {name: [v if v > -torch.inf else None for v in values.tolist()] for name, values in logits.items() if name != "large"}
    with open("test/fixtures/generate/sampling.json", "w") as file:
        json.dump({"seen": sorted(set(prompt[0][mask[0] == 1].tolist())), "logits": inputs, "rows": rows, "largeVocab": LARGE, "large": large}, file)
        file.write("\n")
    print(len(rows) + len(large), "cases", [row["kept"] for row in large])


if __name__ == "__main__":
    main()
