"""What Transformers, PEFT and scikit-learn make of the same records as lowrank, for test/commands/evaluate-tasks.test.ts and
test/tasks/parity.test.ts.

    pip install torch==2.15.0 transformers==5.24.0 peft==0.21.2 scikit-learn==1.9.1 pillow
    python scripts/reference/tasks.py

writes test/fixtures/tasks: records of each task, their images, adapters, and expected.json. That has the losses of five steps of
AdamW that go on with the adapters of test/fixtures/cases on a batch of all records, in float32, dropout off; and the measures of the
tiny models there over the records, without and with the adapters that more such steps give (in float64, one batch of all records; of
the contrastive model also the loss in batches of 5, the longest texts first).
"""

import json
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from transformers import BertForSequenceClassification, CLIPModel, PreTrainedTokenizerFast, ViTForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

FIXTURES = Path(__file__).resolve().parents[2] / "test/fixtures"
CASES, OUT = FIXTURES / "cases", FIXTURES / "tasks"
CLASSES = {"bert": BertForSequenceClassification, "vit": ViTForImageClassification, "clip": CLIPModel}
FOLDERS = {"bert": "bert-seqcls", "vit": "vit-imgcls", "clip": "clip-contrastive"}
TRAINING = {"learning_rate": 5e-3, "weight_decay": 0.01, "max_grad_norm": 1.0, "steps": 5}
LONGER = {"learning_rate": 2e-2, "weight_decay": 0.0, "max_grad_norm": 1.0}
STEPS = {"bert": 4, "vit": 9, "clip": 6}
TEMPLATE, NAMES = "a photo of a {}", ["large bird", "cat", "dog"]

TEXTS = [
    ("I love this film", 0),
    ("a dull story, from the start to the end of it", 1),
    ("the cat sat on the mat.", 2),
    (("does the film end well?", "yes, the end is a joy"), 0),
    ("it is small", 1),
    (("the dog", "a large bird and a small cat on the mat in the evening, from start to end"), 2),
    ("a joy", 0),
    ("dull", 2),
    (("is it a dog?", "it is"), 1),
    ("we love the evening; this is it", 0),
    ("Film, film, film: a photo of a film", 2),
    ("the end of the story is a joy to love, and the start is dull, and the film is from the evening", 1),
]
CAPTIONS = ["a photo of a cat", "the dog sat", "a large bird", "it is a film", "the evening", "a small mat", "love", "this is the end", "a dull story",
            "a joy to all of us", "the cat and the dog", "a bird on the mat"]
# Two captions of image 3 and of image 7; some images are seen under one name by classifiers, and have one caption here.
CAPTIONED = [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9]


def write_records():
    (OUT / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(4)
    for i in range(12):
        height, width = rng.integers(10, 24, 2)
        ramp = np.linspace(0, 1, width)[None, :, None] * rng.integers(0, 256, 3) + np.linspace(0, 1, height)[:, None, None] * rng.integers(0, 256, 3)
        pixels = np.clip(ramp / 2 + rng.integers(0, 60, (height, width, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(OUT / f"images/{i}.png", optimize=True)
    labels = rng.integers(0, 5, 12).tolist()
    pairs = [t if isinstance(t, tuple) else (t, "") for t, _ in TEXTS]
    rows = {
        "texts": [{"text": a, "text_pair": b, "label": label} for (a, b), (_, label) in zip(pairs, TEXTS)],
        "images": [{"image": f"images/{i}.png", "label": label} for i, label in enumerate(labels)],
        "pairs": [{"image": f"images/{i}.png", "text": text} for i, text in zip(CAPTIONED, CAPTIONS)],
        "named": [{"image": f"images/{i}.png", "label": NAMES[i % 3]} for i in range(12)],
    }
    for name, records in rows.items():
        (OUT / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return rows


def tokenizer(name):
    folder = FIXTURES / "tokenizers" / name
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("tokenizer_class")
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **config)


def pixels(names):
    made = CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return made([Image.open(OUT / name) for name in names], return_tensors="pt")["pixel_values"]


def inputs_of(rows):
    bert, clip = tokenizer("bert-style"), tokenizer("clip-style")
    # A second text that is empty is none at all: the records of one file are of one kind.
    second = [row["text_pair"] for row in rows["texts"]]
    texts = bert([row["text"] for row in rows["texts"]], second, truncation=True, padding=True, return_tensors="pt", return_token_type_ids=True)
    captions = clip([row["text"] for row in rows["pairs"]], truncation=True, padding=True, return_tensors="pt")
    captions.pop("token_type_ids", None)
    return {
        "bert": {**texts, "labels": torch.tensor([row["label"] for row in rows["texts"]])},
        "vit": {"pixel_values": pixels(row["image"] for row in rows["images"]), "labels": torch.tensor([row["label"] for row in rows["images"]])},
        "clip": {**captions, "pixel_values": pixels(row["image"] for row in rows["pairs"])},
    }


def model_of(name, adapter=None, trainable=False):
    model = CLASSES[name].from_pretrained(CASES / FOLDERS[name] / "base", attn_implementation="eager")
    return (PeftModel.from_pretrained(model, adapter, is_trainable=trainable) if adapter else model).eval()


def as_double(inputs):
    return {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}


def classified(logits, labels, count):
    predicted, loss = logits.argmax(-1).tolist(), torch.nn.functional.cross_entropy(logits, labels).item()
    expected = labels.tolist()
    return {
        "loss": loss,
        "accuracy": accuracy_score(expected, predicted),
        "macro_f1": f1_score(expected, predicted, average="macro", zero_division=0),
        "predicted": predicted,
        "confusion": confusion_matrix(expected, predicted, labels=list(range(count))).tolist(),
    }


def recall(scores, right):
    order = np.argsort(-scores, axis=1, kind="stable")
    return {str(k): float(np.mean([right(q, order[q, :k]) for q in range(len(order))])) for k in (1, 5, 10)}


def contrastive(model, inputs):
    out = model(**inputs, return_loss=True)
    order = sorted(range(len(CAPTIONS)), key=lambda i: -int(inputs["attention_mask"][i].sum()))
    total = 0
    for start in range(0, len(order), 5):
        own = order[start : start + 5]
        total += model(**{key: value[own] for key, value in inputs.items()}, return_loss=True).loss.item() * len(own)
    image_of = np.array(CAPTIONED)
    first = [CAPTIONED.index(i) for i in range(10)]
    scores = out.logits_per_image.numpy()[first]
    return {
        "loss": out.loss.item(),
        "loss_5": total / len(order),
        "image_to_text": recall(scores, lambda q, found: bool((image_of[found] == q).any())),
        "text_to_image": recall(scores.T, lambda q, found: bool((found == image_of[q]).any())),
    }


def zero_shot(model, rows):
    labels = sorted(NAMES)
    captions = tokenizer("clip-style")([TEMPLATE.format(label) for label in labels], truncation=True, padding=True, return_tensors="pt")
    captions.pop("token_type_ids", None)
    out = model(**captions, pixel_values=pixels(row["image"] for row in rows).double())
    return classified(out.logits_per_image, torch.tensor([labels.index(row["label"]) for row in rows]), len(labels))


def trained(name, inputs, steps, learning_rate, weight_decay, max_grad_norm):
    model = model_of(name, CASES / FOLDERS[name] / "adapter", trainable=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    losses = []
    for _ in range(steps):
        loss = model(**inputs, **({"return_loss": True} if name == "clip" else {})).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
    return model, losses


def main():
    rows = write_records()
    inputs = inputs_of(rows)
    expected = {"training": TRAINING, "template": TEMPLATE}
    for name, own in inputs.items():
        expected[name] = {"losses": trained(name, own, **TRAINING)[1]}
        adapter = OUT / f"{name}-adapter"
        trained(name, own, STEPS[name], **LONGER)[0].save_pretrained(adapter)
        (adapter / "README.md").unlink(missing_ok=True)
        for kind, given in (("base", None), ("adapter", adapter)):
            model = model_of(name, given).double()
            with torch.no_grad():
                if name == "clip":
                    expected[name][kind] = {**contrastive(model, as_double(own)), "zero_shot": zero_shot(model, rows["named"])}
                else:
                    logits = model(**{key: value for key, value in as_double(own).items() if key != "labels"}).logits
                    expected[name][kind] = classified(logits, own["labels"], logits.shape[1])
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
