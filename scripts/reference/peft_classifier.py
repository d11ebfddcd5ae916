"""Whether Transformers and PEFT tell the classes that `lowrank classify` tells, with an adapter that lowrank trained.

    pip install torch==2.15.0 transformers==5.24.0 peft==0.21.2 pillow
    npx lowrank classify --base BASE --adapter ADAPTER --top 1000 --json < texts.txt > ours.jsonl
    python scripts/reference/peft_classifier.py BASE ADAPTER ours.jsonl

loads the adapter as docs/classification.md says and prints how far the log-probabilities are apart at most. Of a classifier of images
the inputs are their paths.
"""

import json
import sys

import torch
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

base, adapter, ours = sys.argv[1:]
with safe_open(f"{adapter}/adapter_model.safetensors", "pt") as file:
    labels = json.loads(file.metadata()["lowrank.labels"])
is_image = AutoConfig.from_pretrained(base).model_type == "vit"
cls = AutoModelForImageClassification if is_image else AutoModelForSequenceClassification
model = cls.from_pretrained(base, num_labels=len(labels), ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(model, adapter).eval()
apart = 0
with open(ours) as file, torch.no_grad():
    for row in map(json.loads, file):
        if is_image:
            inputs = AutoImageProcessor.from_pretrained(base, backend="pil")(Image.open(row["input"]), return_tensors="pt")
        else:
            inputs = AutoTokenizer.from_pretrained(base)(row["input"], truncation=True, return_tensors="pt")
        theirs = model(**inputs).logits.log_softmax(-1)[0]
        for score in row["scores"]:
            apart = max(apart, abs(theirs[labels.index(score["label"])].item() - torch.tensor(score["probability"]).log().item()))
print(f"{len(labels)} classes, log-probabilities at most {apart:.1e} apart")
